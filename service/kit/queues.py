"""The queues of a fleet of workers, and to which of them a job goes: the smallest that has the memory it needs."""

import re
from dataclasses import dataclass

from pydantic import ByteSize, TypeAdapter, ValidationError

from service.kit.errors import NotEnoughMemory

ENTRY = re.compile(r"([a-z][a-z0-9-]{0,62}):([0-9.]+[A-Za-z]+)")
GIB = 1 << 30


@dataclass(frozen=True)
class Queue:
    """A Celery queue, and how much memory each of its workers has; None: whatever a job needs."""

    name: str
    memory_bytes: int | None

    def holds(self, memory_bytes: int | None) -> bool:
        """Whether its workers can run a job that needs so much; of None nobody knows."""
        return self.memory_bytes is None or (memory_bytes is not None and memory_bytes <= self.memory_bytes)


@dataclass(frozen=True)
class Fleet:
    """All queues, those with the least memory first."""

    queues: tuple[Queue, ...]

    @classmethod
    def parse(cls, base: str, text: str) -> "Fleet":
        """The queues that ``text`` lists, as in ``cpu:8GiB gpu:22GiB``: ``base.cpu`` and ``base.gpu``; without any, ``base``.

        Raises ValueError.
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
        """The name of the queue of a job that needs so much.

        A job of which that is unknown, or that was accepted by a larger fleet, goes where there is most.
        """
        return next((queue.name for queue in self.queues if queue.holds(memory_bytes)), self.queues[-1].name)

    def accepted(self, memory_bytes: int | None) -> int | None:
        """``memory_bytes`` again. Raises :class:`NotEnoughMemory` if a job needs so much, more than any worker has."""
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
            f"{entry[:100]} is no queue with its memory, as gpu:22GiB is; small letters, digits and hyphens name it"
        )
    return parts[1], int(memory_bytes)
