"""What every kind of thing that a client can name has in common."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aiao._client.documents import Page
from aiao._client.http import Document, read

if TYPE_CHECKING:
    from aiao._client.api import Client

CHUNK_BYTES = 1 << 20
"""TransferProgress of a file that are sent or written at once."""

RECONNECT_SECONDS = 1.0
RECONNECT_TRIES = 300
"""An embedding takes hours: the minutes of an upgrade of the service must not end the wait for it, or an upload."""

LAST_ANSWER_SECONDS = 3600
"""After the last byte the service reads a large file once more before it answers."""

TransferProgress = Callable[[int, int], None]
"""Called with the bytes that have been transferred and their total."""


class Resource:
    """What can be named, by one client."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def _list(self, path: str, kind: type[Document]) -> Iterator[Document]:
        cursor: str | None = None
        while True:
            page = read(Page, self._client.get(path, limit=200, **({"cursor": cursor} if cursor else {})).content)
            yield from (read(kind, item) for item in page.items)
            cursor = page.next_cursor
            if cursor is None:
                return
