"""Keys that nobody embedded, read from one model in every way in which a verification reads the owner's."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, kstest

from aiao_core.denoisers import Inputs
from aiao_core.method.watermark import Watermark
from aiao_core.reports.parts import BitTest, Reading, Registration, best_of, counts
from aiao_core.statistics import randomized_p_value
from aiao_core.verification.decoding import Draws, decode, observe
from aiao_core.verification.old_keys import Shouted, View, bit_test
from aiao_core.verification.whisper import Whispered

MANY = 640
"""Wrong keys to read: enough to notice an error in the test, and for its tail."""

TOGETHER = 16
"""Keys whose triggers share a forward pass, as there are hundreds of them."""

Way = tuple[bool, str, bool]
"""Aligned or not, the subpaths, without interference or with it."""


def way(reading: Reading) -> Way:
    return reading.aligned, reading.subpaths, reading.without_interference


def counted(readings: Sequence[Reading], registration: Registration) -> list[Reading]:
    """The readings of a key of version 1 or 2, of which those count that ``registration`` lets count."""
    return [each.model_copy(update={"counts": counts(registration, 2, **_way(each))}) for each in readings]


def _way(reading: Reading) -> dict[str, Any]:
    return reading.model_dump(include={"aligned", "subpaths", "without_interference"})


def read_signs(found: Whispered, seeds: Iterable[bytes]) -> Iterator[list[Reading]]:
    """The readings of a key of version 3 with the owner's triggers and the response signs of each of ``seeds``.

    Triggers and answers do not depend on the response signs, so that these keys cost no pass through the model.
    """
    key = found.key.key
    ways = [
        (aligned, without, torch.cat([each.specific if without else each.plain for each in view.values()]))
        for aligned, view in ((False, found.own), (True, found.aligned))
        if view is not None
        for without in (False, True)
    ]
    for seed in seeds:
        other = replace(key, seed=seed)
        sign = torch.cat([torch.from_numpy(other.subpath_sign(i, j)) for i, j in key.subpaths])
        yield [
            Reading(
                aligned=aligned, subpaths="registered", without_interference=without, counts=without,
                test=BitTest.of(int((answer * sign > 0).sum()), int((answer != 0).sum())),
            )
            for aligned, without, answer in ways
        ]  # fmt: skip


def read(found: Shouted, seeds: Sequence[bytes]) -> Iterator[list[Reading]]:
    """The readings of the key of each of ``seeds`` at the owner's layers, on the draws of ``found``."""
    views = [(False, found.own)] + ([(True, found.aligned)] if found.aligned else [])
    for start in range(0, len(seeds), TOGETHER):
        part = seeds[start : start + TOGETHER]
        for each in zip(*(_read_view(found, view, aligned, part) for aligned, view in views), strict=True):
            yield [reading for of_view in each for reading in of_view]


def _read_view(found: Shouted, view: View, aligned: bool, seeds: Sequence[bytes]) -> list[list[Reading]]:
    keys = {"all": found.key.key, "registered": found.registered}
    marks = [
        {subpaths: Watermark(replace(key, seed=seed), found.denoiser, view.alignment) for subpaths, key in keys.items()}
        for seed in seeds
    ]
    drawn = found.draws
    repeated = Draws(Inputs.concatenated([drawn.inputs] * len(seeds)), drawn.subpaths * len(seeds))
    triggers = [(mark["all"], i) for mark in marks for i, _ in drawn.subpaths]
    triggered = observe(found.denoiser, view.watermark, repeated, triggers)
    readings = []
    for number, mark in enumerate(marks):
        means = {j: values[number * len(drawn) : (number + 1) * len(drawn)] for j, values in triggered.items()}
        decoded = {subpaths: decode(each, drawn, view.baseline, means) for subpaths, each in mark.items()}
        readings.append(
            [
                Reading(aligned=aligned, subpaths=subpaths, without_interference=without, counts=True, test=bit_test(bits))
                for subpaths, each in decoded.items()
                for without, bits in ((False, each.plain), (True, each.without_interference))
            ]
        )
    return readings


def check_coin_tosses(
    readings: Sequence[Sequence[Reading]],
    *,
    ways: int,
    seed: int = 0,
    level: float = 1e-3,
    limits: Sequence[float] = (),
    old: bool = True,
) -> None:
    """Assert that keys that nobody embedded get each sign right by the toss of a coin, in every one of ``ways`` readings.

    The p-value of each reading is uniform, made so by one more toss where it has steps. That of the best reading that counts,
    multiplied by their number, is no smaller than chance alone would have it, be it with a key file or with the service, and
    it is never near a match. ``old`` keys are of version 1 or 2; with later ones those readings count that are specific to the
    owner's triggers.
    """
    random = np.random.default_rng(seed)
    uniform: dict[Way, list[float]] = defaultdict(list)
    for of_key in readings:
        for each in of_key:
            uniform[way(each)].append(randomized_p_value(each.test.matches, each.test.bits, random.random()))
    assert len(uniform) == ways
    for of_way, p_values in uniform.items():
        assert len(p_values) == len(readings)
        assert kstest(p_values, "uniform").pvalue > level, of_way
    for registration in ("service", "key-file") if old else ("service",):
        best = [best_of(counted(of_key, registration) if old else of_key) for of_key in readings]
        assert {test.best_of for test in best} == {ways // (1 if old else 2) if registration == "service" else 2}
        assert min(test.log10_p for test in best) > -9
        for limit in limits:
            hits = sum(test.log10_p <= np.log10(limit) for test in best)
            assert binomtest(hits, len(best), limit, alternative="greater").pvalue > level, (registration, limit)
