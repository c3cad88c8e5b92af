"""Stop a call that runs in a thread, because nothing can interrupt a thread from outside."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aiao._client.errors import Stopped

_STOP: ContextVar[threading.Event | None] = ContextVar("aiao_stop", default=None)


@contextmanager
def stopped_by(event: threading.Event) -> Iterator[None]:
    """Let ``event`` stop the calls inside the block, at their next :func:`check_stopped` or :func:`pause`."""
    token = _STOP.set(event)
    try:
        yield
    finally:
        _STOP.reset(token)


def check_stopped() -> None:
    """Raise :class:`Stopped` if the calls of this thread were told to stop."""
    event = _STOP.get()
    if event and event.is_set():
        raise Stopped("the call was canceled")


def pause(seconds: float) -> None:
    """Sleep, but not longer than until the calls of this thread are told to stop: then raise :class:`Stopped`."""
    event = _STOP.get()
    if event is None:
        time.sleep(seconds)
    else:
        event.wait(seconds)
        check_stopped()
