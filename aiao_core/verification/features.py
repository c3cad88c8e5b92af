"""Features of one layer, as the alignment compares them."""

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Spread of a channel, in units of its mean, up to which it may be the rounding of a constant."""


@dataclass(frozen=True)
class Features:
    """Clean features of one layer; a channel that is constant or not finite has no deviation, and centered values of 0."""

    mean: Tensor
    """(C,) float64; 0 of a channel that is not finite."""
    deviation: Tensor
    """(C,) float64: standard deviation."""
    centered: Tensor
    """(C, samples) float32, which is kept for many layers at once; all that is computed of it is in float64."""
    heads: int | None = None
    """Attention heads that the channels belong to; None in a layer without heads."""

    @classmethod
    def of(cls, features: Tensor, heads: int | None = None) -> "Features":
        """Measure ``features``, (C, samples)."""
        values = features.double()
        values = torch.where(values.isfinite().all(1, keepdim=True), values, 0)
        mean = values.mean(1, keepdim=True)
        deviation = (values - mean).square().mean(1, keepdim=True).sqrt()
        deviation = torch.where(deviation > ROUNDING * mean.abs(), deviation, 0)
        centered = torch.where(deviation > 0, values - mean, 0).float()
        return cls(mean[:, 0], deviation[:, 0], centered, heads if heads and len(features) % heads == 0 else None)

    def __getitem__(self, channels: Tensor) -> "Features":
        return Features(self.mean[channels], self.deviation[channels], self.centered[channels], self.heads)

    @property
    def of_heads(self) -> Tensor:
        """Centered features by head, (heads, size, samples) float64."""
        return self.centered.double().view(self.heads or 1, -1, self.centered.shape[1])

    @property
    def alive(self) -> Tensor:
        """Mark the channels that have a deviation, (C,)."""
        return self.deviation > 0

    @property
    def standardized(self) -> Tensor:
        """Features with mean 0 and variance 1, (C, samples) float64."""
        return standardized(self.centered.double())


def standardized(centered: Tensor) -> Tensor:
    """Divide centered features (..., samples) by their deviation; constants stay 0."""
    deviation = centered.square().mean(-1, keepdim=True).sqrt()
    return centered / torch.where(deviation > 0, deviation, 1)


def correlations(first: Features, second: Features) -> Tensor:
    """Correlate each channel with the same one of the other features, (C,)."""
    return (first.standardized * second.standardized).mean(1)
