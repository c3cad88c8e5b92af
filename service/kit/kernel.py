"""System calls of Linux that Python has no function for."""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_VERSION = 0x20080522


HARMLESS = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
"""Variables for a process that reads what clients uploaded: the rest of them, keys and passwords too, are not its business."""


def harmless_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in HARMLESS if name in os.environ}


def call(name: str, *arguments: Any) -> int:
    """Call a function of the C library. Raises OSError with its error number."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, *arguments: Any) -> None:
    call("prctl", option, *arguments, *[0] * (4 - len(arguments)))


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def hide_from_others(hidden: bool = True) -> None:
    """Keep others of the same user from reading this process's memory and environment in ``/proc``.

    A program that it starts must hide itself. Elsewhere than on Linux nothing happens.
    """
    if sys.platform == "linux":
        prctl(PR_SET_DUMPABLE, int(not hidden))


def be_first_to_go() -> None:
    """Have the kernel end this process before others if the machine or container runs out of memory."""
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")


def drop_privileges() -> None:
    """Give up, for good, what a process may do more than others, in a namespace of its own too."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)  # without which neither Landlock nor seccomp takes a rule
    number = _CAPSET[os.uname().machine]
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    call("syscall", ctypes.c_long(number), header, (ctypes.c_uint32 * 6)())
