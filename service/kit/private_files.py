"""Files of the service are its user's alone: keys, database and uploads lie among them."""

import os
import stat
from pathlib import Path

OTHERS = 0o007

OURS = ("aiao.sqlite", "aiao.sqlite-wal", "aiao.sqlite-shm", "logs", "scratch", "storage")
"""In the data folder, what versions up to 0.3.0 made readable to everybody if `aiao admin` came first."""


def keep_new_files_private() -> None:
    """Let this process, and those that it starts, make folders of mode 0700 and files of mode 0600."""
    os.umask(0o077)


def make_private(folder: Path) -> None:
    """Make a data folder and the folders above it, and take what is ours in one that is there from all others.

    The mode of a folder that is there is the operator's choice, and so is what its group may do.
    """
    keep_new_files_private()
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(folder.joinpath, OURS):
        if path.exists() and not path.is_symlink():
            status = path.stat()
            if status.st_uid == os.geteuid() and status.st_mode & OTHERS:
                path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)
