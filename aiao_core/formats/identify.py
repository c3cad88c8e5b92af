"""Identify a file by its content: what kind of file it is, and whether it is whole. Torch-free.

Every read is bounded, because an attacker may have made the file. Its name is the client's word and decides nothing.
"""

import json
import struct
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from aiao_core.errors import InvalidCheckpoint, UnsafeArchive, in_words
from aiao_core.formats import foreign
from aiao_core.formats.archive_members import UNREADABLE, begins_as_tar, is_compressed, plain_zip, slashed
from aiao_core.formats.folders import is_note_of_a_system

Kind = Literal["archive", "safetensors", "pickle", "gguf", "images"]
"""``images`` is an archive of images alone, or of arrays."""

MAX_HEADER_BYTES, MAX_TENSORS = 16 << 20, 10_000
"""Most bytes and entries of a safetensors header: ten times what the largest model has. Parsed, it is 20 times as large."""

GGUF_MAGIC = b"GGUF"
GGUF_ENTRY_BYTES = 32
"""The least that the description of one tensor takes."""

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class _UnknownFile(InvalidCheckpoint):
    """A file whose first bytes and name tell nothing."""


def identify(file: BinaryIO, size: int, name: str = "") -> Kind:
    """Return the kind of ``file``, which is open at its beginning and has ``size`` bytes.

    ``name`` only decides which error a file of no known kind gets. Raises :class:`InvalidCheckpoint` for such a file, and for
    a broken one.
    """
    start = file.read(foreign.START_BYTES)
    file.seek(0)
    if _may_be_safetensors(start):
        _check_safetensors(file, size)
        return "safetensors"
    if start.startswith(b"PK"):
        return _zip_kind(file, "PyTorch checkpoint" if b"/data.pkl" in start else "ZIP archive")
    if start.startswith(GGUF_MAGIC):
        _check_gguf(file, size)
        return "gguf"
    if begins_as_tar(file):
        return "archive"
    file.seek(0)
    if is_compressed(file):
        raise InvalidCheckpoint("this compressed file is no readable TAR archive; pack the folder again")
    if start.startswith(b"\x80"):
        return "pickle"
    if recognized := foreign.in_words(start, size, name):
        raise InvalidCheckpoint(recognized)
    if start[8:9] == b"{" or PurePosixPath(name).suffix.lower() in (".safetensors", ".sft"):
        _check_safetensors(file, size)
        return "safetensors"
    raise _UnknownFile(
        "this is no .safetensors or GGUF file, no PyTorch checkpoint, no .zip or .tar archive and no .npz image set; "
        "pack a diffusers folder as .zip or .tar"
    )


def identify_path(path: Path) -> Kind:
    """Return the kind of the file at ``path``. Raises as :func:`identify` does, naming the file."""
    try:
        with path.open("rb") as file:
            return identify(file, path.stat().st_size, path.name)
    except InvalidCheckpoint as error:
        place = foreign.by_place(path) if isinstance(error, _UnknownFile) else None
        raise InvalidCheckpoint(f"{path.name}: {place or error}") from error


def read_header(file: BinaryIO) -> dict[str, Any]:
    """Return the header of a safetensors file that was identified as one: the tensors by name, and ``__metadata__``.

    Raises ValueError or :class:`struct.error` for another file.
    """
    length = struct.unpack("<Q", file.read(8))[0]
    header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header


def _may_be_safetensors(start: bytes) -> bool:
    """Return whether a file begins with the length of a short header, in three bytes that may be any, and that header."""
    return start[3:9] == b"\0\0\0\0\0{"


def _zip_kind(file: BinaryIO, likely: str) -> Kind:
    try:
        with plain_zip(file) as archive:
            names = [
                name for entry in archive.infolist() if not is_note_of_a_system(name := slashed(entry)) and name[-1] != "/"
            ]
    except (*UNREADABLE, UnsafeArchive) as error:
        raise InvalidCheckpoint(f"this {likely} is broken or incomplete ({in_words(error)}); upload it again") from error
    if not names:
        raise InvalidCheckpoint("this ZIP archive is empty")
    suffixes = {PurePosixPath(name).suffix.lower() for name in names}
    if any(name.endswith("/data.pkl") for name in names):
        if any(name.endswith("/constants.pkl") for name in names):
            raise InvalidCheckpoint(
                "this is a TorchScript module, whose code is never run; submit the state_dict() of the model"
            )
        return "pickle"
    return "images" if suffixes == {".npy"} or suffixes <= IMAGE_SUFFIXES else "archive"


def _check_safetensors(file: BinaryIO, size: int) -> None:
    """Raise unless the header is readable and the file holds all the bytes that it announces."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
    try:
        if length > size - 8:
            raise ValueError("its header is longer than the file")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header of {length} bytes is longer than {MAX_HEADER_BYTES}, the most that is read")
        header = json.loads(file.read(length))
        if len(header) > MAX_TENSORS:
            raise ValueError(f"it names {len(header)} tensors, and the most that is read is {MAX_TENSORS}")
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
        if not isinstance(end, int) or end != size - 8 - length:
            raise ValueError(f"its header announces {end} bytes of weights, but {size - 8 - length} follow")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise InvalidCheckpoint(f"this is no complete safetensors file: {in_words(error)}; upload it again") from error


def _check_gguf(file: BinaryIO, size: int) -> None:
    """Raise unless the version and the number of tensors are possible. The library reads the rest."""
    fields = file.read(24)
    version, tensors, _ = struct.unpack("<4xIQQ", fields.ljust(24, b"\0"))
    if version not in (2, 3) or not 1 <= tensors <= size // GGUF_ENTRY_BYTES:
        raise InvalidCheckpoint(
            f"this GGUF file announces version {version} and {tensors} tensors in {size} bytes, which cannot be; "
            "upload it again, as little-endian GGUF of version 2 or 3"
        )
