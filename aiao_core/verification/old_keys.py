"""Read a key of version 1 or 2 from one model in every way that the test knows, with the paper's rates and its controls.

The same passes through the model serve all readings: with its channels in their own places or in those where the source
has them, of all subpaths between the key's layers or of those that the watermark is in, with interference or without (this
project).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aiao_core.key import OwnerKey
from aiao_core.method.coordinates import Alignment
from aiao_core.method.key_check import CheckedKey, check_key
from aiao_core.method.watermark import Watermark
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.protocol import OLD_KEYS_DRAWS
from aiao_core.reports.parts import (
    BitTest,
    Interval,
    LayerResult,
    Reading,
    Registration,
    SubpathResult,
    SubpathSet,
    best_of,
    counts,
)
from aiao_core.verification.alignment import Reference, align
from aiao_core.verification.decoding import Baseline, DecodedBits, Draws, Means, decode, make_draws, observe, observe_others
from aiao_core.verification.rates import response_success, verification_success


@dataclass(frozen=True)
class View:
    """A model's answers with its channels in one arrangement."""

    alignment: Alignment | None
    """None: every channel in its own place."""
    watermark: Watermark
    """The owner's key of all subpaths."""
    baseline: Baseline
    triggered: Means
    decoded: Mapping[SubpathSet, DecodedBits]


@dataclass(frozen=True)
class Shouted:
    """Everything that a key of version 1 or 2 reads from a model."""

    denoiser: nn.Module
    key: CheckedKey
    registered: OwnerKey
    """The key with its own subpaths, as far as the test reads them."""
    seed: int
    draws: Draws
    own: View
    aligned: View | None
    """None without a source; ``own`` itself where every channel was found at home."""
    strayed: int | None
    """Channels of the key's layers that are not at home; None without a source."""

    def readings(self, registration: Registration = "service") -> tuple[Reading, ...]:
        """List every reading of the response; which of them count depends on the ``registration``."""
        views = [(False, self.own)] + ([(True, self.aligned)] if self.aligned else [])
        return tuple(
            reading
            for aligned, view in views
            for subpaths, decoded in view.decoded.items()
            for reading in _readings(decoded, registration, aligned, subpaths)
        )

    def view(self, reading: Reading) -> View:
        """Return the view that a reading belongs to."""
        return self.aligned if reading.aligned and self.aligned else self.own

    def decoys(self, count: int, reading: Reading, progress: ProgressCallback = silent) -> tuple[BitTest, ...]:
        """Test ``count`` keys that nobody embedded, at the owner's layers and on the owner's own draws."""
        view, tests = self.view(reading), []
        for number in range(count):
            seed = self.key.key.stranger_seed("decoy", self.seed, number)
            keys = replace(self.key.key, seed=seed), replace(self.registered, seed=seed)
            watermark, registered = (Watermark(key, self.denoiser, view.alignment) for key in keys)
            triggered = observe(self.denoiser, watermark, self.draws, [(watermark, i) for i, _ in self.draws.subpaths])
            decoded = [decode(each, self.draws, view.baseline, triggered) for each in (watermark, registered)]
            tests.append(best_of([reading for each in decoded for reading in _readings(each)]))
            progress(Progress("decoys", number + 1, count))
        return tuple(tests)

    def rates(self, reading: Reading, tau: float) -> tuple[Interval, Interval]:
        """Return VS-rate and RS-rate (Fig. 5) over the draws whose trigger starts a registered subpath, or over all."""
        view, generator = self.view(reading), torch.Generator().manual_seed(self.seed)
        later = {i: [j for first, j in self.registered.subpaths if first == i] for i, _ in self.registered.subpaths}
        drawn = [(draw, later.get(i, [j])) for draw, (i, j) in enumerate(self.draws.subpaths)]
        rated = [(draw, ends) for draw, ends in drawn if self.draws.subpaths[draw][0] in later] or drawn
        right = []
        for draw, ends in rated:
            j = ends[int(torch.randint(len(ends), (), generator=generator))]
            right.append((view.watermark.response(j, view.triggered[j][draw : draw + 1]) > 0)[0])
        return verification_success(right, tau), response_success(right, generator)

    def subpaths(self, reading: Reading, tau: float, _best_of: int) -> tuple[SubpathResult, ...]:
        """List RS and VS of each registered subpath over all passes with its trigger: one serves all later layers."""
        view, results = self.view(reading), []
        for i, j in self.registered.subpaths:
            means = view.triggered[j][self.draws.triggers == i]
            if len(means):
                rs = (view.watermark.response(j, means) > 0).float().mean(1)
                vs = float((rs >= tau).float().mean())
                results.append(SubpathResult(trigger=i, response=j, draws=len(means), rs=float(rs.mean()), vs=vs))
        return tuple(results)

    def layers(self, reading: Reading) -> tuple[LayerResult, ...]:
        """List the bits of a reading, layer by layer."""
        decoded = self.view(reading).decoded[reading.subpaths]
        bits = decoded.without_interference if reading.without_interference else decoded.plain
        return tuple(
            LayerResult(name=self.registered.layers[j].name, matches=int(each.sum()), bits=len(each))
            for j, each in bits.items()
        )

    def triggered_alone(self, reading: Reading) -> BitTest:
        """Test the signs of the triggered response."""
        return bit_test(self.view(reading).decoded[reading.subpaths].triggered)

    def without_trigger(self, reading: Reading) -> BitTest:
        """Test the same bits without the trigger."""
        return bit_test(self.view(reading).decoded[reading.subpaths].untriggered)


def measure_shout(
    denoiser: nn.Module,
    key: OwnerKey,
    seed: int,
    *,
    draws: int = OLD_KEYS_DRAWS,
    source: Reference | None = None,
    progress: ProgressCallback = silent,
) -> Shouted:
    """Read ``key`` from ``denoiser`` by the draws of ``seed``; ``source`` is a reference of the same seed.

    Raises as :func:`aiao_core.verification.measurement.measure` does.
    """
    checked = check_key(key, denoiser)
    read = set(checked.key.subpaths)
    registered = replace(key, subpaths=tuple(each for each in key.subpaths if each in read) or checked.key.subpaths)
    drawn = make_draws(checked.key, draws, torch.Generator().manual_seed(seed))
    untriggered = observe(denoiser, Watermark(checked.key, denoiser), drawn)
    progress(Progress("draws", 1, 3))

    def look(alignment: Alignment | None) -> View:
        watermark = Watermark(checked.key, denoiser, alignment)
        baseline = Baseline(watermark.in_source(untriggered), observe_others(denoiser, checked.key, drawn, seed, alignment))
        triggered = observe(denoiser, watermark, drawn, [(watermark, i) for i, _ in drawn.subpaths])
        decoded: dict[SubpathSet, DecodedBits] = {
            "all": decode(watermark, drawn, baseline, triggered),
            "registered": decode(Watermark(registered, denoiser, alignment), drawn, baseline, triggered),
        }
        return View(alignment, watermark, baseline, triggered, decoded)

    own, aligned, strayed = look(None), None, None
    progress(Progress("draws", 2, 3))
    if source is not None:
        alignment = align(denoiser, key, seed, source)
        strayed = sum(coordinates.strayed for coordinates in alignment.values())
        aligned = look(alignment) if strayed else own
    progress(Progress("draws", 3, 3))
    return Shouted(denoiser, checked, registered, seed, drawn, own, aligned, strayed)


def bit_test(bits: Mapping[int, Tensor]) -> BitTest:
    """Make the exact test of the bits of all layers, (bits,) each: True where a bit has the key's sign."""
    return BitTest.of(sum(int(layer.sum()) for layer in bits.values()), sum(len(layer) for layer in bits.values()))


def _readings(
    decoded: DecodedBits, registration: Registration = "service", aligned: bool = False, subpaths: SubpathSet = "all"
) -> list[Reading]:
    """List the reading with interference and the one without."""
    readings = []
    for without, bits in (False, decoded.plain), (True, decoded.without_interference):
        counted = counts(registration, 2, aligned=aligned, subpaths=subpaths, without_interference=without)
        readings.append(
            Reading(aligned=aligned, subpaths=subpaths, without_interference=without, counts=counted, test=bit_test(bits))
        )
    return readings
