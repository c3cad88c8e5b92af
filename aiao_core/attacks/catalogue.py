"""The attacks with the strengths at which an audit and the benchmarks try them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from aiao_core.attacks.thief import Thief


@dataclass(frozen=True)
class Trial:
    """One attack at one strength."""

    id: str
    """Stable and short, of letters, digits and hyphens: ``magnitude-pruning-30``."""
    name: str
    """For people: ``magnitude pruning, 30 % of the weights``."""
    family: str
    """What is tried: ``fine-tuning``, ``pruning``, ``quantisation`` …"""
    attack: Callable[[Thief], nn.Module]


CATALOGUE: dict[str, Trial] = {}
"""Every trial by its id, in the order in which they are shown."""

PRESETS: dict[str, tuple[str, ...]] = {}
"""Ids of trials by the preset's name: ``quick`` (a minute or two for a small model) and ``full``."""
