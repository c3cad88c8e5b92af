"""Folders that live as long as one attempt at a job, and the removal of those that killed workers left."""

import fcntl
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
YOUNG_SECONDS = 60
"""A folder of this age may be about to be locked."""


@contextmanager
def scratch_folder(parent: Path, job_id: str) -> Iterator[Path]:
    """A new folder, which is the process's temporary one too, so that nothing a library unpacks outlives the attempt."""
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{job_id}-", dir=parent))
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when this process ends, however it does
            tempfile.tempdir = str(folder)
            yield folder
    finally:
        tempfile.tempdir = None
        shutil.rmtree(folder, ignore_errors=True)


def without_folders(sentence: str, *ours: Path) -> str:
    """Return a sentence for a client without the names of folders of this machine: those that are ``ours``, and Python's."""
    python = {Path(path) for path in (sys.prefix, sys.base_prefix) if path.count("/") > 1}  # and not /usr, which clients know
    known = {*ours, *(path.resolve() for path in ours), Path(tempfile.gettempdir()), *python} - {Path("/")}
    for folder in sorted(map(str, known), key=len, reverse=True):
        sentence = re.sub(rf"{re.escape(folder)}(?:/(?:[^/\s'\"]+/)*|(?![\w.-]))", "", sentence)
    return sentence


def remove_abandoned(parent: Path) -> None:
    """Remove the folders that no living process on this machine holds."""
    for folder in parent.glob("job_*"):
        try:
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        except FileNotFoundError:
            if folder.exists() and folder.stat().st_mtime < time.time() - YOUNG_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
