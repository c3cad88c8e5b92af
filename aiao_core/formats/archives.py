"""Unpack archives that an attacker may have made, and pack the ones we hand out."""

import bz2
import errno
import gzip
import lzma
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from aiao_core.errors import UnsafeArchive, in_words

CHUNK_BYTES = 1 << 20
DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""By the first bytes of a compressed file."""

MAX_PAX_BYTES = 4096
"""Most bytes of a member's extended header, which holds long names and times."""

MAX_DIRECTORY_BYTES = 32 << 20
"""Most bytes of a ZIP archive's directory, which ``zipfile`` reads whole, at once: 400,000 entries of 80 bytes each."""

MAX_ENTRIES = 400_100
"""Most files and folders of a ZIP archive: the largest image set has 200,000 images, perhaps with a caption beside each."""

MAX_DEPTH = 32
"""Most folders in each other: each costs the disk something, and none is counted."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk is at fault, not the archive."""

UNREADABLE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    LookupError,
    OverflowError,
)
"""What the libraries raise for archives that no packer wrote."""


@dataclass(frozen=True)
class Limits:
    """How far an archive may expand. Counted on the bytes that come out, and before that on the sizes that a ZIP declares."""

    files: int = 10_000
    """Files and folders."""
    total_bytes: int = 100 << 30
    ratio: float = 200.0
    """Unpacked over packed size; model weights hardly compress at all."""
    slack_bytes: int = 16 << 20
    """Bytes that may come out before the ratio counts: small text files compress well."""


def is_archive(path: Path) -> bool:
    """Return whether a file is a ZIP or TAR archive, by its content. A PyTorch checkpoint is a ZIP file, but not one."""
    if not zipfile.is_zipfile(path):
        return is_tar(path)
    try:
        with path.open("rb") as file, plain_zip(file) as archive:
            return not any(name.endswith("/data.pkl") for name in archive.namelist())
    except (*UNREADABLE, UnsafeArchive):
        return True  # unpacking it says what is wrong


def is_compressed(stream: IO[bytes]) -> bool:
    """Return whether a file, open at its beginning, is compressed as TAR archives are."""
    return _decompressor(stream) is not None


def is_tar(path: Path) -> bool:
    """Return whether a file is a TAR archive."""
    with path.open("rb") as stream:
        return begins_as_tar(stream)


def begins_as_tar(stream: IO[bytes]) -> bool:
    """Return whether a file, open at its beginning, is a TAR archive.

    By its first header alone: ``tarfile`` would read as much as that header claims.
    """
    decompressor = _decompressor(stream)
    try:
        header = (decompressor(stream, "rb") if decompressor else stream).read(tarfile.BLOCKSIZE)
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except UNREADABLE:
        return False
    return True


def _decompressor(stream: IO[bytes]) -> Callable[..., Any] | None:
    start = stream.read(6)
    stream.seek(0)
    return next((opener for magic, opener in DECOMPRESSORS.items() if start.startswith(magic)), None)


def unpack(archive: Path, into: Path, limits: Limits | None = None) -> Path:
    """Unpack a ZIP or TAR (optionally compressed) into the new folder ``into`` and return the root of its content.

    A single top-level folder is taken as the root. Only plain files and folders come out: absolute paths, ``..``, links and
    devices are refused, as is anything beyond ``limits``. On an error nothing stays behind. Raises :class:`UnsafeArchive`.
    """
    limits = limits or Limits()
    into.mkdir(parents=True)
    try:
        budget = _Budget(limits, archive.stat().st_size)
        if zipfile.is_zipfile(archive):
            budget.count_declared(archive)
            members = _zip_members(archive)
        else:
            members = _tar_members(archive)
        for name, stream in members:
            budget.count_member()
            if stream is not None:
                _write(stream, _safe_path(into, name), budget)
    except UnsafeArchive:
        shutil.rmtree(into)
        raise
    except UNREADABLE as error:
        shutil.rmtree(into)
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # the archive has done nothing wrong
            raise
        raise UnsafeArchive(
            f"the archive cannot be read ({in_words(error)}); pack it again as .zip or .tar and upload it whole"
        ) from error
    children = list(into.iterdir())
    return children[0] if len(children) == 1 and children[0].is_dir() else into


@contextmanager
def opened(path: Path, limits: Limits | None = None) -> Iterator[Path]:
    """Yield ``path`` itself, or, if it is an archive, the root of its content, as :func:`unpacked` does."""
    if path.is_dir() or not is_archive(path):
        yield path
    else:
        with unpacked(path, limits) as folder:
            yield folder


@contextmanager
def unpacked(archive: Path, limits: Limits | None = None) -> Iterator[Path]:
    """Yield the root of an archive's content, in a folder that lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="aiao-") as scratch:
        yield unpack(archive, Path(scratch) / "content", limits)


def pack(folder: Path, archive: Path) -> None:
    """Write ``folder`` as an uncompressed ZIP file whose bytes depend on its files' names and contents alone."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                with file.open("rb") as source, target.open(entry, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)


class _Budget:
    def __init__(self, limits: Limits, packed_bytes: int) -> None:
        self.limits, self.members, self.bytes = limits, 0, 0
        self.allowed = min(limits.total_bytes, limits.slack_bytes + int(limits.ratio * packed_bytes))

    def count_member(self) -> None:
        """Count a file or a folder."""
        self.members += 1
        if self.members > self.limits.files:
            raise UnsafeArchive(f"the archive holds more than {self.limits.files} files and folders; pack only the checkpoint")

    def count_declared(self, archive: Path) -> None:
        """Refuse a ZIP file that says itself that it expands too much, before any of it is written."""
        with archive.open("rb") as file, plain_zip(file) as opened:
            self._check(sum(entry.file_size for entry in opened.infolist()))

    def count_bytes(self, count: int) -> None:
        self.bytes += count
        self._check(self.bytes)

    def _check(self, count: int) -> None:
        if count > self.allowed:
            raise UnsafeArchive(
                f"the archive expands beyond {self.allowed} bytes, more than {self.limits.ratio:.0f} times its size or more "
                "than is allowed in total; upload the files without compression"
            )


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield each member's name, and its content if it is a file and not a folder."""
    with path.open("rb") as file, plain_zip(file) as archive:
        for entry in archive.infolist():
            kind = (entry.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                raise UnsafeArchive(f"the archive holds {entry.filename!r}, a link or device; pack plain files only")
            if entry.is_dir():
                yield entry.filename, None
                continue
            with archive.open(entry) as stream:
                yield entry.filename, stream


def _tar_members(path: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with path.open("rb") as file:
        decompressor = _decompressor(file)
        with plain_tar(decompressor(file, "rb") if decompressor else file) as archive:
            for entry in archive:
                if entry.isdir():
                    yield entry.name, None
                    continue
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is None:
                    raise UnsafeArchive(f"the archive holds {entry.name!r}, a link or device; pack plain files only")
                with content:
                    yield entry.name, content


def plain_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a ZIP archive. Raises :class:`UnsafeArchive` before much of its directory is read, and for too many entries.

    The limit holds where ``zipfile`` reads the directory, of the size that it found: there are several places where an archive
    can state one (its last record, one in a comment, ZIP64's), and a second reader of them could be led to another.
    """
    archive = zipfile.ZipFile(cast("IO[bytes]", _ShortReads(file, MAX_DIRECTORY_BYTES)))
    if len(archive.infolist()) > MAX_ENTRIES:
        raise UnsafeArchive(f"the archive holds more than {MAX_ENTRIES} files and folders; pack only the checkpoint or images")
    if not all(entry.filename for entry in archive.infolist()):
        raise UnsafeArchive("the archive holds an entry without a name; pack it again")
    return archive


def plain_tar(stream: IO[bytes]) -> tarfile.TarFile:
    """Open a TAR archive without compression, which raises :class:`UnsafeArchive` before much is read at once."""
    return tarfile.open(fileobj=_ShortReads(stream, CHUNK_BYTES), mode="r:", tarinfo=_Entry)


def has_slow_tar_headers() -> bool:
    """Return whether this Python takes time by the square of an extended header's length (CVE-2024-6232).

    Distributions fix it in older versions, which then have the new pattern.
    """
    fixed = sys.version_info >= (3, 12, 6) or (3, 11, 10) <= sys.version_info < (3, 12)
    return not fixed and not hasattr(tarfile, "_header_length_prefix_re")


class _Entry(tarfile.TarInfo):
    """A member of a TAR archive, whose extended header must be short: see :func:`has_slow_tar_headers`."""

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size > MAX_PAX_BYTES:
            raise UnsafeArchive(f"the archive holds an extended header of {self.size} bytes; pack it again with ordinary names")
        return super()._proc_pax(archive)  # type: ignore[misc,no-any-return]


class _ShortReads:
    """A stream that refuses to read much at once.

    ``tarfile`` takes a long name whole, and ``zipfile`` a directory, however long the archive says that these are.
    """

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes; without a size all that follow, of which there must be few."""
        content = self._stream.read(min(size, self._most + 1) if size >= 0 else self._most + 1)
        if max(size, len(content)) > self._most:
            raise UnsafeArchive(
                f"the archive holds a name, header or directory of more than {self._most} bytes; pack fewer files, with "
                "ordinary names"
            )
        return content


def _safe_path(root: Path, name: str) -> Path:
    pure = PurePosixPath(name)
    if "\\" in name or ":" in name or "\0" in name or pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise UnsafeArchive(f"the archive holds {name!r}, a path outside of its folder; pack it with relative paths")
    if len(pure.parts) > MAX_DEPTH:
        raise UnsafeArchive(f"the archive holds folders in each other more than {MAX_DEPTH} deep; pack only the checkpoint")
    return root.joinpath(*pure.parts)


def _write(stream: IO[bytes], path: Path, budget: _Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        while chunk := stream.read(CHUNK_BYTES):
            budget.count_bytes(len(chunk))
            target.write(chunk)
