"""Does a suspect descend from the owner's model? The Monte Carlo verification and the exact test.

The decision rests on one number. For each masked channel of each response layer the difference between the triggered and the
untriggered mean response, averaged over all draws, has a sign: one decoded bit. The response signs of the key are uniform and
independent of everything that the decoding uses, so for a suspect made without knowledge of the key the number of matches
among n bits is exactly Binomial(n, 1/2), whatever its activations look like (this project).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version

import torch
from torch import Tensor, nn

from aiao_core.alignment import Alignment, Reference, align
from aiao_core.denoisers import Inputs, predict
from aiao_core.errors import InvalidCheckpoint
from aiao_core.inputs import plain_noise
from aiao_core.key import OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.report import BitTest, Input, Interval, LayerResult, Report, SubpathResult
from aiao_core.statistics import clopper_pearson
from aiao_core.tracing import check_layers, trace
from aiao_core.watermark import Watermark, channel_means, trigger_edits

DECOY_DRAWS = 4
"""Draws for one decoy key: the exact test holds for any number, and few are cheap."""

BATCH = 64
"""Inputs in one forward pass."""

Means = dict[int, Tensor]
"""Channel means (draws, C) on the CPU, by the index of the response layer."""


@dataclass(frozen=True)
class Subject:
    """What is being verified, for the report: names and digests, nothing that the test uses."""

    suspect_name: str
    suspect_form: str
    inputs: tuple[Input, ...] = ()
    model_name: str | None = None


@dataclass(frozen=True)
class Draws:
    """Monte Carlo draws of "arbitrary in": a subpath and an input of plain noise each."""

    inputs: Inputs
    subpaths: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.subpaths)

    def first(self, count: int) -> "Draws":
        return Draws(self.inputs[:count], self.subpaths[:count])


@dataclass(frozen=True)
class Decoded:
    """The bits that one key reads from a suspect, by response layer: True where the sign is the key's."""

    difference: dict[int, Tensor]
    triggered: dict[int, Tensor]
    untriggered: dict[int, Tensor]


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

    clean = observe(denoiser, watermark, draws)
    progress(Progress("draws", 1, 2))
    triggered = observe(denoiser, watermark, draws, [(watermark, i) for i, _ in draws.subpaths])
    progress(Progress("draws", 2, 2))
    decoded = decode(watermark, draws, clean, triggered)

    decoys: list[BitTest] = []
    for start in range(0, options.decoys, BATCH // DECOY_DRAWS):
        end = min(start + BATCH // DECOY_DRAWS, options.decoys)
        seeds = [decoy_seed(seed, number) for number in range(start, end)]
        decoys += [_test(decoy.difference) for decoy in decode_decoys(denoiser, key, seeds, draws, clean, alignment)]
        progress(Progress("decoys", end, options.decoys))

    test = _test(decoded.difference)
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
        layers=tuple(_layer_result(key, j, bits) for j, bits in decoded.difference.items()),
        trigger_layers=len(key.trigger_layers),
        strayed_channels=sum(places.strayed for places in alignment.values()) if alignment else None,
        test=test,
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


def make_draws(key: OwnerKey, count: int, generator: torch.Generator) -> Draws:
    """``count`` independent draws for a key: a uniform subpath, x_t of plain noise, uniform timestep, random conditions."""
    chosen = torch.randint(len(key.subpaths), (count,), generator=generator)
    return Draws(
        inputs=plain_noise(key.architecture, key.num_train_timesteps, count, generator),
        subpaths=tuple(key.subpaths[index] for index in chosen.tolist()),
    )


def observe(
    denoiser: nn.Module, watermark: Watermark, draws: Draws, triggers: Sequence[tuple[Watermark, int]] | None = None
) -> Means:
    """Channel means of every response layer for every draw: without a trigger, or with one for each draw.

    The forward pass stops after the last response layer.
    """
    names = [watermark.names[j] for j in watermark.response_layers]
    collected: dict[int, list[Tensor]] = {j: [] for j in watermark.response_layers}
    for start in range(0, len(draws), BATCH):
        part = slice(start, start + BATCH)
        edits = trigger_edits(triggers[part]) if triggers else {}
        with torch.no_grad(), trace(denoiser, capture=names, edit=edits, stop=True) as features:
            predict(denoiser, draws.inputs[part])
        for j, batches in collected.items():
            batches.append(channel_means(features[watermark.names[j]].float(), watermark.axes[j]).cpu())
    means = {j: torch.cat(batches) for j, batches in collected.items()}
    for j, values in means.items():
        if not values.isfinite().all():
            raise InvalidCheckpoint(
                f"layer {watermark.names[j]} of the suspect puts out NaN or infinite values; its weights are damaged, "
                "submit the checkpoint as it was published"
            )
    return means


def decode(watermark: Watermark, draws: Draws, clean: Means, triggered: Means) -> Decoded:
    """The key's bits. Only their comparison with the response signs uses these signs.

    A bit of layer j averages over the draws whose trigger reaches j; the bits without the trigger average over all draws.
    """
    trigger_of = torch.tensor([i for i, _ in draws.subpaths])
    decoded = Decoded({}, {}, {})
    for j in watermark.response_layers:
        used = watermark.reached[trigger_of, j]
        with_trigger = triggered[j][used].sum(0, keepdim=True)
        decoded.difference[j] = _signs(watermark.response(j, with_trigger - clean[j][used].sum(0, keepdim=True)))
        decoded.triggered[j] = _signs(watermark.response(j, with_trigger))
        decoded.untriggered[j] = _signs(watermark.response(j, clean[j].sum(0, keepdim=True)))
    return decoded


def _signs(response: Tensor) -> Tensor:
    """True where a channel of ``response`` (1, masked) has the key's sign. A channel at exactly zero has no sign: it is no bit.

    Which channels these are does not depend on the response signs, so the test of the others stays exact.
    """
    return response[response != 0] > 0


def decode_decoys(
    denoiser: nn.Module,
    key: OwnerKey,
    seeds: Sequence[bytes],
    draws: Draws,
    clean: Means,
    alignment: Alignment | None = None,
) -> list[Decoded]:
    """What keys that nobody embedded read from the suspect, at the owner's layers and on the owner's first draws.

    The keys share the forward passes.
    """
    few = draws.first(DECOY_DRAWS)
    watermarks = [Watermark(replace(key, seed=seed), denoiser, alignment) for seed in seeds]
    repeated = Draws(Inputs.concatenated([few.inputs] * len(seeds)), few.subpaths * len(seeds))
    triggers = [(watermark, i) for watermark in watermarks for i, _ in few.subpaths]
    triggered = observe(denoiser, watermarks[0], repeated, triggers)
    clean = {j: means[: len(few)] for j, means in clean.items()}
    return [
        decode(watermark, few, clean, {j: means[number * len(few) :][: len(few)] for j, means in triggered.items()})
        for number, watermark in enumerate(watermarks)
    ]


def decoy_seed(seed: int, number: int) -> bytes:
    """The seed of a decoy key, reproducible from the report's seed."""
    return sha256(f"aiao/v1/decoy/{seed}/{number}".encode()).digest()


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
