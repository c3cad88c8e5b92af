"""The server that forks confined children.

    python -m worker.sandbox.server worker.reading

It imports that module, and torch with it, once for all children.
Each line of its input is a call, and each line that it writes the exit status of the child that served it.
"""

import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

from service.kit.kernel import be_first_to_go, drop_privileges, end_with_parent, hide_from_others
from worker.sandbox import files, limits, namespaces, system_calls

FAILED, OUT_OF_MEMORY, DISK_FULL = 70, 71, 72
"""Exit statuses of a child that has no answer."""

LINUX = sys.platform == "linux"
"""Elsewhere a child is a process of its own, and no more than that."""

SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom")
"""Libraries and devices that everybody may read."""

PROCESSORS = ("/proc/cpuinfo", "/sys/devices/system/cpu")
"""Read by torch's library for processors."""

PACKAGES = ("aiao", "aiao_core", "service", "worker")


def main() -> None:
    if LINUX:
        end_with_parent()
        hide_from_others()  # its children are of the same user
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
        # Neither the server's line about it nor the worker's log is the child's to write: it could erase a log that is a file.
        said = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(said, stream.fileno())
        os.closerange(3, 1 << 10)
        function = getattr(importlib.import_module(request["module"]), request["function"])
        tempfile.tempdir = request["room"]
        _confine(request)
        Path(request["answer"]).write_text(json.dumps(function(**request["arguments"])))
        status = 0
    except BaseException as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # also by torch and by the system
            status = OUT_OF_MEMORY
        elif "No space left" in str(error) or "quota exceeded" in str(error):
            status = DISK_FULL
        traceback.print_exc()  # from where the worker takes it into its log
    finally:
        os._exit(status)


def _confine(request: dict[str, Any]) -> None:
    """Take from this process, which goes on as another one, everything that the call does not need."""
    if not LINUX:
        return
    readable, writable = [Path(path) for path in request["readable"]], [Path(request["room"])]
    end_with_parent()
    hide_from_others(False)  # or the files in /proc that follow were not its own to write
    be_first_to_go()
    namespaces.enter()
    end_with_parent()
    hide_from_others()
    limits.limit(request["memory_bytes"], readable)
    drop_privileges()
    if files.version():
        files.restrict([*code(), *map(Path, PROCESSORS), *readable], writable)
    if system_calls.supported():
        system_calls.restrict()


def code() -> list[Path]:
    """Return where Python and this project are, without the folder of a checkout, in which anything may lie."""
    packages = [Path(__file__).parents[2] / name for name in PACKAGES]
    python = [Path(path) for path in {sys.prefix, sys.base_prefix, *sys.path} if path]
    checkout = packages[0].parent
    return [*packages, *map(Path, SYSTEM), *(path for path in python if path.is_dir() and path.absolute() != checkout)]


if __name__ == "__main__":
    main()
