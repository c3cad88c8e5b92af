"""Unpack archives that an attacker may have made, and pack the ones we hand out."""

import errno
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from aiao_core.errors import InvalidCheckpoint, UnsafeArchive, in_words
from aiao_core.formats.archive_members import CHUNK_BYTES, UNREADABLE, begins_as_tar, plain_zip, tar_members, zip_members
from aiao_core.formats.folders import model_root

MAX_LINK_STEPS = 4
"""Most links that lead to each other before a file: a cache of the hub has one."""

MAX_DEPTH = 32
"""Most folders in each other: each costs the disk something, and none is counted."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk is at fault, not the archive."""


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


def is_tar(path: Path) -> bool:
    """Return whether a file is a TAR archive."""
    with path.open("rb") as stream:
        return begins_as_tar(stream)


def unpack(archive: Path, into: Path, limits: Limits | None = None) -> Path:
    """Unpack a ZIP or TAR (optionally compressed) into the new folder ``into`` and return the root of its content.

    A single top-level folder is taken as the root. Only plain files and folders come out: a link becomes the file of the
    archive to which it leads, and notes that macOS and Windows leave beside files stay out. Absolute paths, ``..``, other links
    and devices are refused, as is anything beyond ``limits``. On an error nothing stays behind. Raises :class:`UnsafeArchive`.
    """
    limits = limits or Limits()
    into.mkdir(parents=True)
    try:
        budget = _Budget(limits, archive.stat().st_size)
        if zipfile.is_zipfile(archive):
            budget.count_declared(archive)
            members = zip_members(archive)
        else:
            members = tar_members(archive)
        links: dict[str, str] = {}
        for member in members:
            budget.count_member(member.is_note)
            if member.is_note:
                continue
            if member.target is not None:
                links[member.name] = member.target
            elif member.stream is not None:
                _write(member.stream, _safe_path(into, member.name), budget)
        _follow(links, into, budget)
        children = list(into.iterdir())
        return model_root(children[0] if len(children) == 1 and children[0].is_dir() else into)
    except (UnsafeArchive, InvalidCheckpoint):
        shutil.rmtree(into)
        raise
    except UNREADABLE as error:
        shutil.rmtree(into)
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # the archive has done nothing wrong
            raise
        raise UnsafeArchive(
            f"the archive cannot be read ({in_words(error)}); pack it again as .zip or .tar and upload it whole"
        ) from error


@contextmanager
def opened(path: Path, limits: Limits | None = None) -> Iterator[Path]:
    """Yield the root of the folder or archive at ``path``, as :func:`unpacked` does, or the file itself if it is another."""
    if path.is_dir():
        yield model_root(path)
    elif not is_archive(path):
        yield path
    else:
        with unpacked(path, limits) as folder:
            yield folder


@contextmanager
def unpacked(archive: Path, limits: Limits | None = None) -> Iterator[Path]:
    """Yield the root of an archive's content, in a folder that lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="aiao-") as scratch:
        yield unpack(archive, Path(scratch) / archive.name, limits)  # messages name the folder


def pack(folder: Path, archive: Path) -> None:
    """Write ``folder`` as an uncompressed ZIP file whose bytes depend on its files' names and contents alone."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                with file.open("rb") as source, target.open(entry, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)


def has_slow_tar_headers() -> bool:
    """Return whether this Python takes time by the square of an extended header's length (CVE-2024-6232).

    Distributions fix it in older versions, which then have the new pattern.
    """
    fixed = sys.version_info >= (3, 12, 6) or (3, 11, 10) <= sys.version_info < (3, 12)
    return not fixed and not hasattr(tarfile, "_header_length_prefix_re")


class _Budget:
    def __init__(self, limits: Limits, packed_bytes: int) -> None:
        self.limits, self.members, self.notes, self.bytes = limits, 0, 0, 0
        self.allowed = min(limits.total_bytes, limits.slack_bytes + int(limits.ratio * packed_bytes))

    def count_member(self, is_note: bool) -> None:
        """Count a file or a folder. Notes of an operating system count apart: there may be one for each file."""
        self.members += not is_note
        self.notes += is_note
        if max(self.members, self.notes) > self.limits.files:
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


def _follow(links: dict[str, str], root: Path, budget: "_Budget") -> None:
    """Copy files to the places of the links that lead to them: a process that reads a stranger's archive may make no links."""
    for _ in range(MAX_LINK_STEPS):
        ready = {name: found for name, target in links.items() if (found := _file_in(root, target))}
        for name, found in ready.items():
            with found.open("rb") as stream:
                _write(stream, _safe_path(root, name), budget)
            del links[name]
    for name, target in links.items():
        raise UnsafeArchive(
            f"the archive holds {name!r}, a link to {target!r}, which is not a file of the archive; pack the files that the "
            "links lead to: tar -h, or zip without -y"
        )


def _file_in(root: Path, name: str) -> Path | None:
    try:
        path = _safe_path(root, name)
    except UnsafeArchive:
        return None
    return path if path.is_file() else None


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
