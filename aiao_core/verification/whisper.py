"""Read a key of version 3 from one model in every way that the test knows, with its rates and its controls (this project).

The ways: with its channels as they are or in the coordinates in which the source has them, and each of these as it is
or specific to the owner's triggers (:mod:`aiao_core.verification.differences`). The specific ones alone count.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aiao_core.key import OwnerKey, Subpath
from aiao_core.method.key_check import CheckedKey, check_key
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.protocol import DRAWS
from aiao_core.reports.parts import BitTest, Interval, LayerResult, Reading, Registration, SubpathResult, best_of
from aiao_core.verification.alignment import Reference, find_alignment, reference
from aiao_core.verification.decoding import Draws, Means
from aiao_core.verification.differences import (
    Answers,
    Shown,
    compare,
    in_units_of,
    make_draws,
    observe_draws,
    observe_stand_in,
)
from aiao_core.verification.rates import response_success, verification_success


@dataclass(frozen=True)
class SourceAnswers:
    """What the source shows of itself in a test with a key of version 3."""

    features: Reference
    shown: Shown
    """On the test's draws."""


@dataclass(frozen=True)
class Whispered:
    """Everything that a key of version 3 reads from a model."""

    key: CheckedKey
    seed: int
    draws: Draws
    own: Answers
    """With every channel as it is."""
    aligned: Answers | None
    """None without a source."""
    strayed: int | None
    """Channels of the key's layers that are not at home; None without a source."""
    triggered: Means
    """Channel means under the owner's triggers, beside nothing."""
    untriggered: Mapping[int, Tensor]
    """Channel means without a trigger, less the source's if there is one, (C,) by response layer."""

    def readings(self, _registration: Registration = "service") -> tuple[Reading, ...]:
        """List every reading of the response. Each specific one counts: the signs are bound to source and subpaths."""
        both = _readings(self.key.key, self.own, False)
        return both + (_readings(self.key.key, self.aligned, True) if self.aligned else ())

    def view(self, reading: Reading) -> Answers:
        """Return the answers that a reading is of."""
        return self.aligned if reading.aligned and self.aligned else self.own

    def decoys(self, count: int, reading: Reading, progress: ProgressCallback = silent) -> tuple[BitTest, ...]:
        """Test ``count`` keys that nobody embedded: the owner's own triggers and draws, with signs of other seeds.

        With the channels as in ``reading``.
        """
        tests = []
        for number in range(count):
            key = replace(self.key.key, seed=self.key.key.stranger_seed("decoy", self.seed, number))
            tests.append(best_of(_readings(key, self.view(reading), reading.aligned)))
            progress(Progress("decoys", number + 1, count))
        return tuple(tests)

    def rates(self, reading: Reading, tau: float) -> tuple[Interval, Interval]:
        """Return VS-rate and RS-rate (Fig. 5) of the differences: each draw counts for one subpath at random."""
        generator = torch.Generator().manual_seed(self.seed)
        seen: dict[int, int] = {}
        right = []
        for i, j in self.draws.subpaths:
            row = seen.setdefault(i, 0)
            seen[i] += 1
            right.append(self.view(reading)[i, j].of_draws[row] * _sign(self.key.key, (i, j)) > 0)
        return verification_success(right, tau), response_success(right, generator)

    def subpaths(self, reading: Reading, tau: float, best_of: int) -> tuple[SubpathResult, ...]:
        """List RS and VS of each subpath over its draws, and its own exact test in ``reading``, one of ``best_of``."""
        view, results = self.view(reading), []
        bits = bits_of(self.key.key, view, reading.without_interference)
        for (i, j), answer in view.items():
            rs = (answer.of_draws * _sign(self.key.key, (i, j)) > 0).double().mean(1)
            found = bits.right[i, j]
            results.append(
                SubpathResult(
                    trigger=i,
                    response=j,
                    draws=len(rs),
                    rs=float(rs.mean()),
                    vs=float((rs >= tau).double().mean()),
                    log10_p=BitTest.of(int(found.sum()), len(found), best_of).log10_p,
                )
            )
        return tuple(results)

    def layers(self, reading: Reading) -> tuple[LayerResult, ...]:
        """List the bits of a reading, by response layer: those of all subpaths that end there."""
        right = bits_of(self.key.key, self.view(reading), reading.without_interference).right
        results = []
        for j in self.key.key.response_layers:
            at = torch.cat([bits for (_, end), bits in right.items() if end == j])
            results.append(LayerResult(name=self.key.key.layers[j].name, matches=int(at.sum()), bits=len(at)))
        return tuple(results)

    def triggered_alone(self, _reading: Reading) -> BitTest:
        """Test the signs of the triggered means, beside nothing."""
        key = self.key.key
        means = {(i, j): self.triggered[j][self.draws.triggers == i].mean(0) for i, j in key.subpaths}
        return compare_signs(key, means).test

    def without_trigger(self, _reading: Reading) -> BitTest:
        """Test the signs of the means without a trigger, less the source's if there is one."""
        return compare_signs(self.key.key, {(i, j): self.untriggered[j] for i, j in self.key.key.subpaths}).test


@dataclass(frozen=True)
class Bits:
    """Which bits are right, (bits,) boolean by subpath."""

    right: Mapping[Subpath, Tensor]

    @property
    def test(self) -> BitTest:
        return BitTest.of(sum(int(each.sum()) for each in self.right.values()), sum(map(len, self.right.values())))


def _readings(key: OwnerKey, view: Answers, aligned: bool) -> tuple[Reading, ...]:
    """List the reading as it is, which anybody could have planted who read the signs, and the one that counts."""
    tests = ((specific, bits_of(key, view, specific).test) for specific in (False, True))
    return tuple(
        Reading(aligned=aligned, subpaths="registered", without_interference=specific, counts=specific, test=test)
        for specific, test in tests
    )


def bits_of(key: OwnerKey, answers: Answers, specific: bool) -> Bits:
    """Decode the bits of ``key`` from the answers, as they are or as far as they are specific to the owner's triggers."""
    return compare_signs(key, {at: answer.specific if specific else answer.plain for at, answer in answers.items()})


def compare_signs(key: OwnerKey, values: Mapping[Subpath, Tensor]) -> Bits:
    """Compare the signs of ``values`` (C,) with those of ``key``: the one place where the response signs enter the test.

    A channel at exactly zero is not a bit.
    """
    return Bits({at: (value * _sign(key, at))[value != 0] > 0 for at, value in values.items()})


def _sign(key: OwnerKey, at: Subpath) -> Tensor:
    return torch.from_numpy(key.subpath_sign(*at)).double()


def observe_source(denoiser: nn.Module, key: OwnerKey, seed: int, draws: int = DRAWS) -> SourceAnswers:
    """Measure the source on the draws of ``seed``."""
    drawn = make_draws(key, draws, torch.Generator().manual_seed(seed))
    return SourceAnswers(reference(denoiser, key, seed), observe_draws(denoiser, key, drawn, seed))


def measure_whisper(
    denoiser: nn.Module,
    key: OwnerKey,
    seed: int,
    *,
    draws: int = DRAWS,
    source: SourceAnswers | None = None,
    progress: ProgressCallback = silent,
) -> Whispered:
    """Read ``key``, of version 3, from ``denoiser`` by the draws of ``seed``, of which the ``source`` must be too.

    ``draws`` are those of each trigger layer. Raises as :func:`aiao_core.verification.measurement.measure` does.
    """
    checked = check_key(key, denoiser)
    drawn = make_draws(key, draws, torch.Generator().manual_seed(seed))
    features = reference(denoiser, key, seed)
    progress(Progress("draws", 1, 3))
    shown = observe_draws(denoiser, key, drawn, seed)
    untriggered = {j: features[key.layers[j].name].mean for j in key.response_layers}
    progress(Progress("draws", 2, 3))
    if source is None:
        own = compare(key, drawn, shown, observe_stand_in(denoiser, key, drawn, seed, shown), features)
        progress(Progress("draws", 3, 3))
        return Whispered(checked, seed, drawn, own, None, None, shown.triggered, untriggered)
    own = compare(key, drawn, shown, source.shown, source.features)
    alignment = find_alignment(source.features, features)
    strayed = sum(coordinates.strayed for coordinates in alignment.values())
    addressed = observe_draws(denoiser, key, drawn, seed, alignment) if strayed else shown
    placed = Shown(
        *(in_units_of(source.features, features, alignment, key, means) for means in (addressed.triggered, addressed.others))
    )
    aligned = compare(key, drawn, placed, source.shown, source.features)
    untriggered = {j: mean - source.features[key.layers[j].name].mean for j, mean in untriggered.items()}
    progress(Progress("draws", 3, 3))
    return Whispered(checked, seed, drawn, own, aligned, strayed, shown.triggered, untriggered)
