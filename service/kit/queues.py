"""The queues of a fleet of workers. A job goes to the smallest one that has the memory it needs."""

import re
from dataclasses import dataclass

from pydantic import ByteSize, TypeAdapter, ValidationError

from service.kit.errors import NotEnoughMemory

ENTRY = re.compile(r"([a-z][a-z0-9-]{0,62}):([0-9.]+[A-Za-z]+)")
GIB = 1 << 30


@dataclass(frozen=True)
class Queue:
    """A Celery queue, and the memory of each of its workers; None: enough for every job."""

    name: str
    memory_bytes: int | None

    def holds(self, memory_bytes: int | None) -> bool:
        """Return whether its workers can run a job that needs ``memory_bytes``; None: unknown."""
        return self.memory_bytes is None or (memory_bytes is not None and memory_bytes <= self.memory_bytes)


@dataclass(frozen=True)
class Share:
    """The jobs of one queue: those that need more memory than ``above``, and at most ``limit``."""

    queue: str
    above: int | None
    limit: int | None
    """None: the last queue, where jobs of unknown need are too."""


@dataclass(frozen=True)
class Fleet:
    """All queues, those with the least memory first."""

    queues: tuple[Queue, ...]

    @classmethod
    def parse(cls, base: str, text: str) -> "Fleet":
        """Read a list such as ``cpu:8GiB gpu:22GiB``: the queues ``base.cpu`` and ``base.gpu``; if it is empty, ``base``.

        Raise ValueError for another text.
        """
        if not text.strip():
            return cls((Queue(base, None),))
        listed = [_queue(entry) for entry in text.split()]
        limits = [limit for _, limit in listed]
        if len({name for name, _ in listed}) < len(listed) or limits != sorted(set(limits)):
            raise ValueError("each queue needs a name of its own and more memory than the one before it")
        return cls(tuple(Queue(f"{base}.{name}", limit) for name, limit in listed))

    @property
    def names(self) -> list[str]:
        return [queue.name for queue in self.queues]

    def queue_for(self, memory_bytes: int | None) -> str:
        """Return the name of the queue for a job that needs ``memory_bytes``.

        A job whose need is unknown, or that was accepted by a larger fleet, goes where there is most.
        """
        return next((queue.name for queue in self.queues if queue.holds(memory_bytes)), self.queues[-1].name)

    def share_of(self, name: str) -> Share:
        """Return which jobs :meth:`queue_for` sends to the queue of this name. Raise ValueError if there is none."""
        place = self.names.index(name)
        above = self.queues[place - 1].memory_bytes if place else None
        limit = self.queues[place].memory_bytes if place + 1 < len(self.queues) else None
        return Share(name, above, limit)

    def accepted(self, memory_bytes: int | None) -> int | None:
        """Return ``memory_bytes``. Raise :class:`NotEnoughMemory` if no worker has as much."""
        largest = self.queues[-1]
        if memory_bytes and largest.memory_bytes and not largest.holds(memory_bytes):
            raise NotEnoughMemory(
                f"this job needs about {memory_bytes / GIB:.2f} GiB of memory, but the largest workers of this service have "
                f"{largest.memory_bytes / GIB:.2f} GiB; for an embedding choose a smaller batch_size or "
                "gradient_checkpointing, or ask the operator for larger workers"
            )
        return memory_bytes


def _queue(entry: str) -> tuple[str, int]:
    parts = ENTRY.fullmatch(entry)
    try:
        memory_bytes = TypeAdapter(ByteSize).validate_python(parts[2]) if parts else 0
    except ValidationError:
        memory_bytes = 0
    if not parts or not memory_bytes:
        raise ValueError(
            f"{entry[:100]} is not a queue with its memory, such as gpu:22GiB. Name it by small letters, digits and hyphens"
        )
    return parts[1], int(memory_bytes)
