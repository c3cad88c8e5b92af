"""Seccomp: the calls of the kernel that a child may make, see seccomp(2). What is not in the list is refused.

A list of what is forbidden would be out of date with the next kernel. No call in this one starts a program or a process, opens
a socket, changes a file's owner or mode, or touches another process.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator

from service.kit.kernel import prctl

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""As the kernel names them to a filter."""

ALLOWED: dict[str, tuple[int, int | None]] = {
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214),
    "read": (0, 63), "pread64": (17, 67), "readv": (19, 65), "preadv": (295, 69), "write": (1, 64), "pwrite64": (18, 68),
    "writev": (20, 66), "pwritev": (296, 70), "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62),
    "sendfile": (40, 71), "copy_file_range": (326, 285),
    "open": (2, None), "openat": (257, 56), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "fadvise64": (221, 223), "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82), "fdatasync": (75, 83),
    "flock": (73, 32), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, None),
    "unlinkat": (263, 35), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "umask": (95, 166),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96),
    "membarrier": (324, 283), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "gettid": (186, 178),
    "getpid": (39, 172), "getppid": (110, 173), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260),
    "restart_syscall": (219, 128),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "select": (23, None), "pselect6": (270, 72), "poll": (7, None),
    "ppoll": (271, 73),
    "getrandom": (318, 278), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getrlimit": (97, 163),
    "getcpu": (309, 168),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "arch_prctl": (158, None),
}  # fmt: skip
"""Numbers on x86_64, and on aarch64 where it has the call."""

CLONE, CLONE3, KILL, TGKILL, PRCTL, PRLIMIT, FCNTL, IOCTL = (
    (56, 220), (435, 435), (62, 129), (234, 131), (157, 167), (302, 261), (72, 25), (16, 29)
)  # fmt: skip
"""Calls that are allowed with some arguments only."""

CLONE_THREAD = 0x10000
NAMES = (15, 0x53564D41)
"""Of prctl: the name of a thread, and of a piece of memory."""

PLAIN_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)
"""Copies, flags and locks of a descriptor; not who gets its signals, and which."""

PLAIN_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""What a terminal is, how much there is to read, whether to wait, and whether a program that is started would have it."""

NEWEST = 424
"""Numbers from here on are the same everywhere and of calls that a C library does without: for these there is no such call."""

LOAD, JUMP_EQUAL, JUMP_FROM, JUMP_SET, GIVE = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, UNKNOWN, KILL_PROCESS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16

Step = tuple[int, int, int, int]


def supported() -> bool:
    """Return whether the numbers of this machine are known."""
    return sys.platform == "linux" and platform.machine() in ARCHITECTURES


def restrict() -> None:
    """Refuse this thread, and what it starts, every other call."""
    code = b"".join(struct.pack("HBBI", *step) for step in _steps())
    program = ctypes.create_string_buffer(code)
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(program))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header))


def _steps() -> Iterator[Step]:
    """Yield the classic BPF program. A jump counts the steps to skip, if so and if not."""
    machine = platform.machine()
    column, self = int(machine == "aarch64"), os.getpid()
    yield LOAD, 0, 0, ARCHITECTURE
    yield JUMP_EQUAL, 1, 0, ARCHITECTURES[machine]
    yield GIVE, 0, 0, KILL_PROCESS
    yield LOAD, 0, 0, NUMBER
    if machine == "x86_64":  # its second set of numbers
        yield JUMP_FROM, 0, 1, 0x40000000
        yield GIVE, 0, 0, REFUSE
    for numbers in ALLOWED.values():
        if numbers[column] is not None:
            yield JUMP_EQUAL, 0, 1, numbers[column] or 0
            yield GIVE, 0, 0, ALLOW
    # A thread of its own, but no process. What the first argument of the newer call points to, no filter can read.
    yield from _with_argument(CLONE[column], 0, [CLONE_THREAD], JUMP_SET)
    yield JUMP_EQUAL, 0, 1, CLONE3[column]
    yield GIVE, 0, 0, UNKNOWN
    for call in (KILL, TGKILL, PRLIMIT):
        yield from _with_argument(call[column], 0, [self, *([0] if call == PRLIMIT else [])])
    yield from _with_argument(PRCTL[column], 0, NAMES)
    yield from _with_argument(FCNTL[column], 1, PLAIN_FCNTL)
    yield from _with_argument(IOCTL[column], 1, PLAIN_IOCTL)
    yield JUMP_FROM, 0, 1, NEWEST
    yield GIVE, 0, 0, UNKNOWN
    yield GIVE, 0, 0, REFUSE


def _with_argument(call: int, place: int, values: "list[int] | tuple[int, ...]", how: int = JUMP_EQUAL) -> Iterator[Step]:
    """Allow a call if the lower half of one argument is one of ``values``: the kernel reads no more of these arguments."""
    yield JUMP_EQUAL, 0, 2 + 2 * len(values), call
    yield LOAD, 0, 0, FIRST_ARGUMENT + 8 * place
    for value in values:
        yield how, 0, 1, value
        yield GIVE, 0, 0, ALLOW
    yield GIVE, 0, 0, REFUSE
