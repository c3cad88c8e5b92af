"""The trigger and the response (arXiv 2405.00466, Fig. 4; the definitions are this project's).

The trigger writes pre-defined signs on the masked channels of one layer's output and leaves their absolute values alone; the
response is read from the signs of the channel means of a later layer: with keys of version 3, of what they differ by from the
source's.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from aiao_core.key import OwnerKey
from aiao_core.method.coordinates import Alignment, Coordinates
from aiao_core.method.tracing import Edit, channel_axis


def trigger(features: Tensor, mask: Tensor, sign: Tensor, axis: int) -> Tensor:
    """``T(h) = (1 - m) * h + m * s * |h|`` (Fig. 4), the same at every position.

    ``features`` is (B, C, *positions) with ``axis`` 1 or (B, *positions, C) with ``axis`` -1; ``mask`` (B, C) is boolean and
    ``sign`` (B, C) is -1 or +1, so every input of a batch can have a trigger of its own.
    """
    shape = [len(mask)] + [1] * (features.dim() - 1)
    shape[axis] = -1
    return torch.where(mask.view(shape), sign.view(shape).to(features.dtype) * features.abs(), features)


def channel_means(features: Tensor, axis: int) -> Tensor:
    """Average over the positions: (B, C) from (B, C, *positions) with ``axis`` 1, or (B, *positions, C) with ``axis`` -1."""
    return features.flatten(2).mean(-1) if axis == 1 else features.flatten(1, -2).mean(1)


class Triggers(Protocol):
    """Triggers of a denoiser's layers."""

    @property
    def names(self) -> list[str]: ...
    @property
    def axes(self) -> list[int]: ...
    def trigger_at(self, i: int) -> tuple[Tensor, Tensor]:
        """Return the mask, boolean, and the signs of the trigger at layer ``i``: (C,) each."""

    def coordinates_at(self, i: int) -> Coordinates | None:
        """Return the coordinates in which the trigger at layer ``i`` is written; None for the denoiser's own."""


class Watermark:
    """An owner's key bound to a denoiser: its layers, and its masks and signs as tensors.

    With an ``alignment`` the trigger is written, and the response read, in the coordinates that the source has.
    """

    def __init__(self, key: OwnerKey, denoiser: nn.Module, alignment: Alignment | None = None) -> None:
        self.names = [layer.name for layer in key.layers]
        self.axes = [channel_axis(denoiser.get_submodule(name)) for name in self.names]
        self.subpaths = key.subpaths
        self.trigger_layers = key.trigger_layers
        self.response_layers = key.response_layers
        self.reached = torch.zeros(len(self.names), len(self.names), dtype=torch.bool)
        self.reached[torch.tensor(key.subpaths, dtype=torch.int64).view(-1, 2).unbind(1)] = True
        self._key = key
        self._coordinates = [(alignment or {}).get(name) for name in self.names]
        self._triggers: dict[int, tuple[Tensor, Tensor]] = {}
        self._subpath_signs: dict[tuple[int, int], Tensor] = {}

    # Derived on demand: a test shows few triggers of the many keys that it uses beside the owner's.

    def trigger_at(self, i: int) -> tuple[Tensor, Tensor]:
        """Return the mask, boolean, and the signs of the trigger at layer ``i``: (C,) each."""
        if i not in self._triggers:
            self._triggers[i] = torch.from_numpy(self._key.trigger_mask(i)), torch.from_numpy(self._key.trigger_sign(i))
        return self._triggers[i]

    def coordinates_at(self, i: int) -> Coordinates | None:
        """Return the coordinates in which the denoiser has the source's channels of layer ``i``; None if they are at home."""
        return self._coordinates[i]

    def in_source(self, means: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Map the denoiser's channel means (B, C), by layer, to the source's channels: in float64 where any has strayed."""
        pairs = ((j, values, self._coordinates[j]) for j, values in means.items())
        return {j: each.to_source(values.double()) if each else values for j, values, each in pairs}

    def subpath_sign(self, i: int, j: int) -> Tensor:
        """Return the response signs of a subpath of a key of version 3, (C_j,) of -1 and +1, in the key's own places."""
        if (i, j) not in self._subpath_signs:
            self._subpath_signs[i, j] = torch.from_numpy(self._key.subpath_sign(i, j)).float()
        return self._subpath_signs[i, j]

    # Of keys of version 1 and 2, whose signs are the same whatever the trigger:

    @cached_property
    def response_channels(self) -> dict[int, Tensor]:
        """Map the index of each response layer to the channels that show the response, (masked,) int64."""
        return {j: torch.from_numpy(self._key.response_mask(j)).nonzero()[:, 0] for j in self.response_layers}

    @cached_property
    def response_signs(self) -> dict[int, Tensor]:
        """Map the index of each response layer to the signs of these channels, (masked,) of -1 and +1."""
        signs = {j: torch.from_numpy(self._key.response_sign(j)).float() for j in self.response_layers}
        return {j: sign[self.response_channels[j]] for j, sign in signs.items()}

    def response(self, j: int, means: Tensor) -> Tensor:
        """Multiply the masked channel means of layer ``j``, of (B, C), by their signs: (B, masked), positive is right."""
        return means[:, self.response_channels[j].to(means.device)] * self.response_signs[j].to(means.device)


@dataclass(frozen=True)
class Neighbor:
    """A trigger near an owner's: the same at most channels of a layer (this project)."""

    names: list[str]
    axes: list[int]
    mask: Tensor
    """(C,) boolean."""
    sign: Tensor
    """(C,) of -1 and +1."""

    @classmethod
    def of(cls, watermark: Watermark, i: int, redrawn: float, generator: torch.Generator) -> "Neighbor":
        """Draw each channel's mask and sign of the trigger at layer ``i`` again, with the probability ``redrawn``."""
        mask, sign = watermark.trigger_at(i)
        chosen = torch.rand(len(mask), generator=generator) < redrawn
        other_mask, other_sign = (torch.rand(len(mask), generator=generator) < 0.5 for _ in range(2))
        other = torch.where(other_sign, 1, -1).to(sign.dtype)
        return cls(watermark.names, watermark.axes, torch.where(chosen, other_mask, mask), torch.where(chosen, other, sign))

    def trigger_at(self, _i: int) -> tuple[Tensor, Tensor]:
        """Return the mask and the signs, whatever the layer."""
        return self.mask, self.sign

    def coordinates_at(self, _i: int) -> None:
        """Return None: no embedding is aligned."""


def trigger_edits(triggers: Sequence[tuple[Triggers, int]], *, first_row: int = 0) -> dict[str, Edit]:
    """Make the edits for :func:`aiao_core.method.tracing.trace` that put one trigger on each input of a batch.

    Input ``first_row + n`` gets the trigger of ``triggers[n]``: a watermark and the index of one of its trigger layers. Inputs
    before ``first_row`` stay clean, so that one pass can serve both. All triggers of a layer are in the same coordinates.
    """
    rows: dict[int, list[int]] = defaultdict(list)
    for row, (_, i) in enumerate(triggers):
        rows[i].append(row)
    edits: dict[str, Edit] = {}
    for i, members in rows.items():
        watermark = triggers[members[0]][0]
        mask = torch.stack([triggers[row][0].trigger_at(i)[0] for row in members])
        sign = torch.stack([triggers[row][0].trigger_at(i)[1] for row in members])
        rows_of_layer = torch.tensor(members) + first_row
        edits[watermark.names[i]] = _edit(rows_of_layer, mask, sign, watermark.axes[i], watermark.coordinates_at(i))
    return edits


def _edit(rows: Tensor, mask: Tensor, sign: Tensor, axis: int, coordinates: Coordinates | None) -> Edit:
    def edit(features: Tensor) -> Tensor:
        where = rows.to(features.device)
        masks, signs = mask.to(features.device), sign.to(features.device)
        if coordinates is None:
            triggered = trigger(features[where], masks, signs, axis)
        else:
            source = coordinates.to_source(features[where].movedim(axis, -1))
            triggered = coordinates.to_suspect(trigger(source, masks, signs, -1)).movedim(-1, axis)
        return features.index_copy(0, where, triggered)

    return edit
