"""The coordinates of one layer's output: a map between a suspect's channels and the source's (this project).

A suspect that was re-parametrized computes the source's function in other coordinates: its channels have other places, signs,
scales and offsets, and within an attention head other directions. The map is affine and the same at every position, so it
applies to features and to their means alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Turns:
    """Linear maps of the heads of a layer: invertible ones, not only rotations."""

    forth: Tensor
    """(heads, size, size) float64, from the suspect to the source; heads that were not turned have the unit matrix."""
    back: Tensor
    """Their inverses."""

    @classmethod
    def of(cls, forth: Tensor) -> "Turns":
        return cls(forth, torch.linalg.inv(forth))


@dataclass(frozen=True)
class Coordinates:
    """An invertible affine map of a layer's output: channel k of the source is made of channel ``place[k]`` of the suspect.

    ``source = source_offset + turn(factor * (suspect[place] - suspect_offset))``, without the turn in layers without heads.
    """

    place: Tensor
    """(C,) int64, a permutation."""
    factor: Tensor
    """(C,) float64, never 0."""
    suspect_offset: Tensor
    """(C,) float64, in the source's order."""
    source_offset: Tensor
    """(C,) float64"""
    turns: Turns | None
    moved: Tensor
    """(C,) boolean: channels for which another place, sign, scale, offset or direction was found."""

    @property
    def strayed(self) -> int:
        """Count the channels that are not at home."""
        return int(self.moved.sum())

    def to_source(self, values: Tensor) -> Tensor:
        """Map features or means of the suspect, (..., C), to the source's channels, in their own precision."""
        factor, suspect_offset, source_offset = self._like(values)
        moved = (values[..., self.place.to(values.device)] - suspect_offset) * factor
        return _turned(moved, self.turns.forth if self.turns else None) + source_offset

    def to_suspect(self, values: Tensor) -> Tensor:
        """Undo :meth:`to_source`, to rounding."""
        factor, suspect_offset, source_offset = self._like(values)
        moved = _turned(values - source_offset, self.turns.back if self.turns else None) / factor + suspect_offset
        return moved[..., self.place.argsort().to(values.device)]

    def _like(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.factor.to(values), self.suspect_offset.to(values), self.source_offset.to(values)


Alignment = Mapping[str, Coordinates]
"""Coordinates by the names of the key's layers, of those alone in which some channel has strayed."""


def _turned(values: Tensor, matrices: Tensor | None) -> Tensor:
    """Apply each head's matrix (heads, size, size) to its channels of ``values`` (..., heads * size)."""
    if matrices is None:
        return values
    heads = values.reshape(*values.shape[:-1], *matrices.shape[:2])
    return torch.einsum("hij,...hj->...hi", matrices.to(values), heads).flatten(-2)
