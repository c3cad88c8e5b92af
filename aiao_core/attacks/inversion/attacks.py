"""What a thief or a forger makes of a reading: attacks of the catalogue, with what they read of the published model."""

from torch import nn

from aiao_core.attacks.inversion.methods import METHODS
from aiao_core.attacks.inversion.planting import plant
from aiao_core.attacks.inversion.reader import Reader, Reading
from aiao_core.attacks.thief import Thief
from aiao_core.errors import AttackNotPossible


def read_and_removed(thief: Thief, *, method: str, rows: int, steps: int) -> nn.Module:
    """Read the signs by ``method`` with ``rows`` triggered inputs, and train the stolen model against them."""
    reading = _read(thief, method, rows)
    stage = "removing"
    return plant(
        thief.model, reading, thief.examples, steps=steps, direction=-1.0, seed=thief.seed, stage=stage, progress=thief.progress
    )


def read_and_forged(thief: Thief, *, method: str, rows: int, steps: int) -> nn.Module:
    """Read the signs in the same way, and plant them in a model that never had the watermark: a forger frames its maker.

    Raises :class:`AttackNotPossible` without such a model.
    """
    if thief.innocent is None:
        raise AttackNotPossible("a forgery needs a model without the watermark; audit with the source, from which one is made")
    reading, stage = _read(thief, method, rows), "forging"
    return plant(thief.innocent, reading, thief.examples, steps=steps, seed=thief.seed, stage=stage, progress=thief.progress)


def _read(thief: Thief, method: str, rows: int) -> Reading:
    return METHODS[method](Reader(thief.model, seed=thief.seed), rows)
