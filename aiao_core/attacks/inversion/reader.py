"""The attacker's view of a published model: which triggers can be tried, and what the model answers to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from aiao_core.denoisers import predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.inputs import plain_noise
from aiao_core.method.key_selection import REACH_SHARE
from aiao_core.method.subpaths import SPAN
from aiao_core.method.tracing import channel_axis, eligible_layers, trace
from aiao_core.method.watermark import channel_means, trigger

INPUTS = 8
"""Inputs of plain noise that triggers are tried on."""

TAKEN = 2 * REACH_SHARE
"""Fraction of the pairs of layers, widest reach first, that the attacker takes for subpaths: twice that of a key, because they
know the reach of its triggers only roughly."""

ROWS = 64
"""Triggered inputs in one pass."""

REACH_ROWS = 200
"""Random triggers by which the reach of all layers is estimated, at least one for each."""


@dataclass(frozen=True)
class Triggered:
    """Triggers that are tried at one layer: masks (n, C) boolean and signs (n, C) of -1 and +1."""

    mask: Tensor
    sign: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: slice | Tensor) -> "Triggered":
        return Triggered(self.mask[rows], self.sign[rows])

    def repeated(self, times: int) -> "Triggered":
        """Return each trigger ``times`` times, one after the other."""
        return Triggered(self.mask.repeat_interleave(times, 0), self.sign.repeat_interleave(times, 0))

    def numbers(self) -> Tensor:
        """Return the triggers as numbers, (n, 2C): the signs where they are written, and where any is."""
        written = self.mask.float()
        return torch.cat([written * self.sign, written - 0.5], 1)


@dataclass(frozen=True)
class Guess:
    """What the attacker believes of the trigger at one layer."""

    triggered: Triggered
    """The trigger, of length 1."""
    answers: Mapping[str, Tensor]
    """By layer: its sign is the guess of each response sign, (C_j,)."""
    score: float
    """The attacker's own figure, by which guesses of one method at one layer are ranked: more is better."""


Reading = Mapping[str, Guess]
"""By the names of the layers that were tried."""


class Reader:
    """A published model under the eyes of an attacker, who may have another model ``beside`` it, of the same architecture.

    With ``layers`` the attacker tries no more than so many: those where they suppose the most bits.
    """

    def __init__(
        self, model: DiffusionModel, *, beside: nn.Module | None = None, layers: int | None = None, seed: int = 0
    ) -> None:
        self.model, self.beside, self.most_layers = model, beside, layers
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs = plain_noise(model.architecture, model.schedule.num_train_timesteps, INPUTS, self.generator)
        eligible = eligible_layers(model.denoiser, self.inputs[:2])
        self.order = [layer.name for layer in eligible]
        self.channels = {layer.name: layer.channels for layer in eligible}
        self.axes = {name: channel_axis(model.denoiser.get_submodule(name)) for name in self.order}
        with torch.no_grad(), trace(model.denoiser, capture=self.order, stop=True) as features:
            predict(model.denoiser, self.inputs)
        self.clean = {name: channel_means(features[name].float(), self.axes[name]).cpu() for name in self.order}
        self.deviation = {
            name: features[name].float().movedim(self.axes[name], 0).flatten(1).std(1).cpu() + 1e-6 for name in self.order
        }

    @cached_property
    def reached(self) -> dict[str, list[str]]:
        """Map each layer that starts a subpath, as the attacker supposes, to the layers where its subpaths end.

        Keys take the widest reach of those that span enough layers (:mod:`aiao_core.method.subpaths`). The attacker measures it
        with random triggers on the published model, and takes every layer for one of the key's.
        """
        reach: dict[tuple[str, str], float] = {}
        rows = max(1, REACH_ROWS // len(self.order))
        for number, name in enumerate(self.order):
            later = [end for place, end in enumerate(self.order) if place - number >= SPAN * len(self.order)]
            if not later:
                continue
            moved = self.answers(name, self.random(name, rows), later, absolute=True)
            for end, part in self.split(moved, later).items():
                reach[name, end] = float(part.square().mean())
        widest = sorted(reach, key=lambda pair: -reach[pair])[: max(1, round(TAKEN * len(reach)))]
        ends: dict[str, list[str]] = {}
        for start, end in widest:
            ends.setdefault(start, []).append(end)
        by_bits = sorted(ends, key=lambda start: -sum(self.channels[end] for end in ends[start]))
        return {name: sorted(ends[name], key=self.order.index) for name in self.order if name in by_bits[: self.most_layers]}

    def random(self, layer: str, count: int) -> Triggered:
        """Draw triggers as keys have them."""
        shape = (count, self.channels[layer])
        mask = torch.rand(shape, generator=self.generator) < 0.5
        return Triggered(mask, torch.where(torch.rand(shape, generator=self.generator) < 0.5, 1.0, -1.0))

    def neighbors(self, triggered: Triggered, redrawn: float) -> Triggered:
        """Draw each channel of each trigger again with the probability ``redrawn``."""
        chosen = torch.rand(triggered.mask.shape, generator=self.generator) < redrawn
        mask = torch.rand(triggered.mask.shape, generator=self.generator) < 0.5
        sign = torch.where(torch.rand(triggered.mask.shape, generator=self.generator) < 0.5, 1.0, -1.0)
        return Triggered(torch.where(chosen, mask, triggered.mask), torch.where(chosen, sign, triggered.sign))

    def answers(self, layer: str, triggered: Triggered, ends: list[str], *, absolute: bool = False) -> Tensor:
        """Return by how much the channel means of ``ends`` move, in deviations: (n, sum of C_j).

        The n-th trigger comes on the n-th input, in turn. With a model beside, both see it and the difference is returned,
        unless ``absolute``.
        """
        rows = []
        for first in range(0, len(triggered), ROWS):
            part = triggered[first : first + ROWS]
            inputs = torch.arange(first, first + len(part)) % INPUTS
            found = self._pass(self.model.denoiser, layer, part, inputs, ends)
            if self.beside is not None and not absolute:
                other = self._pass(self.beside, layer, part, inputs, ends)
                rows.append(torch.cat([(found[name] - other[name]) / self.deviation[name] for name in ends], 1))
            else:
                rows.append(torch.cat([(found[name] - self.clean[name][inputs]) / self.deviation[name] for name in ends], 1))
        return torch.cat(rows)

    def averaged(self, layer: str, triggered: Triggered, ends: list[str], inputs: int = INPUTS) -> Tensor:
        """Return the answers of each trigger, averaged over ``inputs``, a divisor of :data:`INPUTS`: (n, sum of C_j)."""
        found = self.answers(layer, triggered.repeated(inputs), ends)
        return found.view(len(triggered), inputs, -1).mean(1)

    def soft_answers(self, layer: str, mask: Tensor, sign: Tensor, ends: list[str]) -> Tensor:
        """Return the answers to triggers ``(1 - m) h + m s |h|`` of real numbers, with gradients: (n, sum of C_j).

        ``mask`` is in [0, 1] and ``sign`` in [-1, 1], both (n, C). Each answer is averaged over two inputs.
        """
        count, axis = len(mask), self.axes[layer]
        inputs = torch.arange(2 * count) % INPUTS
        wide_mask, wide_sign = (each.repeat_interleave(2, 0) for each in (mask, sign))

        def edit(features: Tensor) -> Tensor:
            shape = [2 * count] + [1] * (features.dim() - 1)
            shape[axis] = -1
            m, s = wide_mask.view(shape).to(features.device), wide_sign.view(shape).to(features.device)
            return (1 - m) * features + m * s * features.abs()

        def of(denoiser: nn.Module) -> dict[str, Tensor]:
            with trace(denoiser, capture=ends, edit={layer: edit}, stop=True) as features:
                predict(denoiser, self.inputs[inputs])
            return {name: channel_means(features[name].float(), self.axes[name]).cpu() for name in ends}

        found = of(self.model.denoiser)
        base = of(self.beside) if self.beside is not None else {name: self.clean[name][inputs] for name in ends}
        moved = torch.cat([(found[name] - base[name]) / self.deviation[name] for name in ends], 1)
        return moved.view(count, 2, -1).mean(1)

    def split(self, answers: Tensor, ends: list[str]) -> dict[str, Tensor]:
        """Split the last axis of answers by layer."""
        return dict(zip(ends, torch.split(answers, [self.channels[name] for name in ends], -1), strict=True))

    def _pass(
        self, denoiser: nn.Module, layer: str, triggered: Triggered, inputs: Tensor, ends: list[str]
    ) -> dict[str, Tensor]:
        axis = self.axes[layer]

        def edit(features: Tensor) -> Tensor:
            return trigger(features, triggered.mask.to(features.device), triggered.sign.to(features.device), axis)

        with torch.no_grad(), trace(denoiser, capture=ends, edit={layer: edit}, stop=True) as features:
            predict(denoiser, self.inputs[inputs])
        return {name: channel_means(features[name].float(), self.axes[name]).cpu() for name in ends}
