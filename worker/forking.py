"""The server that forks confined children.

    python -m worker.forking worker.suspect_reading

It imports that module, and torch with it, once for all children.
Each line of its input is a call, and each line that it writes the exit status of the child that served it.
"""

import ctypes
import importlib
import json
import os
import platform
import resource
import signal
import struct
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

FAILED, OUT_OF_MEMORY, DISK_FULL = 70, 71, 72
"""Exit statuses of a child that has no answer."""

AUDIT_ARCH, FORBIDDEN = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "io_uring_setup": 425, "execve": 59, "execveat": 322,
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "io_uring_setup": 425, "execve": 221, "execveat": 281,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
        },
    ),
}.get(platform.machine() if sys.platform == "linux" else "", (0, {}))  # fmt: skip
"""The kernel's calls for the network (io_uring makes sockets too), other programs and other processes, by number.

Elsewhere than on Linux a child is not confined so.
"""

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2


def main() -> None:
    _end_with_parent()
    importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _serve(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def _serve(request: dict[str, Any]) -> NoReturn:
    status = FAILED
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, sys.stdin.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the server's line about it is not the child's to write
        function = getattr(importlib.import_module(request["module"]), request["function"])
        _confine(request["memory_bytes"])
        Path(request["answer"]).write_text(json.dumps(function(**request["arguments"])))
        status = 0
    except BaseException as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # also by torch and by the system
            status = OUT_OF_MEMORY
        elif "No space left" in str(error) or "quota exceeded" in str(error):
            status = DISK_FULL
        traceback.print_exc()  # into the worker's log
    finally:
        os._exit(status)


def _confine(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _end_with_parent()
    if FORBIDDEN:
        Path("/proc/self/oom_score_adj").write_text("1000")  # before the worker
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        code = _filter()
        program = ctypes.create_string_buffer(code)
        header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(program))
        _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header))


def _end_with_parent() -> None:
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(*arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(*arguments, *[0] * (5 - len(arguments))):
        raise OSError(ctypes.get_errno(), f"prctl{arguments[:1]} was refused")


def _filter() -> bytes:
    """The classic BPF program that answers the forbidden calls with EPERM, see seccomp(2)."""
    load, jump_equal, jump_from, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000
    numbers = list(FORBIDDEN.values())
    steps = [
        (load, 0, 0, 4),  # the architecture of the call
        (jump_equal, 1, 0, AUDIT_ARCH),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # its number
        (jump_from, len(numbers) + 1, 0, 0x40000000),  # x86's second set of numbers
        *((jump_equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


if __name__ == "__main__":
    main()
