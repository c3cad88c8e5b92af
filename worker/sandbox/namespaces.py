"""A child alone in its own namespaces: no other process, no network, no mount of the system is there for it."""

import os
import signal
from pathlib import Path
from typing import NoReturn

from service.kit.kernel import call

NEW_USER, NEW_MOUNTS, NEW_PROCESSES, NEW_NETWORK, NEW_IPC, NEW_NAMES = (
    0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000,
)  # fmt: skip
ALL = NEW_USER | NEW_MOUNTS | NEW_PROCESSES | NEW_NETWORK | NEW_IPC | NEW_NAMES


def allowed() -> bool:
    """Take this process into new namespaces; return whether the kernel allowed it. It still has its former number."""
    try:
        call("unshare", ALL)
    except OSError:  # forbidden by the operator, or by the container
        return False
    return True


def enter() -> bool:
    """Go on in a child of this process, alone in new namespaces; return whether the kernel allowed it.

    This process waits for that child and ends as it did. All that the child starts ends with it, for it is the first process
    of its namespaces.
    """
    user, group = os.getuid(), os.getgid()
    if not allowed():
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text)
    child = os.fork()
    if child:
        _end_as(os.waitpid(child, 0)[1])
    return True


def _end_as(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
