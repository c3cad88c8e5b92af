"""Files of numbers that are mapped into memory: read when they are used, and changed by nobody who changes the tensors."""

from functools import cached_property
from pathlib import Path
from typing import cast

import torch

ALIGNMENT_BYTES = 16
"""Where numbers must begin to be used in place: at a multiple of the largest number. Some programs do not align them."""


class MappedFile:
    """A file, of which parts are taken as the numbers of tensors."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size

    @cached_property
    def _whole(self) -> torch.UntypedStorage:
        return cast("torch.UntypedStorage", torch.UntypedStorage.from_file(str(self.path), False, self.size))

    def part(self, start: int, size: int) -> torch.UntypedStorage:
        """Return ``size`` bytes from ``start``, in place or as a copy. Raises ValueError if the file ends before."""
        if not 0 <= start <= start + size <= self.size:
            raise ValueError("it ends too early")
        part: torch.UntypedStorage = self._whole[start : start + size]
        if part.data_ptr() % ALIGNMENT_BYTES == 0:
            return part
        return cast("torch.UntypedStorage", part.clone())  # type: ignore[no-untyped-call]
