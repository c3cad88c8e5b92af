"""What is an uploaded file? By its content; its name is the client's word."""

import json
import struct
import zipfile
from pathlib import PurePosixPath
from typing import BinaryIO

from aiao_core.formats.archives import begins_as_tar, is_compressed
from service.artifacts.schemas import Kind
from service.kit.errors import InvalidArtifact

MAX_HEADER_BYTES = 100 << 20
GGUF = b"GGUF"
GGUF_ENTRY_BYTES = 32
"""The least that the description of one tensor takes."""
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def kind_of(file: BinaryIO, size: int, filename: str) -> Kind:
    """The kind of ``file``, of ``size`` bytes. Raises :class:`InvalidArtifact` for a broken one or one of no known kind."""
    start = file.read(9)
    file.seek(0)
    if size == 0:
        raise InvalidArtifact("the upload is empty; send the file as the body of the request")
    if start.startswith(b"PK"):
        return _zip_kind(file)
    if start.startswith(GGUF):
        _check_gguf(file, size)
        return "gguf"
    if begins_as_tar(file):
        return "archive"
    file.seek(0)
    if is_compressed(file):
        raise InvalidArtifact("this compressed file is no readable TAR archive; pack the folder again")
    if start[8:9] == b"{" or PurePosixPath(filename).suffix == ".safetensors":
        _check_safetensors(file, size)
        return "safetensors"
    if start.startswith(b"\x80"):
        return "pickle"
    raise InvalidArtifact(
        "this is no .safetensors or GGUF file, no PyTorch checkpoint, no .zip or .tar archive and no .npz image set; "
        "pack a diffusers folder as .zip or .tar"
    )


def _zip_kind(file: BinaryIO) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InvalidArtifact(f"this ZIP archive is broken or incomplete ({error}); upload it again") from error
    if not names:
        raise InvalidArtifact("this ZIP archive is empty")
    suffixes = {PurePosixPath(name).suffix.lower() for name in names}
    if any(name.endswith("/data.pkl") for name in names):
        return "pickle"
    return "images" if suffixes == {".npy"} or suffixes <= IMAGE_SUFFIXES else "archive"


def _check_safetensors(file: BinaryIO, size: int) -> None:
    """Is the header readable, and does the file hold all the bytes that it announces?"""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
    try:
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
        if not isinstance(end, int) or end != size - 8 - length:
            raise ValueError(f"its header announces {end} bytes of weights, but {size - 8 - length} follow")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise InvalidArtifact(f"this is no complete safetensors file: {error}; upload it again") from error


def _check_gguf(file: BinaryIO, size: int) -> None:
    """Are the version and the number of tensors possible? A worker reads the rest."""
    fields = file.read(24)
    version, tensors, _ = struct.unpack("<4xIQQ", fields.ljust(24, b"\0"))
    if version not in (2, 3) or not 1 <= tensors <= size // GGUF_ENTRY_BYTES:
        raise InvalidArtifact(
            f"this GGUF file announces version {version} and {tensors} tensors in {size} bytes, which cannot be; "
            "upload it again, as little-endian GGUF of version 2 or 3"
        )
