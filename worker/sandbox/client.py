"""Run one function in a child process that computes, reads the files it was given, writes one folder, and can do nothing else.

What a client uploaded is read there: a crash, a loop or the kernel's out-of-memory killer is the child's end and not the
worker's. What the child answers is JSON, for it may be in an attacker's hands by then.

A server process imports torch once and forks a child for each call: forked from the worker itself, a child could inherit the
locks of its threads, and all that it knows.
"""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

from service.kit.kernel import harmless_environment
from worker.sandbox.server import DISK_FULL, FAILED, OUT_OF_MEMORY

MEMORY_SHARE = 0.75
POLL_SECONDS = 0.1
MAX_ANSWER_BYTES = 1 << 20

ANSWER = "answer.json"
"""The child's file in its room."""

LOG, MAX_LOG_BYTES = "log.txt", 1 << 16
"""What the child says, of which so much goes into the worker's log."""

PRELOADED = "worker.reading"
"""What the server imports before any call, and torch with it."""


class ChildEnded(Exception):
    """The child ended without an answer; the sentence says how."""


def confined(
    function: Callable[..., dict[str, Any]],
    arguments: dict[str, Any],
    *,
    room: Path,
    readable: Sequence[Path] = (),
    seconds: float,
    memory_bytes: int,
    check: Callable[[], None],
) -> dict[str, Any]:
    """Return what ``function`` returns in the child, a JSON object; ``arguments`` are JSON too.

    The child writes in the folder ``room`` alone, and besides reads the files and folders ``readable``. ``memory_bytes`` 0
    means three quarters of what this machine or container has. ``check`` is called now and then, and may raise to stop the
    child. Raises :class:`ChildEnded`, and OSError if the disk is full.
    """
    answer = room / ANSWER
    answer.unlink(missing_ok=True)
    log = room / LOG
    request = {
        "module": function.__module__,
        "function": function.__name__,
        "arguments": arguments,
        "answer": str(answer),
        "log": str(log),
        "room": str(room),
        "readable": list(map(str, readable)),
        "memory_bytes": memory_bytes or _memory(),
    }
    try:
        status = _ended(request, time.monotonic() + seconds, check)
    finally:
        _repeat(log)
    if status is None:
        raise ChildEnded(f"it took more than {seconds:g} seconds")
    if status == DISK_FULL:
        raise OSError(errno.ENOSPC, "the child has no room to write to")
    if status:
        raise ChildEnded(_how(status))
    return _read(answer)


def _ended(request: dict[str, Any], deadline: float, check: Callable[[], None]) -> int | None:
    """The exit status of a child that served the request; None if it had to be killed at the deadline."""
    if _server().poll() is not None:  # killed since the last call
        _stop()
    calls, statuses = cast("IO[bytes]", _server().stdin), cast("IO[bytes]", _server().stdout)
    try:
        calls.write(json.dumps(request).encode() + b"\n")
        while not select.select([statuses], [], [], min(POLL_SECONDS, left := max(0, deadline - time.monotonic())))[0]:
            check()
            if not left:
                raise TimeoutError
        if line := statuses.readline():
            return int(line)
        _stop()
        return FAILED
    except TimeoutError:
        _stop()
        return None
    except BaseException:
        _stop()
        raise


@cache
def _server() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  # the module is a constant
        [sys.executable, "-P", "-m", "worker.sandbox.server", PRELOADED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=harmless_environment(),
        bufsize=0,
    )


def _stop() -> None:
    """The server's end is its child's; the next call starts another one."""
    server = _server()
    _server.cache_clear()
    server.kill()
    server.communicate()


def _how(status: int) -> str:
    if status in (OUT_OF_MEMORY, -signal.SIGKILL):
        return "it ran out of memory"
    if status < 0:
        return f"it crashed ({_name(-status)})"
    return "it failed; the worker's log holds the cause"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of the many that have no name
        return f"signal {number}"


def _read(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb", opener=_plainly) as stream:
            answer = json.loads(stream.read(MAX_ANSWER_BYTES))
    except (OSError, ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ChildEnded("it gave no answer")
    return answer


def _repeat(log: Path) -> None:
    """Write what the child said into the worker's log, without what a terminal would obey."""
    try:
        with open(log, "rb", opener=_plainly) as stream:
            said = stream.read(MAX_LOG_BYTES).decode("utf-8", "replace")
    except OSError:  # the child did not come so far
        return
    sys.stderr.write("".join(each if each.isprintable() or each == "\n" else "?" for each in said))
    sys.stderr.flush()


def _plainly(path: str, flags: int) -> int:
    """Open a file as it is: the child cannot make a link or a pipe of it, and this does not rely on that."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _memory() -> int:
    """What a child may take of this machine's or container's memory, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        limit = physical
    return int(MEMORY_SHARE * min(physical, limit))
