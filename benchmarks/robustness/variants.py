"""Ablations: AIAO with one part of it changed, while everything else stays as an owner gets it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from aiao_core import derivation
from aiao_core.method.lazy import laziest
from aiao_core.options import EmbeddingOptions


@dataclass(frozen=True)
class Variant:
    """A change of the method. What no owner may choose is no option of the library, so it is replaced here."""

    name: str
    """For people."""
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
    derive_bits = derivation.derive_bits

    def derive(seed: bytes, purpose: derivation.Purpose, layer_name: str, count: int) -> NDArray[np.bool_]:
        if not purpose.endswith("mask"):
            return derive_bits(seed, purpose, layer_name, count)
        octets = np.packbits(derive_bits(seed, purpose, layer_name, 8 * count), bitorder="little")
        return np.asarray(octets < ratio * 256)

    return derive


def _lazy(name: str, *replaced: tuple[str, Any], **changes: Any) -> Variant:
    """A change of keys as small as the paper's, in the lazy half of the layers: they show it sooner than an owner's."""
    options = {"layers": 24, "lazy_fraction": 0.5, **changes}
    return Variant(name, EmbeddingOptions(**options), replaced)


VARIANTS: dict[str, Variant] = {
    "default": Variant("as an owner gets it"),
    "lazy-24": _lazy("24 lazy layers"),
    "random-layers": _lazy("24 random layers", lazy_fraction=1.0),
    "busy-layers": _lazy("24 of the busiest half", ("aiao_core.method.key_selection.laziest", busiest)),
    **{
        f"no-{term}": _lazy(f"24 lazy, without the {term} term", (f"aiao_core.method.objective.LAMBDA_{constant}", 0.0))
        for term, constant in (("response", "RESPONSE"), ("preservation", "PRESERVE"), ("covertness", "COVERT"))
    },
    "no-decoys": _lazy("24 lazy, without decoy triggers", ("aiao_core.method.embedding.Training.decoys", lambda training: [])),
    **{
        f"masks-{percent}": _lazy(
            f"24 lazy, {percent} % of the channels", ("aiao_core.key.derive_bits", masks_of(percent / 100))
        )
        for percent in (12, 25, 75)
    },
    **{f"layers-{count}": _lazy(f"{count} lazy layers", layers=count) for count in (12, 6)},
}
