"""Landlock: which files a child may read and write, see landlock(7). A rule holds for the process and all that it starts."""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from service.kit.kernel import call

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of the calls, the same on every machine."""

VERSION_FLAG, PATH_BENEATH = 1, 1

READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
WRITE_FILE, REMOVE_FOLDER, REMOVE_FILE, MAKE_FOLDER, MAKE_FILE, TRUNCATE = 1 << 1, 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 14
OF_A_FILE = READ_FILE | WRITE_FILE | TRUNCATE
"""What can be allowed for a single file."""

READ = READ_FILE | READ_FOLDER
WRITE = READ | WRITE_FILE | REMOVE_FOLDER | REMOVE_FILE | MAKE_FOLDER | MAKE_FILE | TRUNCATE

KNOWN_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of Landlock knows; later ones know as many as the last. All are denied by default."""

NO_TCP, NO_SIGNALS_AND_SOCKETS = 0b11, 0b11
"""Of version 4: no TCP. Of version 6: no signal to a process outside, and no abstract socket of one."""


def version() -> int:
    """Return the version of Landlock that this kernel has, or 0."""
    try:
        return call("syscall", ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))
    except OSError:
        return 0


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Let this thread, and what it starts, read and write these files and folders alone. Paths that are missing are skipped."""
    known = version()
    rights = (1 << KNOWN_RIGHTS.get(known, max(KNOWN_RIGHTS.values()))) - 1
    attributes = struct.pack("QQQ", rights, NO_TCP if known >= 4 else 0, NO_SIGNALS_AND_SOCKETS if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = call("syscall", ctypes.c_long(CREATE_RULESET), attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for allowed, paths in ((READ, readable), (WRITE, writable)):
            for path in paths:
                _allow(ruleset, path, allowed & rights)
        call("syscall", ctypes.c_long(RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= OF_A_FILE
        rule = struct.pack("=Qi", rights, place)
        call("syscall", ctypes.c_long(ADD_RULE), ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)
