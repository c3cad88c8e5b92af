"""What confined children are told to do."""

import ctypes
import fcntl
import os
import sys
import time
from pathlib import Path


def add(one: int, other: int) -> dict[str, int]:
    return {"sum": one + other}


def fill_the_memory() -> dict[str, int]:
    return {"kept": len([bytearray(64 << 20) for _ in range(1000)])}


def fill_a_tensor() -> dict[str, int]:
    import torch

    return {"size": torch.zeros(64 << 30, dtype=torch.uint8).numel()}


def crash() -> dict[str, int]:
    ctypes.string_at(0)
    return {}


def erase_the_log() -> dict[str, int]:
    os.write(2, b"\x1b[2J what a terminal would obey\n")
    os.ftruncate(1, 0)
    os.ftruncate(2, 0)
    os.write(2, b"\x1b[2J again\n")
    return {}


def fail() -> dict[str, int]:
    raise ValueError("a mistake")


def leave() -> dict[str, int]:
    raise SystemExit


def sleep(file: str) -> dict[str, int]:
    """Lock ``file`` for as long as this process lives."""
    partial = Path(file).with_suffix(".partial")
    with partial.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
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
