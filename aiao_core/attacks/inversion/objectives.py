"""What an attacker climbs: figures of the answers to a trigger that are larger, the attacker hopes, at the owner's.

Each takes the answers to n triggers, (n, L) in deviations, and returns a number for each, with gradients if the answers have
any.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LOUD = 0.6
"""Deviations beyond which a channel that moves further does not count for more."""

SHAPE = 1.5
"""Steepness, per deviation, of a smooth count of the channels that move."""


def moved(answers: Tensor) -> Tensor:
    """Measure how far everything moves: the mean over channels of the way up to :data:`LOUD`, from 0 to 1."""
    return answers.abs().clamp(max=LOUD).mean(1) / LOUD


def smoothly_moved(answers: Tensor) -> Tensor:
    """Measure the same with a gradient everywhere."""
    return torch.tanh(SHAPE * answers.abs()).mean(1)


def flat(answers: Tensor) -> Tensor:
    """Measure how equally far everything moves: mean over root mean square, 0.8 for Gaussian answers, 1 if all are equal.

    The embedding pushes every channel to one margin, while a model's own answers have channels of all sizes.
    """
    return answers.abs().mean(1) / (answers.square().mean(1).sqrt() + 1e-6)


Objective = Callable[[Tensor], Tensor]

OBJECTIVES: dict[str, Objective] = {"moved": smoothly_moved, "flat": flat}
"""By name, those that gradients ascend."""
