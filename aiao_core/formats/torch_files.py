"""Read the tensors of a file that ``torch.save`` wrote, without torch's own reader.

That one calls what a pickle asks for, from a list, and some of these calls take as much memory as they are told to. Here a
tensor is a part of the mapped file, and is made only once its place in the file was checked.
"""

import io
import math
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from aiao_core.errors import UnsafeArchive, in_words
from aiao_core.formats import pickles
from aiao_core.formats.archive_members import CHUNK_BYTES, ENCRYPTED, UNREADABLE, plain_zip
from aiao_core.formats.mapped import MappedFile
from aiao_core.formats.names import MAX_NAME_CHARACTERS
from aiao_core.formats.pickled_objects import MAX_NUMBER, DescribedTensor, MalformedPickle, StandIn, Storage

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
"""The first two pickles of a file from before torch 1.6."""

STORAGES = {
    "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64, "Byte": torch.uint8,
    "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8, "_Untyped": torch.uint8,
}  # fmt: skip
"""Types of numbers by the names of storages. An untyped one counts bytes."""


DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype) and name[0] != "q"}
"""Types of numbers by their names, but for quantized ones."""


@dataclass(frozen=True)
class _Place:
    start: int
    size: int


@dataclass
class TorchFile:
    """What a file holds, with descriptions in the place of its tensors; :meth:`tensor` makes these."""

    content: Any
    places: dict[str, _Place]
    """Where the numbers of each storage lie, in bytes."""
    _mapped: MappedFile
    _storages: dict[str, torch.UntypedStorage] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "TorchFile":
        """Read the description. Raises :class:`MalformedPickle`."""
        try:
            with path.open("rb") as file:
                if file.read(2) == b"PK":
                    return cls._open_zip(path, file)
                file.seek(0)
                return cls._open_legacy(path, file)
        except MalformedPickle:
            raise
        except (*UNREADABLE, UnsafeArchive, struct.error) as error:
            raise MalformedPickle(in_words(error)) from error

    @classmethod
    def _open_zip(cls, path: Path, file: IO[bytes]) -> "TorchFile":
        with plain_zip(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            described = [name for name in entries if name.endswith("/data.pkl")]
            if len(described) != 1 or len(entries) < len(archive.infolist()):
                raise MalformedPickle("it holds several descriptions, or two files of one name")
            folder = described[0].removesuffix("data.pkl")
            if (order := entries.get(f"{folder}byteorder")) and _read(archive, order, 16) != b"little":
                raise MalformedPickle("its numbers are big-endian")
            found = pickles.load(io.BytesIO(_read(archive, entries[described[0]], pickles.MAX_BYTES)))
        places = {}
        for key in found.storages:
            if not (entry := entries.get(f"{folder}data/{key}")):
                raise MalformedPickle("the numbers of a tensor are missing")
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.compress_size != entry.file_size
                or entry.flag_bits & ENCRYPTED
            ):
                raise MalformedPickle("it was compressed or encrypted afterwards; submit the file as torch.save() wrote it")
            file.seek(entry.header_offset)
            *_, name_length, extra_length = struct.unpack("<26xHH", file.read(30))
            places[key] = _Place(entry.header_offset + 30 + name_length + extra_length, entry.file_size)
        return cls(found.content, places, MappedFile(path))

    @classmethod
    def _open_legacy(cls, path: Path, file: IO[bytes]) -> "TorchFile":
        first = pickles.load(file).content
        if first != MAGIC or pickles.load(file).content != VERSION:
            named = f" but holds an object of {first.name[:MAX_NAME_CHARACTERS]}" if isinstance(first, StandIn) else ""
            raise MalformedPickle(f"it was not written by torch.save(){named}")
        machine = pickles.load(file).content
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise MalformedPickle("its numbers are big-endian")
        found, keys = pickles.load(file), pickles.load(file).content
        places = {}
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            raise MalformedPickle("its list of storages is damaged")
        for key in map(str, keys):
            (numbers,) = struct.unpack("<q", file.read(8))
            if (storage := found.storages.get(key)) is None or storage.numbers != numbers:
                raise MalformedPickle("it holds numbers that its description does not name")
            places[key] = _Place(file.tell(), numbers * _type_of(storage).itemsize)
            file.seek(places[key].size, io.SEEK_CUR)
        return cls(found.content, places, MappedFile(path))

    def tensor(self, described: DescribedTensor) -> Tensor:
        """Make a tensor, which shares its numbers with the file and with every other tensor that has them.

        Raises :class:`MalformedPickle` unless all of its numbers lie in the file.
        """
        storage, shape, strides = described.storage, described.shape, described.strides
        dtype = _dtype(described)
        width = _type_of(storage).itemsize
        numbers = storage.numbers * width // dtype.itemsize
        last = described.offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if math.prod(shape) > MAX_NUMBER or (0 not in shape and last >= numbers):
            raise MalformedPickle("a tensor has more numbers than its storage")
        if 0 in shape:
            return torch.empty(0, dtype=dtype)
        first = storage.first * width
        if first % dtype.itemsize:
            raise MalformedPickle("a tensor begins in the midst of a number")
        try:
            made = torch.empty(0, dtype=dtype)
            return made.set_(self._storage(storage), first // dtype.itemsize + described.offset, shape, strides)
        except (RuntimeError, TypeError) as error:  # for a type of numbers that torch has only on other devices
            raise MalformedPickle(f"a tensor cannot be made ({in_words(error)})") from error

    def _storage(self, storage: Storage) -> torch.UntypedStorage:
        if (made := self._storages.get(storage.key)) is not None:
            return made
        place = self.places.get(storage.key)
        if place is None or (storage.first + storage.numbers) * _type_of(storage).itemsize > place.size:
            raise MalformedPickle("the numbers of a tensor are missing")
        try:
            self._storages[storage.key] = self._mapped.part(place.start, place.size)
        except ValueError as error:
            raise MalformedPickle("the numbers of a tensor are cut off") from error
        return self._storages[storage.key]


def size_of(described: DescribedTensor) -> int:
    """Return how many bytes the tensor has, as it is described."""
    return math.prod(described.shape) * _dtype(described).itemsize


def _dtype(described: DescribedTensor) -> torch.dtype:
    if described.dtype is None:
        return _type_of(described.storage)
    if (named := DTYPES.get(described.dtype)) is None:
        raise MalformedPickle("a tensor has an unknown type of numbers")
    return named


def _type_of(storage: Storage) -> torch.dtype:
    module, _, name = storage.kind.rpartition(".")
    found = STORAGES.get(name.removesuffix("Storage")) if module.partition(".")[0] == "torch" else None
    if found is None:
        raise MalformedPickle("a tensor has an unknown type of numbers")
    return found


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    content = bytearray()
    with archive.open(entry) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            content += chunk
            if len(content) > most:
                raise MalformedPickle(f"its description has more than {most} bytes")
    return bytes(content)
