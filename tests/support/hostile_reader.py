"""A program that has taken over the reading of a client's file, and what it tries then.

Each attempt returns if it succeeded, and raises OSError or MemoryError if it was refused. They change nothing for good: signals
are harmless ones, and what is written is a file of this module's own name.
"""

import ctypes
import fcntl
import importlib
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PLANTED = "planted_by_a_hostile_reader.py"
TOO_MUCH = 8 << 30
"""Bytes: more than the child's limit."""

Attempt = Callable[[dict[str, Any]], object]
ATTEMPTS: dict[str, Attempt] = {}
SYSTEM_CALLS: list[str] = []
"""Names of those by the number of a call, often without sensible arguments: the filter of calls must refuse them unseen."""

NUMBERS = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "execveat": 322, "rt_sigqueueinfo": 129,
        "sched_setaffinity": 203, "setpriority": 141, "ioprio_set": 251, "kcmp": 312, "migrate_pages": 256, "vfork": 58,
        "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "bpf": 321, "perf_event_open": 298,
        "add_key": 248, "keyctl": 250, "init_module": 175, "kexec_load": 246, "reboot": 169, "swapon": 167, "acct": 163,
        "seccomp": 317, "personality": 135, "memfd_create": 319, "shmget": 29, "mlock": 149, "userfaultfd": 323,
        "open_by_handle_at": 304, "name_to_handle_at": 303, "inotify_init1": 294, "fanotify_init": 300, "quotactl": 179,
        "syslog": 103, "timer_create": 222, "mq_open": 240, "msgget": 68, "semget": 64, "iopl": 172, "socketpair": 53,
        "tkill": 200, "sethostname": 170, "settimeofday": 164, "clone": 56, "mknodat": 259,
    },
    "aarch64": {
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "execveat": 281, "rt_sigqueueinfo": 138,
        "sched_setaffinity": 122, "setpriority": 140, "ioprio_set": 30, "kcmp": 272, "migrate_pages": 238,
        "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "bpf": 280, "perf_event_open": 241,
        "add_key": 217, "keyctl": 219, "init_module": 105, "kexec_load": 104, "reboot": 142, "swapon": 224, "acct": 89,
        "seccomp": 277, "personality": 92, "memfd_create": 279, "shmget": 194, "mlock": 228, "userfaultfd": 282,
        "open_by_handle_at": 265, "name_to_handle_at": 264, "inotify_init1": 26, "fanotify_init": 262, "quotactl": 60,
        "syslog": 116, "timer_create": 107, "mq_open": 180, "msgget": 186, "semget": 190, "socketpair": 199,
        "tkill": 130, "sethostname": 161, "settimeofday": 170, "clone": 220, "mknodat": 33,
    },
}.get(platform.machine(), {})  # fmt: skip
NUMBERS |= {"pidfd_open": 434, "pidfd_send_signal": 424, "process_madvise": 440, "clone3": 435, "io_uring_setup": 425,
            "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442, "memfd_secret": 447}  # fmt: skip


def attempt(name: str, places: dict[str, Any]) -> dict[str, Any]:
    """Try one; return how it ended."""
    try:
        ATTEMPTS[name](places)
    except (OSError, MemoryError, ValueError) as error:  # of the module resource, ValueError means that it is forbidden
        return {"outcome": "refused", "how": f"{type(error).__name__}: {error}"[:200], "errno": getattr(error, "errno", None)}
    return {"outcome": "done", "how": ""}


def _tried(name: str) -> Callable[[Attempt], Attempt]:
    def keep(function: Attempt) -> Attempt:
        ATTEMPTS[name] = function
        return function

    return keep


def _call(number: int, *arguments: Any) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _system_call(name: str, call: str, *arguments: Any) -> None:
    """An attempt by the number of a call; an argument may be the name of a place, of which its value is taken."""
    if call in NUMBERS:
        SYSTEM_CALLS.append(name)
        ATTEMPTS[name] = lambda places: _call(NUMBERS[call], *(places[a] if isinstance(a, str) else a for a in arguments))


# Files. `key`, `database`, `storage`, `other` and `home` are of the service, `worker` is its process.

ATTEMPTS |= {
    "read the key-encryption key": lambda p: Path(p["key"]).read_bytes(),
    "overwrite the key-encryption key": lambda p: Path(p["key"]).open("r+b").close(),
    "read the database": lambda p: Path(p["database"]).read_bytes(),
    "write the database": lambda p: Path(p["database"]).open("ab").close(),
    "delete the database": lambda p: Path(p["database"]).unlink(),
    "truncate the database": lambda p: os.truncate(p["database"], 0),
    "list the storage": lambda p: os.listdir(p["storage"]),  # noqa: PTH208
    "write the storage": lambda p: _plant([Path(p["storage"])]),
    "list the jobs' scratch": lambda p: os.listdir(Path(p["other"]).parent),  # noqa: PTH208
    "read another job's file": lambda p: Path(p["other"], "suspect").read_bytes(),
    "write into another job's folder": lambda p: _plant([Path(p["other"])]),
    "read the users of the machine": lambda _: Path("/etc/passwd").read_bytes(),
    "list the home folder": lambda p: os.listdir(p["home"]),  # noqa: PTH208
    "list the root folder": lambda _: os.listdir("/"),  # noqa: PTH208
    "plant code in the working folder": lambda _: _plant(["."]),
    "plant code where Python looks": lambda p: _plant(p["path"]),
    "plant code in the data folder": lambda p: Path(p["storage"]).with_name("sitecustomize.py").write_text(""),
    "link to the key": lambda p: _reading(os.symlink, p["key"], Path(p["room"], "link")),
    "link the key itself": lambda p: _reading(os.link, p["key"], Path(p["room"], "link")),
    "take the key along": lambda p: os.rename(p["key"], Path(p["room"], "key")),  # noqa: PTH104
    "open the key to all": lambda p: os.chmod(p["key"], 0o666),  # noqa: PTH101
    "give the key away": lambda p: os.chown(p["key"], os.getuid(), os.getgid()),
    "change the key's dates": lambda p: os.utime(p["key"]),
    "leave a pipe as an answer": lambda p: os.mkfifo(Path(p["room"], "answer.json")),
    "fill the disk with one file": lambda p: _sparse(Path(p["room"], "sparse")),
    "write to shared memory": lambda _: _plant([Path("/dev/shm")]),
    "write to the temporary folder": lambda _: _plant([Path("/tmp")]),
}  # fmt: skip

ATTEMPTS |= {
    "erase the worker's log": lambda _: [_erased(descriptor) for descriptor in (1, 2)],
    "use a descriptor that was left open": lambda _: _left_open(),
}


def _erased(descriptor: int) -> None:
    """Cut off what is behind a descriptor, unless that is a file of the child's own."""
    before = os.fstat(descriptor).st_size
    os.ftruncate(descriptor, 0)
    if not before:
        raise OSError("there was nothing to erase")


def _left_open() -> None:
    for descriptor in range(3, 256):
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue
        if not os.path.samestat(status, os.stat(os.devnull)):  # noqa: PTH116
            return
    raise OSError("none is open")


def _plant(path: list[str]) -> None:
    """Write into any of the folders."""
    refused = None
    for folder in path:
        try:
            Path(folder, PLANTED).write_text("")
        except OSError as error:
            refused = error
        else:
            Path(folder, PLANTED).unlink()
            return
    raise refused or OSError("there is no folder")


def _reading(make: Callable[[Any, Any], None], target: str, link: Path) -> None:
    make(target, link)
    link.read_bytes()


def _sparse(file: Path) -> None:
    try:
        with file.open("wb") as stream:
            stream.truncate(TOO_MUCH)
    finally:
        file.unlink()


# Other processes.

ATTEMPTS |= {
    "read the worker's environment": lambda p: Path(f"/proc/{p['worker']}/environ").read_bytes(),
    "read the worker's memory": lambda p: Path(f"/proc/{p['worker']}/mem").open("rb").close(),
    "write the worker's memory": lambda p: Path(f"/proc/{p['worker']}/mem").open("r+b").close(),
    "read the worker's memory map": lambda p: Path(f"/proc/{p['worker']}/maps").read_bytes(),
    "read the worker's command line": lambda p: Path(f"/proc/{p['worker']}/cmdline").read_bytes(),
    "look through the worker's root": lambda p: os.listdir(f"/proc/{p['worker']}/root"),  # noqa: PTH208
    "write the server's memory": lambda p: Path(f"/proc/{p['server']}/mem").open("r+b").close(),
    "list the processes": lambda _: os.listdir("/proc"),  # noqa: PTH208
    "have the worker killed for memory": lambda p: Path(f"/proc/{p['worker']}/oom_score_adj").write_text("1000"),
    "set where crashes are written": lambda _: Path("/proc/sys/kernel/core_pattern").open("w").close(),
    "signal the worker": lambda p: os.kill(p["worker"], signal.SIGCONT),
    "signal the server": lambda p: os.kill(p["server"], signal.SIGCONT),
    "signal everybody": lambda _: os.kill(-1, signal.SIGCONT),
    "signal the group": lambda _: os.kill(0, signal.SIGCONT),
    "have a descriptor signal the worker": lambda p: fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, p["worker"]),
    "change the worker's limits": lambda p: resource.prlimit(p["worker"], resource.RLIMIT_CORE, (0, 0)),
    "raise its own limits": lambda _: resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2),
}  # fmt: skip
_system_call("signal a thread of the worker", "tkill", "worker", 18)
_system_call("queue a signal to the worker", "rt_sigqueueinfo", "worker", 18, 0)
_system_call("hold the worker by a descriptor", "pidfd_open", "worker", 0)
_system_call("signal the worker by a descriptor", "pidfd_send_signal", 0, 18, 0, 0)
_system_call("trace the worker", "ptrace", 0x4206, "worker", 0, 0)
_system_call("have itself traced", "ptrace", 0, 0, 0, 0)
_system_call("copy from the worker's memory", "process_vm_readv", "worker", 0, 0, 0, 0, 0)
_system_call("copy into the worker's memory", "process_vm_writev", "worker", 0, 0, 0, 0, 0)
_system_call("move the worker's memory", "migrate_pages", "worker", 0, 0, 0)
_system_call("advise on the worker's memory", "process_madvise", 0, 0, 0, 4, 0)
_system_call("slow the worker down", "setpriority", 0, "worker", 19)
_system_call("slow the worker's disk down", "ioprio_set", 1, "worker", 0x6000)
_system_call("bind the worker to a core", "sched_setaffinity", "worker", 8, 0)
_system_call("compare the worker with itself", "kcmp", "worker", "worker", 1, 0, 0)


# Processes and programs of its own.


@_tried("fork")
def _fork(_: dict[str, Any]) -> None:
    if os.fork() == 0:
        os._exit(0)


@_tried("outlive the job")
def _outlive(_: dict[str, Any]) -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(5)
        os._exit(0)


ATTEMPTS |= {
    "start a program": lambda _: subprocess.run(["/bin/true"], check=True),
    "become a program": lambda _: os.execv("/bin/true", ["true"]),
    "start Python": lambda _: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}),
    "lead a session": lambda _: os.setsid(),
    "leave its group": lambda _: os.setpgid(0, 0),
}
_system_call("clone itself", "clone", 17, 0, 0, 0, 0)
_system_call("clone itself by the newer call", "clone3", 0, 0)
_system_call("fork without a copy", "vfork")
_system_call("run a program by a descriptor", "execveat", -1, 0, 0, 0, 0)


# The network.

ATTEMPTS |= {
    "open an internet socket": lambda _: socket.socket(),
    "open a socket of version 6": lambda _: socket.socket(socket.AF_INET6),
    "open a local socket": lambda _: socket.socket(socket.AF_UNIX),
    "ask the kernel about the network": lambda _: socket.socket(16, socket.SOCK_RAW),
    "listen to all packets": lambda _: socket.socket(17, socket.SOCK_RAW),
    "look up a name": lambda _: socket.getaddrinfo("localhost", 80),
}
_system_call("open a pair of sockets", "socketpair", 1, 1, 0, ctypes.create_string_buffer(8))
_system_call("open a ring of calls", "io_uring_setup", 1, ctypes.create_string_buffer(120))
if platform.machine() == "x86_64":
    ATTEMPTS["open a socket by the second set of numbers"] = lambda _: _call(0x40000000 + 41, 2, 1, 0)


# Memory.

ATTEMPTS |= {
    "fill its memory": lambda _: bytearray(TOO_MUCH),
    "fill shared memory": lambda _: mmap.mmap(-1, TOO_MUCH),
    "fill shared memory in pieces": lambda _: [mmap.mmap(-1, 256 << 20) for _ in range(TOO_MUCH >> 28)],
}
_system_call("make a file in memory", "memfd_create", b"file", 0)
_system_call("make a secret file in memory", "memfd_secret", 0)
_system_call("make a segment that outlives it", "shmget", 0, 1 << 20, 0o1600)
_system_call("make a queue of messages", "msgget", 0, 0o1600)
_system_call("make a semaphore", "semget", 0, 1, 0o1600)
_system_call("make a named queue", "mq_open", b"queue", 0o100, 0o600, 0)
_system_call("keep memory from being swapped", "mlock", 0x10000, 1 << 30)
_system_call("serve its own page faults", "userfaultfd", 0)


# The kernel.

_system_call("make a namespace", "unshare", 0x10000000)
_system_call("enter a namespace", "setns", 0, 0)
_system_call("mount a file system", "mount", b"none", b"/mnt", b"tmpfs", 0, 0)
_system_call("take a mount away", "umount2", b"/proc", 2)
_system_call("change the root by a mount", "pivot_root", b".", b".")
_system_call("prepare a mount", "fsopen", b"tmpfs", 0)
_system_call("copy a tree of mounts", "open_tree", -100, b"/", 1)
_system_call("load a program into the kernel", "bpf", 0, 0, 0)
_system_call("count the kernel's events", "perf_event_open", 0, 0, -1, -1, 0)
_system_call("add a key to the kernel", "add_key", b"user", b"name", b"value", 5, -3)
_system_call("read the kernel's keys", "keyctl", 0, -3, 1)
_system_call("load a module", "init_module", 0, 0, b"")
_system_call("load another kernel", "kexec_load", 0, 0, 0, 0)
_system_call("restart the machine", "reboot", 0, 0, 0, 0)
_system_call("swap", "swapon", b"/tmp/swap", 0)
_system_call("account for processes", "acct", 0)
_system_call("filter its calls again", "seccomp", 2, 0, 0)
_system_call("change its personality", "personality", 0x0040000)
_system_call("read the kernel's log", "syslog", 3, ctypes.create_string_buffer(64), 64)
_system_call("name the machine", "sethostname", b"name", 4)
_system_call("set the clock", "settimeofday", 0, 0)
_system_call("open a file by its number", "open_by_handle_at", -100, 0, 0)
_system_call("watch files", "inotify_init1", 0)
_system_call("watch all files", "fanotify_init", 0, 0)
_system_call("make a device", "mknodat", -100, b"device", 0o020600, 0x103)
ATTEMPTS |= {
    "change the root folder": lambda _: os.chroot("."),
    "let others read its memory": lambda _: _prctl(4, 1),
    "outlive its parent": lambda _: _prctl(1, 0),
    "have anybody trace it": lambda _: _prctl(0x59616D61, -1),
    "type into the terminal": lambda _: fcntl.ioctl(2, 0x5412, b"x"),
    "have a descriptor signal by ioctl": lambda _: fcntl.ioctl(os.pipe()[0], 0x8901, (1).to_bytes(4, "little")),
}


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_long(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def service(folder: Path) -> dict[str, Any]:
    """Lay out the files of a service that runs a job, with secrets in them, and return where they are."""
    for name in ("storage/marked", "scratch/job_1/room", "scratch/job_2"):
        (folder / name).mkdir(parents=True)
    for name in ("key-encryption-key", "aiao.sqlite", "storage/marked/model.zip", "scratch/job_2/suspect"):
        (folder / name).write_text("a secret")
    return {
        "key": str(folder / "key-encryption-key"),
        "database": str(folder / "aiao.sqlite"),
        "storage": str(folder / "storage"),
        "other": str(folder / "scratch" / "job_2"),
        "room": str(folder / "scratch" / "job_1" / "room"),
        "home": str(Path.home()),
        "path": [path for path in sys.path if Path(path).is_dir()],
        "worker": os.getpid(),
    }


# What readers of model files do.


def honest(name: str, places: dict[str, Any]) -> dict[str, str]:
    """Do one of these; return how it ended."""
    try:
        HONEST[name](places)
    except OSError as error:
        return {"outcome": "refused", "how": str(error)}
    return {"outcome": "done", "how": ""}


def _in_threads(_: dict[str, Any]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(abs, range(100)))


def _in_the_room(places: dict[str, Any]) -> None:
    folder = Path(places["room"], "folder")
    folder.mkdir()
    (folder / "one").write_bytes(bytes(1 << 20))
    (folder / "one").rename(folder / "other")
    with (folder / "other").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:5] = b"hello"
    shutil.copyfile(folder / "other", folder / "third")
    shutil.rmtree(folder)


HONEST: dict[str, Attempt] = {
    "compute in threads": _in_threads,
    "write, map, copy and remove files": _in_the_room,
    "import a module": lambda _: importlib.import_module("colorsys"),
    "make a temporary file": lambda _: tempfile.TemporaryFile().close(),
    "draw random numbers": lambda _: os.urandom(8),
    "use much of its memory": lambda _: bytearray(512 << 20),
}
