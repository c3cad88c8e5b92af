"""The size of an uploaded model's denoiser, read without torch: enough to estimate the memory of its jobs.

All of it is the client's word. A lie misleads the estimate of the client's own jobs; a worker checks everything.
"""

import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO

from aiao_core.errors import UnsafeArchive
from aiao_core.formats.archive_members import plain_tar, plain_zip, slashed
from aiao_core.formats.identify import read_header
from aiao_core.formats.names import COMPANION_PREFIXES, EMA_PREFIX, PREFIXES, family_of
from aiao_core.sizing import UNKNOWN, DenoiserSize, positions

DENOISERS = ("unet", "transformer")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes per number, by the names that safetensors gives its types."""

HALF_PRECISION_BYTES = 2
"""Bytes per number in a file that does not state its type: at most twice as many numbers are counted as there are."""

SHARD = re.compile(r"-\d{5}-of-\d{5}")
DEFAULT_SIDE = 128
"""Positions a side where the configuration gives no size: that of the largest models."""

MAX_SIDE = 4096
MAX_PARAMETERS = 1 << 40
MAX_CONFIG_BYTES = 64 << 10
MAX_HEADER_BYTES = 1 << 20
MAX_HEADERS = 64
MAX_TAR_ENTRIES = 256
"""Most entries of a TAR archive that are looked at: each costs a read somewhere in the file. A pipeline folder has about 30."""

UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, OverflowError,
    struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError, UnsafeArchive,
)  # fmt: skip
"""Errors that the libraries raise for archives that no packer wrote."""

Entry = tuple[PurePosixPath, int, Callable[[], IO[bytes] | None]]
"""A file of an archive: its path, its bytes, and how to open it."""


def inspect(file: BinaryIO) -> DenoiserSize:
    """Return the size of the denoiser in ``file``: a packed pipeline folder or a safetensors file. ``UNKNOWN`` for another."""
    start = file.read(9)
    file.seek(0)
    if start[8:] == b"{":
        return _in_single_file(file)
    config: Any = {}
    numbers: dict[PurePosixPath, int] = {}
    headers = 0
    try:
        for path, size, open_entry in _entries(file):
            part = path.parent.name
            if len(path.parts) > 3 or part not in (*DENOISERS, *TEXT_ENCODERS):
                continue
            variant = path.with_name(SHARD.sub("", path.name))
            if path.name == "config.json" and part in DENOISERS:
                config = json.loads(_read(open_entry, MAX_CONFIG_BYTES))
            elif path.suffix == ".safetensors" and headers < MAX_HEADERS:
                headers += 1
                numbers[variant] = numbers.get(variant, 0) + _numbers(open_entry, size)
            elif path.suffix in (".safetensors", *PICKLES):
                numbers[variant] = numbers.get(variant, 0) + size // HALF_PRECISION_BYTES
        return DenoiserSize(
            class_name=_identifier(config.get("_class_name")),
            parameters=min(MAX_PARAMETERS, _largest(numbers, *DENOISERS)),
            positions=positions(_identifier(config.get("_class_name"))) or _positions(config.get("sample_size")),
            text_parameters=min(MAX_PARAMETERS, sum(_largest(numbers, part) for part in TEXT_ENCODERS)),
        )
    except UNREADABLE:
        return UNKNOWN


def _in_single_file(file: BinaryIO) -> DenoiserSize:
    """Return the size of the denoiser in a single file, by the names and sizes in its header."""
    try:
        header = {name: tensor for name, tensor in read_header(file).items() if name != "__metadata__"}
        part = {name: value for name, value in header.items() if not name.startswith((*COMPANION_PREFIXES, EMA_PREFIX))}
        parameters = sum(map(_numbers_in, part.values()))
        if not 0 <= parameters <= MAX_PARAMETERS:
            raise ValueError("the header announces what no file holds")
    except UNREADABLE:
        return UNKNOWN
    prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in part)), "")
    family = family_of(name.removeprefix(prefix) for name in part)
    class_name = family.class_name if family else ""
    return DenoiserSize(class_name, parameters, positions(class_name) or DEFAULT_SIDE**2, 0)


def _numbers_in(tensor: dict[str, Any]) -> int:
    start, end = tensor["data_offsets"]
    return int(end - start) // WIDTHS.get(tensor["dtype"], 1)


def _entries(file: BinaryIO) -> Iterator[Entry]:
    if zipfile.is_zipfile(file):
        with plain_zip(file) as archive:
            for entry in archive.infolist():
                yield PurePosixPath(slashed(entry)), entry.file_size, partial(archive.open, entry)
        return
    file.seek(0)
    with plain_tar(file) as tar:  # a compressed one, which would have to be read whole, raises an error
        for number, member in enumerate(islice(tar, MAX_TAR_ENTRIES + 1)):
            if number == MAX_TAR_ENTRIES:
                raise ValueError("too many entries for a model")
            if member.isreg():
                yield PurePosixPath(member.name), member.size, partial(tar.extractfile, member)


def _numbers(open_entry: Callable[[], IO[bytes] | None], size: int) -> int:
    """Count the numbers in a safetensors file of ``size`` bytes, by its header."""
    prefix = _read(open_entry, 8)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        return size // HALF_PRECISION_BYTES
    header = json.loads(_read(open_entry, 8 + length)[8:])
    count = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count += _numbers_in(tensor)
    if not 0 <= count <= size:
        raise ValueError("the header announces more than the file holds")
    return count


def _read(open_entry: Callable[[], IO[bytes] | None], size: int) -> bytes:
    stream = open_entry()
    if stream is None:
        raise ValueError("not a plain file")
    with stream:
        return stream.read(size)


def _largest(numbers: dict[PurePosixPath, int], *parts: str) -> int:
    """Return the numbers of the largest variant of ``parts``: a worker reads one variant, in half or single precision."""
    return max((count for variant, count in numbers.items() if variant.parent.name in parts), default=0)


def _identifier(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 100 and value.isascii() and value.isidentifier() else ""


def _positions(size: Any) -> int:
    sides = size if isinstance(size, list) else [size]
    known = [side for side in sides if type(side) is int and 0 < side <= MAX_SIDE]
    return known[0] * known[-1] if known and len(known) == len(sides) <= 2 else DEFAULT_SIDE**2
