"""How a long computation tells its caller where it stands."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report from a running computation: ``step`` of ``total`` in ``stage``, with the figures known so far."""

    stage: str
    step: int
    total: int
    metrics: dict[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]
"""Called at every step. It may raise :class:`aiao_core.errors.Canceled` to stop the computation."""


def silent(_: Progress) -> None:
    """The callback of a caller that wants to know nothing."""
