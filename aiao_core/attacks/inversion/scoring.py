"""How much of a reading is right. The only module of this package that sees a key."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from aiao_core.attacks.inversion.reader import Reading
from aiao_core.key import BINDING_VERSION, OwnerKey, Subpath
from aiao_core.statistics import clopper_pearson, log10_binomial_tail

CERTAIN_BITS = 20
"""Chance passes the interval by which a reading is extended to other layers once in 2**20."""


@dataclass(frozen=True)
class Score:
    """What a reading is worth beside the key: of each trigger layer that it guesses at, its bits and the right ones."""

    right: dict[str, int]
    bits: dict[str, int]
    total: int
    """Bits of the whole key."""
    nearness: dict[str, float] = field(default_factory=dict)
    """How near each guessed trigger is to the owner's, in standard scores: of random triggers the mean is 0, the spread 1."""

    @property
    def read(self) -> int:
        """Count the bits that the reading guesses."""
        return sum(self.bits.values())

    @property
    def share(self) -> float:
        """Return the share of right signs, as the attacker turned them."""
        return sum(self.right.values()) / max(1, self.read)

    @property
    def folded_share(self) -> float:
        """Return the share of right signs if the attacker guessed the one common sign of each trigger's answers."""
        return self._folded / max(1, self.read)

    @property
    def log10_p(self) -> float:
        """Return log10 of the exact p that a model would have, had it all that was read; half of the other bits count.

        That is of all answers. What a model answers to any trigger does not count in a verdict, so that a forger needs the
        triggers too (:attr:`nearness`).

        Of the signs as they were turned, or of those that fit better: then times 2 for each trigger, for each can be turned
        (Bonferroni), and of these two times 2.
        """
        unread = (self.total - self.read) // 2
        turned = log10_binomial_tail(sum(self.right.values()) + unread, self.total)
        folded = log10_binomial_tail(self._folded + unread, self.total) + len(self.bits) * math.log10(2)
        return min(0.0, min(turned, folded) + math.log10(2))

    @property
    def certain_share(self) -> float:
        """Return the low end of an interval for the share of right signs, outside which chance is once in 2**20.

        The reading is as good at all of the key's layers, if those that were tried are like the others.
        """
        if not self.read:
            return 0.0
        return max(self._least(sum(self.right.values()), 0), self._least(self._folded, len(self.bits)))

    def _least(self, right: int, turns: int) -> float:
        """Return the low end of the interval for ``right``, the best of 2**``turns`` numbers."""
        return clopper_pearson(right, self.read, 1 - 2.0 ** -(CERTAIN_BITS + turns))[0]

    @property
    def _folded(self) -> int:
        return sum(max(right, self.bits[layer] - right) for layer, right in self.right.items())


def scored(reading: Reading, key: OwnerKey) -> Score:
    """Compare a reading with the response signs of ``key`` at its subpaths."""
    right: dict[str, int] = {}
    bits: dict[str, int] = {}
    nearness = {key.layers[i].name: _nearness(reading, key, i) for i in key.trigger_layers if key.layers[i].name in reading}
    for i, j in key.subpaths:
        start, end = key.layers[i].name, key.layers[j].name
        if start not in reading or end not in reading[start].answers:
            continue
        sign = torch.from_numpy(_signs(key, (i, j))).float()
        answers = reading[start].answers[end]
        right[start] = right.get(start, 0) + int((answers * sign > 0).sum())
        bits[start] = bits.get(start, 0) + len(sign)
    return Score(right, bits, sum(key.layers[j].channels for _, j in key.subpaths), nearness)


def _nearness(reading: Reading, key: OwnerKey, i: int) -> float:
    """Count the channels that both triggers write with one sign less those with two, in spreads of that of random triggers."""
    guess = reading[key.layers[i].name].triggered
    guessed = (guess.mask[0].float() * guess.sign[0]).numpy()
    products = guessed * key.trigger_mask(i) * key.trigger_sign(i)
    return float(products.sum() / max(1.0, np.sqrt(np.abs(guessed).sum() / 2)))


def _signs(key: OwnerKey, at: Subpath) -> NDArray[np.int8]:
    return key.subpath_sign(*at) if key.version >= BINDING_VERSION else key.response_sign(at[1])
