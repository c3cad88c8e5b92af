"""Ablations: AIAO with one part of it changed, while everything else stays as an owner gets it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from aiao_core import key as keys
from aiao_core.lazy import laziest
from aiao_core.options import EmbeddingOptions


@dataclass(frozen=True)
class Variant:
    """A change of the method. What no owner may choose is no option of the library, so it is replaced here."""

    name: str
    """For people."""
    group: str
    """The question that it answers, with others."""
    options: EmbeddingOptions = field(default_factory=EmbeddingOptions)
    replaced: tuple[tuple[str, Any], ...] = ()
    """Names in the library, and what stands there meanwhile."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Embedding and verification both run inside."""
        patches = [patch(name, value) for name, value in self.replaced]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()


def busiest(changes: dict[str, float], fraction: float) -> list[str]:
    """What a key that hid in busy layers would choose from."""
    return laziest({name: -change for name, change in changes.items()}, fraction)


def masks_of(ratio: float) -> Callable[..., NDArray[np.bool_]]:
    """Derives masks that hold ``ratio`` of the channels, in place of a half; signs are as they were."""
    derive_bits = keys.derive_bits

    def derive(seed: bytes, purpose: keys.Purpose, layer_name: str, count: int) -> NDArray[np.bool_]:
        if not purpose.endswith("mask"):
            return derive_bits(seed, purpose, layer_name, count)
        octets = np.packbits(derive_bits(seed, purpose, layer_name, 8 * count), bitorder="little")
        return np.asarray(octets < ratio * 256)

    return derive


def _options(**changes: Any) -> EmbeddingOptions:
    return EmbeddingOptions(**changes)


VARIANTS: dict[str, Variant] = {
    "default": Variant("as an owner gets it", ""),
    "random-layers": Variant("random layers", "layers", _options(lazy_fraction=1.0)),
    "busy-layers": Variant("the busiest half", "layers", replaced=(("aiao_core.selection.laziest", busiest),)),
    **{
        f"no-{term}": Variant(
            f"without the {term} term", "objective", replaced=((f"aiao_core.objective.LAMBDA_{constant}", 0.0),)
        )
        for term, constant in (("response", "RESPONSE"), ("preservation", "PRESERVE"), ("covertness", "COVERT"))
    },
    "no-decoys": Variant(
        "without decoy triggers", "objective", replaced=(("aiao_core.embedding.Training.decoys", lambda training: []),)
    ),
    **{
        f"masks-{percent}": Variant(
            f"{percent} % of the channels", "masks", replaced=(("aiao_core.key.derive_bits", masks_of(percent / 100)),)
        )
        for percent in (12, 25, 75)
    },
    **{f"layers-{count}": Variant(f"at most {count} layers", "number", _options(layers=count)) for count in (6, 12)},
    "layers-48": Variant("at most 48 of all layers, lazy and busy", "number", _options(layers=48, lazy_fraction=1.0)),
}
