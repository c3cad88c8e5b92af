"""Read safetensors files, also those whose notes break the rules of the format: no weight is among the notes."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, in_words
from aiao_core.formats.identify import MAX_HEADER_BYTES
from aiao_core.formats.mapped import MappedFile

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""Types of numbers by the names that safetensors gives them."""


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name, by memory map. Raises :class:`InvalidCheckpoint`.

    The format's own library reads it. It refuses a file for a note that is not a text, as merge programs write; such a file is
    read here.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        try:
            weights = _read_with_odd_notes(file)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError):  # RecursionError too
            weights = None
        if weights is None:
            raise InvalidCheckpoint(
                f"{file.name} is no complete safetensors file ({in_words(error)}); upload it again"
            ) from error
        return weights


def _read_with_odd_notes(file: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file with such notes, or None for another file."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(min(length, MAX_HEADER_BYTES)), object_pairs_hook=_unique)
    notes = header.pop("__metadata__", {})
    if isinstance(notes, dict) and all(isinstance(note, str) for note in notes.values()):
        return None
    mapped, end, weights = MappedFile(file), 0, {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (first, last) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        size = math.prod(shape) * dtype.itemsize
        if first != end or last != first + size or not all(type(number) is int and number >= 0 for number in shape):
            raise ValueError("its tensors overlap or leave gaps")
        weights[name] = torch.empty(0, dtype=dtype).set_(mapped.part(8 + length + first, size)).reshape(shape)
        end = last
    return weights


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("two tensors have one name")
    return found
