"""Artifacts and checkpoints as objects: a folder, S3 or whatever obstore speaks to."""

import io
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, from_url

if TYPE_CHECKING:
    from obstore import ReadableFile  # only in its stubs


@dataclass(frozen=True)
class Stored:
    """An object in storage."""

    key: str
    size: int
    changed_at: datetime


class Storage:
    """Objects by key. An object appears whole or not at all."""

    def __init__(self, url: str) -> None:
        if url.startswith("file://"):
            folder = Path(unquote(urlsplit(url).path))
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.store = LocalStore(folder)
        else:
            self.store = from_url(url)

    def put(self, key: str, file: Path) -> None:
        obstore.put(self.store, key, file)

    async def receive(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store what ``chunks`` yields, as it comes. If that fails, nothing is stored, and its exception is raised."""
        await obstore.put_async(self.store, key, chunks)

    def stream(self, key: str) -> Iterator[bytes]:
        """The object's bytes in chunks. Raises FileNotFoundError before the first one."""
        try:
            result = obstore.get(self.store, key)
        except NotFoundError as error:
            raise FileNotFoundError(key) from error
        return (bytes(chunk) for chunk in result.stream())

    async def stream_async(self, key: str) -> AsyncIterator[bytes]:
        """The object's bytes in chunks. Raises FileNotFoundError."""
        try:
            result = await obstore.get_async(self.store, key)
        except NotFoundError as error:
            raise FileNotFoundError(key) from error
        async for chunk in result.stream():
            yield bytes(chunk)

    def open(self, key: str) -> BinaryIO:
        """The object as a file in which one can seek: only what is read is fetched."""
        return cast("BinaryIO", io.BufferedReader(_Readable(obstore.open_reader(self.store, key))))

    def download(self, key: str, file: Path) -> None:
        """Write the object to ``file``. Raises FileNotFoundError."""
        chunks = self.stream(key)
        with file.open("wb") as target:
            for chunk in chunks:
                target.write(chunk)

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        try:
            obstore.delete(self.store, key)
        except (NotFoundError, FileNotFoundError):
            return

    def list(self, prefix: str) -> Iterator[list[Stored]]:
        """The objects whose keys begin with the folder ``prefix``, some at a time."""
        for some in obstore.list(self.store, prefix):
            yield [Stored(each["path"], each["size"], each["last_modified"]) for each in some]

    def drop_unfinished(self, before: datetime) -> int:
        """Delete what killed processes had begun to write into a folder; a bucket has rules of its own for that."""
        unfinished = (
            [file for file in Path(self.store.prefix or "").rglob("*") if re.search(r"#\d+$", file.name)]
            if isinstance(self.store, LocalStore)
            else []
        )
        old = [file for file in unfinished if file.stat().st_mtime < before.timestamp()]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)

    def ping(self) -> None:
        next(iter(obstore.list(self.store, chunk_size=1)), None)


class _Readable(io.RawIOBase):
    """obstore's reader as a file of the standard library."""

    def __init__(self, reader: "ReadableFile") -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._reader.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()
