"""What confined children are told to do."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def outcome(function, *arguments) -> str:
    """How a call of the child ended."""
    try:
        function(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"


def calls() -> dict[str, str]:
    libc = ctypes.CDLL(None, use_errno=True)
    x32_socket = libc.syscall(0x40000000 + 41, socket.AF_INET, socket.SOCK_STREAM, 0)
    return {
        "internet": outcome(socket.socket),
        "unix": outcome(socket.socket, socket.AF_UNIX),
        "program": outcome(os.execv, "/bin/true", ["true"]),
        "subprocess": outcome(subprocess.run, ["/bin/true"]),
        "second numbers": "refused" if x32_socket == -1 and ctypes.get_errno() == 1 else "done",
        "file": outcome(Path("/proc/self/status").read_text),
    }


def add(one: int, other: int) -> dict[str, int]:
    return {"sum": one + other}


def fill_the_memory() -> dict[str, int]:
    return {"kept": len([bytearray(64 << 20) for _ in range(1000)])}


def fill_a_tensor() -> dict[str, int]:
    import torch

    return {"size": torch.zeros(64 << 30, dtype=torch.uint8).numel()}


def crash() -> dict[str, int]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def be_killed() -> dict[str, int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fail() -> dict[str, int]:
    raise ValueError("a mistake")


def leave() -> dict[str, int]:
    raise SystemExit


def sleep(file: str) -> dict[str, int]:
    partial = Path(file).with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(file)
    time.sleep(600)
    return {}


def answer(content: str) -> dict[str, int]:
    """Write an answer of its own, and end."""
    Path(sys._getframe(1).f_locals["request"]["answer"]).write_text(content)
    os._exit(0)


def write_a_line() -> dict[str, int]:
    print("0", flush=True)
    os.write(1, b"0\n")
    os._exit(3)


def modules() -> dict[str, list[str]]:
    return {"loaded": list(sys.modules)}


def environment() -> dict[str, str]:
    return dict(os.environ)


def fill_the_disk(file: str) -> dict[str, int]:
    with Path(file).open("wb") as stream:
        while True:
            stream.write(bytes(1 << 20))
