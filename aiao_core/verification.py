"""Does a suspect descend from the owner's model? The Monte Carlo verification and the exact test.

The decision rests on one number: how many of the decoded bits (:mod:`aiao_core.decoding`) have the key's sign. The response
signs of the key are uniform and independent of everything that the decoding uses, so for a suspect made without knowledge of
the key the number of matches among n bits is exactly Binomial(n, 1/2), whatever its activations look like. Of the two readings
the better one decides, and its p-value is doubled (this project).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from torch import Tensor, nn

from aiao_core.alignment import Reference, align
from aiao_core.decoding import (
    BATCH,
    DECOY_DRAWS,
    Decoded,
    Draws,
    Means,
    decode,
    decode_decoys,
    derived_seed,
    make_draws,
    observe,
    observe_baseline,
)
from aiao_core.key import OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.report import BitTest, Input, Interval, LayerResult, Readings, Report, SubpathResult
from aiao_core.statistics import clopper_pearson
from aiao_core.tracing import check_layers
from aiao_core.watermark import Watermark


@dataclass(frozen=True)
class Subject:
    """What is being verified, for the report: names and digests, nothing that the test uses."""

    suspect_name: str
    suspect_form: str
    inputs: tuple[Input, ...] = ()
    model_name: str | None = None


def verify(
    denoiser: nn.Module,
    key: OwnerKey,
    *,
    options: VerificationOptions | None = None,
    subject: Subject,
    source: Reference | None = None,
    progress: ProgressCallback = silent,
) -> Report:
    """Test ``denoiser`` against ``key`` and report. The same seed gives the same numbers.

    With ``source``, channels that have changed places or signs are found first (:mod:`aiao_core.alignment`).
    Raises :class:`aiao_core.errors.TracingError` if the denoiser lacks one of the key's layers, and
    :class:`aiao_core.errors.InvalidCheckpoint` if its activations are not finite.
    """
    options = options or VerificationOptions()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    check_layers(denoiser, key.layers)
    generator = torch.Generator().manual_seed(seed)
    alignment = align(denoiser, key, source) if source else None
    watermark = Watermark(key, denoiser, alignment)
    draws = make_draws(key, options.draws, generator)

    baseline = observe_baseline(denoiser, key, draws, seed, alignment)
    progress(Progress("draws", 1, 2))
    triggered = observe(denoiser, watermark, draws, [(watermark, i) for i, _ in draws.subpaths])
    progress(Progress("draws", 2, 2))
    decoded = decode(watermark, draws, baseline, triggered)

    decoys: list[BitTest] = []
    for start in range(0, options.decoys, BATCH // DECOY_DRAWS):
        end = min(start + BATCH // DECOY_DRAWS, options.decoys)
        seeds = [derived_seed("decoy", seed, number) for number in range(start, end)]
        decoys += [_readings(decoy).best for decoy in decode_decoys(denoiser, key, seeds, draws, baseline, alignment)]
        progress(Progress("decoys", end, options.decoys))

    readings = _readings(decoded)
    test, deciding = readings.best, decoded.plain if readings.plain_decides else decoded.without_interference
    right = [(watermark.response(j, triggered[j][draw : draw + 1]) > 0)[0] for draw, (_, j) in enumerate(draws.subpaths)]
    return Report(
        created_at=datetime.now(UTC),
        software={name: version(name) for name in ("aiao", "torch", "diffusers", "numpy")},
        verdict="match" if test.log10_p <= options.max_log10_p else "no-match",
        max_log10_p=options.max_log10_p,
        model_name=subject.model_name,
        suspect_name=subject.suspect_name,
        suspect_form=subject.suspect_form,
        commitment=key.commitment,
        architecture=key.architecture.fingerprint,
        layers=tuple(_layer_result(key, j, bits) for j, bits in deciding.items()),
        trigger_layers=len(key.trigger_layers),
        strayed_channels=sum(places.strayed for places in alignment.values()) if alignment else None,
        test=test,
        readings=readings,
        triggered_alone=_test(decoded.triggered),
        untriggered=_test(decoded.untriggered),
        vs_rate=_verification_success(right, options.tau),
        rs_rate=_response_success(right, generator),
        tau=options.tau,
        decoys=tuple(decoys),
        subpaths=_per_subpath(watermark, draws, triggered, options.tau),
        inputs=subject.inputs,
        seed=seed,
        draws=len(draws),
    )


def _readings(decoded: Decoded) -> Readings:
    return Readings(plain=_test(decoded.plain), without_interference=_test(decoded.without_interference))


def _test(bits: dict[int, Tensor]) -> BitTest:
    matches = sum(int(layer.sum()) for layer in bits.values())
    total = sum(len(layer) for layer in bits.values())
    return BitTest.of(matches, total)


def _layer_result(key: OwnerKey, j: int, bits: Tensor) -> LayerResult:
    return LayerResult(name=key.layers[j].name, matches=int(bits.sum()), bits=len(bits))


def _verification_success(right: Sequence[Tensor], tau: float) -> Interval:
    """VS-rate (Fig. 5): share of draws with RS >= tau. The draws are independent, so its interval is Clopper-Pearson's."""
    verified = sum(float(signs.float().mean()) >= tau for signs in right)
    low, high = clopper_pearson(verified, len(right))
    return Interval(value=verified / len(right), low=low, high=high, draws=len(right))


def _response_success(right: Sequence[Tensor], generator: torch.Generator) -> Interval:
    """RS-rate (Fig. 5): mean share of right signs.

    The channels of one draw depend on each other; one channel drawn at random from each draw does not depend on the others
    and is right with probability RS-rate, so that these make an exact Clopper-Pearson interval.
    """
    rate = sum(float(signs.float().mean()) for signs in right) / len(right)
    picked = sum(bool(signs[torch.randint(len(signs), (), generator=generator)]) for signs in right)
    low, high = clopper_pearson(picked, len(right))
    return Interval(value=rate, low=low, high=high, draws=len(right))


def _per_subpath(watermark: Watermark, draws: Draws, triggered: Means, tau: float) -> tuple[SubpathResult, ...]:
    """RS and VS of each subpath over all passes with its trigger: one pass serves every later response layer."""
    trigger_of = torch.tensor([i for i, _ in draws.subpaths])
    results = []
    for i, j in watermark.subpaths:
        means = triggered[j][trigger_of == i]
        if len(means):
            rs = (watermark.response(j, means) > 0).float().mean(1)
            vs = float((rs >= tau).float().mean())
            results.append(SubpathResult(trigger=i, response=j, draws=len(means), rs=float(rs.mean()), vs=vs))
    return tuple(results)
