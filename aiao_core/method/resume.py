"""Training checkpoints, from which an interrupted embedding resumes."""

import errno
from pathlib import Path
from typing import Any, Protocol

import torch


class CheckpointStore(Protocol):
    """A place for the newest training checkpoint. A worker's is a place where another worker finds it."""

    def load(self) -> Path | None:
        """Return the newest checkpoint as a local file, or None if there is none yet."""

    def save(self, file: Path) -> None:
        """Replace the last checkpoint by ``file``, whole or not at all; the file may be moved away."""


class FileCheckpoint:
    """The newest training checkpoint as one file on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Path | None:
        return self.path if self.path.exists() else None

    def save(self, file: Path) -> None:
        file.replace(self.path)


def write_state(state: dict[str, Any], store: CheckpointStore, folder: Path) -> None:
    """Write ``state`` (tensors, numbers, strings) to ``store`` through a file in ``folder``. Raises OSError."""
    file = folder / "training-state.pt"
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch reports a full disk only as a file that is too short
        raise OSError(errno.EIO, "the training state cannot be written; is the disk full?") from error
    store.save(file)


def read_state(store: CheckpointStore) -> dict[str, Any] | None:
    """Read the last state, or None. Only tensors and plain values are read."""
    file = store.load()
    if file is None:
        return None
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state
