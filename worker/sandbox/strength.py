"""What this kernel has of a child's confinement."""

import os
import sys

from worker.sandbox import files, namespaces, system_calls


def lacking() -> list[str]:
    """Return what a child would be without, in words, of what no other layer makes up for."""
    if sys.platform != "linux":
        return ["Linux"]
    layers = {
        "Landlock (Linux 5.13 and newer, where it is in the list of security modules)": bool(files.version()),
        "a filter of system calls for this processor": system_calls.supported(),
    }
    return [layer for layer, there in layers.items() if not there]


def has_namespaces() -> bool:
    """Return whether a process may make namespaces. Without them the other layers still refuse every known attempt."""
    child = os.fork()
    if child == 0:
        os._exit(0 if namespaces.allowed() else 1)
    return os.waitpid(child, 0)[1] == 0
