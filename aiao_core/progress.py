"""Progress reports of a long computation to its caller."""

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
    """Ignore the report: the callback of a caller that wants none."""
