"""How much a child may take of memory, processes and disk."""

import os
import resource
from collections.abc import Iterable
from pathlib import Path

THREADS = 512
"""Threads that a child may have, beyond the user's processes outside: more than any reader starts."""


def limit(memory_bytes: int, readable: Iterable[Path]) -> None:
    """Limit this process and what it starts.

    ``memory_bytes`` bound its own memory, and with the size of the files that it may read, which can be mapped, all others:
    shared memory too.
    """
    mapped = sum(path.stat().st_size for path in readable if path.is_file())
    address_space = _address_space() + memory_bytes + mapped
    for kind, most in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_NPROC, _processes() + THREADS),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _processes() -> int:
    """Count the threads of this user, which the kernel counts too where the child has no namespace of its own."""
    user, count = os.getuid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == user:
                count += sum(1 for _ in (folder / "task").iterdir())
        except OSError:  # it ended meanwhile
            continue
    return count
