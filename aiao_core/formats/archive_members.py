"""Read the members of archives that an attacker may have made, a bounded part at a time."""

import bz2
import gzip
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from aiao_core.errors import UnsafeArchive
from aiao_core.formats.folders import is_note_of_a_system

CHUNK_BYTES = 1 << 20
DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""By the first bytes of a compressed file."""

MAX_PAX_BYTES = 4096
"""Most bytes of a member's extended header, which holds long names and times."""

MAX_DIRECTORY_BYTES = 32 << 20
"""Most bytes of a ZIP archive's directory, which ``zipfile`` reads whole, at once: 400,000 entries of 80 bytes each."""

MAX_ENTRIES = 400_100
"""Most files and folders of a ZIP archive: the largest image set has 200,000 images, perhaps with a caption beside each."""

ENCRYPTED = 1
"""The bit by which a member of a ZIP archive says that it needs a password."""

MAX_NOTE_BYTES = 1 << 20
"""Most bytes of a file that is left out as a note of an operating system."""

MAX_TARGET_BYTES = 4096
"""Most bytes of the path to which a link leads."""

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
class Member:
    """A member of an archive: a file with its content, a link with its target, or a folder with neither."""

    name: str
    size: int = 0
    stream: IO[bytes] | None = None
    target: str | None = None
    """From the root of the archive."""

    @property
    def is_note(self) -> bool:
        return self.size <= MAX_NOTE_BYTES and is_note_of_a_system(self.name)


def slashed(entry: zipfile.ZipInfo) -> str:
    """Return the path of a member of a ZIP archive: Windows PowerShell writes backslashes where the format has slashes."""
    return entry.filename.replace("\\", "/")


def zip_members(path: Path) -> Iterator[Member]:
    """Yield the members of a ZIP archive, each to be read before the next. Raises what :data:`UNREADABLE` lists."""
    with path.open("rb") as file, plain_zip(file) as archive:
        for entry in archive.infolist():
            if entry.flag_bits & ENCRYPTED:
                raise UnsafeArchive("the archive is encrypted; pack it again without a password")
            name, kind = slashed(entry), (entry.external_attr >> 16) & 0o170000
            if kind == stat.S_IFLNK:
                with archive.open(entry) as stream:
                    target = stream.read(MAX_TARGET_BYTES).decode("utf-8", "surrogateescape")
                yield Member(name, target=_from_root(name, target))
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnsafeArchive(f"the archive holds {name!r}, a device; pack plain files only")
            elif name.endswith("/"):
                yield Member(name)
            else:
                with archive.open(entry) as stream:
                    yield Member(name, entry.file_size, stream)


def tar_members(path: Path) -> Iterator[Member]:
    """Yield the members of a TAR archive, compressed or not, each to be read before the next. Raises as above."""
    with path.open("rb") as file:
        decompressor = decompressor_of(file)
        with plain_tar(decompressor(file, "rb") if decompressor else file) as archive:
            for entry in archive:
                name = entry.name.replace("\\", "/")
                if entry.isdir():
                    yield Member(name)
                elif entry.issym():
                    yield Member(name, target=_from_root(name, entry.linkname))
                elif entry.islnk():
                    yield Member(name, target=entry.linkname)
                elif entry.isreg() and (content := archive.extractfile(entry)):
                    with content:
                        yield Member(name, entry.size, content)
                else:
                    raise UnsafeArchive(f"the archive holds {entry.name!r}, a device; pack plain files only")


def _from_root(link: str, target: str) -> str:
    """Return where a symbolic link leads, from the root of the archive; a path that begins with ``..`` leads out of it."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(link), target))


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


def is_compressed(stream: IO[bytes]) -> bool:
    """Return whether a file, open at its beginning, is compressed as TAR archives are."""
    return decompressor_of(stream) is not None


def begins_as_tar(stream: IO[bytes]) -> bool:
    """Return whether a file, open at its beginning, is a TAR archive.

    By its first header alone: ``tarfile`` would read as much as that header claims.
    """
    decompressor = decompressor_of(stream)
    try:
        header = (decompressor(stream, "rb") if decompressor else stream).read(tarfile.BLOCKSIZE)
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except UNREADABLE:
        return False
    return True


def decompressor_of(stream: IO[bytes]) -> Callable[..., Any] | None:
    """Return what opens a compressed file, which is open at its beginning; None if it is not compressed."""
    start = stream.read(6)
    stream.seek(0)
    return next((opener for magic, opener in DECOMPRESSORS.items() if start.startswith(magic)), None)


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
