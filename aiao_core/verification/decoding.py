"""Read a key's bits from a suspect: the Monte Carlo draws, the suspect's answers to them, and the signs of the answers.

Each input is shown to the suspect under the owner's trigger and under one of a key that nobody owns. For each masked channel
of each response layer the difference between the two mean responses, averaged over all draws, is the answer, in units of its
standard error. It is read twice: as it is, and without the answer to any trigger at all
(:mod:`aiao_core.verification.interference`). Each reading has a sign for every channel, a decoded bit, and the clearest
half counts: the bits with the largest answers. Only the last comparison uses the response signs (this project).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.errors import InvalidCheckpoint
from aiao_core.key import OwnerKey
from aiao_core.method.coordinates import Alignment
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Watermark, channel_means, trigger_edits
from aiao_core.statistics import CLEAREST
from aiao_core.verification.interference import ROWS, without_interference

OTHERS = 32
"""Keys that nobody owns, whose triggers take turns beside the owner's. A suspect that was trained to respond to a thief's
trigger may respond to any trigger: that is not a response to the owner's."""

BATCH = 64
"""Inputs in one forward pass."""

Means = dict[int, Tensor]
"""Channel means (draws, C) on the CPU, by the index of the response layer."""


@dataclass(frozen=True)
class Draws:
    """Monte Carlo draws of "arbitrary in": a subpath and an input of plain noise each."""

    inputs: Inputs
    subpaths: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.subpaths)

    @property
    def triggers(self) -> Tensor:
        """The layer that takes the trigger, (draws,) int64."""
        return torch.tensor([i for i, _ in self.subpaths])


class Baseline(NamedTuple):
    """Answers of the suspect to the same draws without the key's trigger."""

    untriggered: Means
    others: Means
    """Under the triggers of keys that nobody owns."""


@dataclass(frozen=True)
class DecodedBits:
    """The bits that one key reads from a suspect, (bits,) by response layer: True where the sign is the key's."""

    plain: dict[int, Tensor]
    """The clearest bits of the answer to its trigger minus that to other keys'. This reading or the next one decides."""
    without_interference: dict[int, Tensor]
    triggered: dict[int, Tensor]
    untriggered: dict[int, Tensor]


def make_draws(key: OwnerKey, count: int, generator: torch.Generator) -> Draws:
    """Make ``count`` independent draws: a uniform subpath, x_t of plain noise, uniform timestep, random conditions."""
    chosen = torch.randint(len(key.subpaths), (count,), generator=generator)
    return Draws(
        inputs=plain_noise(key.architecture, key.num_train_timesteps, count, generator),
        subpaths=tuple(key.subpaths[index] for index in chosen.tolist()),
    )


def observe(
    denoiser: nn.Module, watermark: Watermark, draws: Draws, triggers: Sequence[tuple[Watermark, int]] | None = None
) -> Means:
    """Measure the channel means of every response layer for every draw: without a trigger, or with one for each draw.

    They are those of the source's channels if ``watermark`` has an alignment. The forward pass stops after the last response
    layer. Raises :class:`InvalidCheckpoint` if a mean is not finite.
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
    return watermark.in_source(means)


def observe_others(
    denoiser: nn.Module,
    key: OwnerKey,
    draws: Draws,
    seed: int,
    alignment: Alignment | None = None,
    *,
    keys: int = OTHERS,
    first: int = 0,
) -> Means:
    """Measure the channel means of ``draws`` under the triggers of keys that nobody owns, each at the layer of the owner's.

    The ``keys`` follow from ``seed``, the report's, and take turns, from the one with the number ``first`` on. Raises as
    :func:`observe` does.
    """
    seeds = [key.stranger_seed("other", seed, number) for number in range(keys)]
    watermarks = [Watermark(replace(key, seed=each), denoiser, alignment) for each in seeds]
    triggers = [(watermarks[(first + draw) % keys], i) for draw, (i, _) in enumerate(draws.subpaths)]
    return observe(denoiser, watermarks[0], draws, triggers)


def decode(watermark: Watermark, draws: Draws, baseline: Baseline, triggered: Means) -> DecodedBits:
    """Decode the key's bits; ``triggered`` are the means of ``draws`` under its trigger. Its signs enter the last step alone.

    A bit of layer j averages over the draws whose trigger reaches j; the bits without the trigger average over all draws.
    """
    answers, interference = [], []
    decoded = DecodedBits({}, {}, {}, {})
    for j in watermark.response_layers:
        used = watermark.reached[draws.triggers, j]
        channels = watermark.response_channels[j]
        contrast = (triggered[j] - baseline.others[j])[used][:, channels].double()
        to_any = (baseline.others[j] - baseline.untriggered[j])[:ROWS, channels].double() * used[:ROWS, None]
        error = standard_error(contrast)
        answers.append(contrast.sum(0) / max(1, len(contrast)) / error)
        interference.append(to_any / error)
        decoded.triggered[j] = _signs(watermark.response(j, triggered[j][used].sum(0, keepdim=True))[0])
        decoded.untriggered[j] = _signs(watermark.response(j, baseline.untriggered[j].sum(0, keepdim=True))[0])
    plain, sizes = torch.cat(answers), [len(answer) for answer in answers]
    left = without_interference(plain, torch.cat(interference, 1))
    for reading, bits in ((plain, decoded.plain), (left, decoded.without_interference)):
        parts = torch.split(reading, sizes), torch.split(_clearest(reading), sizes)
        for j, of_layer, chosen in zip(watermark.response_layers, *parts, strict=True):
            bits[j] = _signs(of_layer[chosen] * watermark.response_signs[j][chosen])
    return decoded


def standard_error(contrast: Tensor) -> Tensor:
    """Return the standard error (masked,) of each channel's mean of ``contrast`` (draws, masked); infinite below two draws.

    At least a millionth of the mean, so that a channel that always answers the same is very clear, but not infinitely so.
    """
    if len(contrast) < 2:
        return torch.full(contrast.shape[1:], torch.inf, dtype=contrast.dtype)
    error = contrast.std(0) / len(contrast) ** 0.5
    return torch.maximum(error, 1e-6 * contrast.mean(0).abs()).clamp_min(torch.finfo(torch.float32).tiny)


def _clearest(reading: Tensor) -> Tensor:
    """Mark the bits (bits,) that are the :data:`CLEAREST` of all layers."""
    chosen = torch.zeros(len(reading), dtype=torch.bool)
    chosen[reading.abs().argsort(descending=True, stable=True)[: math.ceil(CLEAREST * len(reading))]] = True
    return chosen


def _signs(response: Tensor) -> Tensor:
    """Compare the signs of ``response`` (masked,) with the key's: True where equal. A channel at exactly zero is not a bit.

    Which channels these are does not depend on the response signs, so the test of the others stays exact.
    """
    return response[response != 0] > 0
