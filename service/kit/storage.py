"""Artifacts and checkpoints as objects: in a folder, in S3 or in another store that obstore speaks to."""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from service.kit.credentials import Credentials

if TYPE_CHECKING:
    from obstore import ReadableFile  # only in its stubs

READ_CHUNK_BYTES = 4 << 20
"""Bytes of a large object that are read at once."""

WRITE_CHUNK_BYTES, CONCURRENT_WRITES = 8 << 20, 4
"""Size of a part that is written, in bytes (S3 takes at least 5 MiB, and at most 10,000 parts), and parts at a time."""

CLOUDS = {"s3": "aws", "azure": "azure", "gcs": "google"}
"""How the names of a store's credentials begin."""


@dataclass(frozen=True)
class StoredObject:
    """An object in storage."""

    key: str
    size: int
    changed_at: datetime


class Storage:
    """Objects by key. An object appears whole or not at all."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        if url.startswith("file://"):
            folder = Path(unquote(urlsplit(url).path))
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.store: ObjectStore = LocalStore(folder)
        else:
            # What is not among the credentials, obstore looks for in the environment.
            given: Any = credentials.of(CLOUDS.get(obstore.parse_scheme(url), ""))
            self.store = from_url(url, config=given)

    def put(self, key: str, file: Path) -> None:
        obstore.put(self.store, key, file)

    async def receive(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store ``chunks`` as they come. If that fails, store nothing and raise its exception."""
        await obstore.put_async(self.store, key, chunks, chunk_size=WRITE_CHUNK_BYTES, max_concurrency=CONCURRENT_WRITES)

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the object's bytes in chunks. Raise FileNotFoundError before the first one."""
        pieces = self._pieces(key)
        return (bytes(obstore.get_range(self.store, key, start=start, end=end)) for start, end in pieces)

    async def stream_async(self, key: str) -> AsyncIterator[bytes]:
        """Yield the object's bytes in chunks. Raise FileNotFoundError, also if it is deleted meanwhile."""
        for start, end in await asyncio.to_thread(self._pieces, key):
            with _missing_is_no_file(key):
                piece = await obstore.get_range_async(self.store, key, start=start, end=end)
            yield bytes(piece)

    def _pieces(self, key: str) -> list[tuple[int, int]]:
        """Return where to cut the object: large pieces come several times as fast as obstore's own stream of small chunks."""
        with _missing_is_no_file(key):
            size = obstore.head(self.store, key)["size"]
        return [(start, min(size, start + READ_CHUNK_BYTES)) for start in range(0, size, READ_CHUNK_BYTES)]

    def open(self, key: str) -> BinaryIO:
        """Open the object as a file that can seek. Only bytes that are read are fetched."""
        return cast("BinaryIO", io.BufferedReader(_Readable(obstore.open_reader(self.store, key))))

    def download(self, key: str, file: Path) -> None:
        """Write the object to ``file``. Raise FileNotFoundError."""
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

    def list(self, prefix: str) -> Iterator[list[StoredObject]]:
        """Yield the objects in the folder ``prefix``, in lists of some."""
        for some in obstore.list(self.store, prefix):
            yield [StoredObject(each["path"], each["size"], each["last_modified"]) for each in some]

    def drop_unfinished(self, before: datetime) -> int:
        """Delete files that killed processes left half written; for S3 see :class:`service.kit.bucket.Bucket`."""
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


@contextmanager
def _missing_is_no_file(key: str) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(key) from error


class _Readable(io.RawIOBase):
    """A file of the standard library that reads by obstore."""

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
