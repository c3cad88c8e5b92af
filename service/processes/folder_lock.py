"""One embedded system for each data folder: a lock that the operating system takes back, whatever ends its holder."""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

LOCK_FILE = "up.lock"

State = Literal["starting", "running", "stopping"]


class FolderInUse(Exception):
    """The data folder cannot be locked: another process has it, or the system refuses. Says which, or why."""


class FolderLock:
    """The lock of a data folder, from its making until this process ends.

    The file names the process that holds the lock. It stays when that process ends: if it were deleted, one process could hold
    the lock on the deleted file and another one on a new file. Text that an earlier holder left in it does not count.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # No child inherits it, so that a child which outlives a crash of this process holds no lock.
            self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 4096, 0)
            os.close(self._file)
            raise FolderInUse(_sentence(folder, holder)) from error
        except OSError as error:
            reason = f"the data folder {folder} cannot be used ({error.strerror}); name another one by AIAO_DATA_DIR"
            raise FolderInUse(reason) from error
        self.tell("starting")

    def tell(self, state: State, url: str = "") -> None:
        """Write the state of this process, and where it listens, for another one that wants the folder."""
        text = json.dumps({"state": state, "pid": os.getpid(), "url": url}) + "\n"
        with suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)


def _sentence(folder: Path, holder: bytes) -> str:
    try:
        told = json.loads(holder)
        state, process, url = str(told["state"]), f"process {told['pid']}", str(told["url"])
    except (ValueError, KeyError, TypeError):  # read while it was being written
        state, process, url = "running", "another process", ""
    advice = {
        "starting": "it is not up yet, and will say where it listens",
        "stopping": "try again when it has stopped",
    }.get(state, "use it, or stop it first")
    return f"AIAO is already {state} on the data folder {folder}: {process}{url and ', ' + url}; {advice}"
