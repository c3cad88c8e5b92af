"""What an attacker climbs: figures of the answers to a trigger that are larger, the attacker hopes, at the owner's.

Each takes a :class:`Reader`, a layer, triggers and the layers that answer, and returns one number for each trigger, with gradients
if the answers have some.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LOUD = 0.6
"""Deviations beyond which a channel that moves further does not count for more."""

SHAPE = 1.5
"""Steepness, per deviation, of a smooth count of the channels that move."""


def moved(answers: Tensor) -> Tensor:
    """How far everything moves: the mean over channels, (n,) from (n, L), of the way up to :data:`LOUD`."""
    return answers.abs().clamp(max=LOUD).mean(1) / LOUD


def smoothly_moved(answers: Tensor) -> Tensor:
    """The same with a gradient everywhere."""
    return torch.tanh(SHAPE * answers.abs()).mean(1)


def flat(answers: Tensor) -> Tensor:
    """How equally far everything moves: mean over root mean square. 0.8 for Gaussian answers, 1 if all move equally far.

    The embedding pushes every channel to one margin, while a model's own answers have channels of all sizes.
    """
    return answers.abs().mean(1) / (answers.square().mean(1).sqrt() + 1e-6)


Objective = Callable[[Tensor], Tensor]

OBJECTIVES: dict[str, Objective] = {"moved": smoothly_moved, "flat": flat}
"""By name, those that gradients ascend."""
