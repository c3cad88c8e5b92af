"""Artifacts and checkpoints as objects: a folder, S3 or whatever obstore speaks to."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, from_url


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

    def stream(self, key: str) -> Iterator[bytes]:
        """The object's bytes in chunks. Raises FileNotFoundError before the first one."""
        try:
            result = obstore.get(self.store, key)
        except NotFoundError as error:
            raise FileNotFoundError(key) from error
        return (bytes(chunk) for chunk in result.stream())

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

    def ping(self) -> None:
        next(iter(obstore.list(self.store, chunk_size=1)), None)
