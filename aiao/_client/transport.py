"""HTTP to one service: its token, its errors in words, its lists, and patience while a connection is broken.

Everything else in this package sends by a :class:`Transport`, and it knows none of the rest.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from aiao._client.documents import Document, Page, read
from aiao._client.errors import ApiError, ClientError
from aiao._client.stopping import check_stopped, pause

CHUNK_BYTES = 1 << 20
"""Bytes of a file that are sent or written at once."""

PAGE = 200
"""Items of a list that are asked for at once: the most that a service gives."""

RECONNECT_SECONDS = 1.0
"""Seconds between two tries to reach a service."""

RECONNECT_TRIES = 300
"""Tries in a row without progress. An embedding takes hours: the minutes of an upgrade of the service must not end the wait for
it, or an upload."""

LAST_ANSWER_SECONDS = 3600
"""Seconds the service may take to answer after the last byte of a large file, which it then reads once more."""

TransferProgress = Callable[[int, int], None]
"""Called with the bytes that have been transferred and their total."""


class Transport:
    """An HTTP connection to one service, with its token."""

    def __init__(self, url: str, token: str, *, timeout: float) -> None:
        """``timeout`` is in seconds, for each read or write. Raises :class:`ClientError` for a malformed address or token."""
        self.url = _checked_url(url)
        """Address of the service."""
        headers = {"Authorization": f"Bearer {_checked_token(token)}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)
        """The client of httpx underneath, whose errors are httpx's."""

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def get(self, path: str, *, accept: str = "application/json", **params: str | int) -> httpx.Response:
        """Send a GET request. Raises :class:`ClientError`."""
        return self.send("GET", path, params=params, headers={"Accept": accept})

    def post(self, path: str, *, json: dict[str, Any] | None = None, idempotency_key: str | None = None) -> httpx.Response:
        """Send a POST request with an Idempotency-Key, so that repeating it after a broken connection does nothing twice.

        Raises :class:`ClientError`.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self.send("POST", path, json=json, headers=headers)

    def delete(self, path: str) -> None:
        """Send a DELETE request. Raises :class:`ClientError`."""
        self.send("DELETE", path)

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request with the arguments of httpx. Raises :class:`ClientError`."""
        check_stopped()
        with self._errors_in_words():
            response = self.http.request(method, path, **arguments)
        _check(response)
        return response

    @contextmanager
    def stream(self, path: str) -> Iterator[httpx.Response]:
        """Send a GET request; the block reads the answer while it arrives. Raises :class:`ClientError`, in the block too."""
        check_stopped()
        with self._errors_in_words(), self.http.stream("GET", path) as answer:
            _check(answer)
            yield answer

    def list(self, path: str, kind: type[Document]) -> Iterator[Document]:
        """Yield the documents of a list of any length, page by page. Raises :class:`ClientError`."""
        cursor: str | None = None
        while True:
            page = read(Page, self.get(path, limit=PAGE, **({"cursor": cursor} if cursor else {})).content)
            yield from (read(kind, item) for item in page.items)
            cursor = page.next_cursor
            if cursor is None:
                return

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        """Turn connection errors inside the block into sentences."""
        try:
            yield
        except httpx.ConnectError as error:
            raise ClientError(f"nothing answers at {self.url}; is `aiao up` running?") from error
        except httpx.HTTPError as error:
            raise ClientError(f"the connection to {self.url} broke ({error or type(error).__name__}); try again") from error


class Retries:
    """The patience of one task that survives broken connections."""

    def __init__(self) -> None:
        self._failures = 0

    def progressed(self) -> None:
        """Start counting again: the task has got further."""
        self._failures = 0

    def wait(self, error: ClientError, *, transient: bool = False) -> None:
        """Pause before the next try, or raise ``error`` if it will not pass (unless ``transient``) or too many tries failed."""
        self._failures += 1
        if self._failures > RECONNECT_TRIES or not (transient or is_transient(error)):
            raise error
        pause(RECONNECT_SECONDS)


def is_transient(error: ClientError) -> bool:
    """Return whether the connection broke or a proxy found no service behind it, as while one is restarted."""
    return isinstance(error.__cause__, httpx.HTTPError) or (isinstance(error, ApiError) and error.status in (502, 503, 504))


def chunks(file: Path, offset: int, size: int) -> Iterator[bytes]:
    """Yield ``size`` bytes of ``file`` from ``offset`` on, at most :data:`CHUNK_BYTES` at a time."""
    with file.open("rb") as stream:
        stream.seek(offset)
        while size and (chunk := stream.read(min(CHUNK_BYTES, size))):
            check_stopped()
            size -= len(chunk)
            yield chunk


def _checked_url(url: str) -> str:
    """Return ``url`` if it can be the address of a service."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ClientError(f"{url} is not an address of a service; one looks like http://127.0.0.1:8377")
    return url


def _checked_token(token: str) -> str:
    """Return ``token`` without white space around it, if it can be one. It is secret: no message repeats it."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientError("the token holds characters that no token has; copy it again, or start `aiao up` again")
    return token


def _check(response: httpx.Response) -> None:
    """Raise :class:`ApiError` for an answer that is a problem document."""
    if response.is_success:
        return
    if response.has_redirect_location:
        raise ClientError(f"the service sends its callers to {response.headers['Location']}; use the address that begins so")
    response.read()
    try:
        document = response.json()
        problem = ApiError(response.status_code, str(document["type"]), str(document["detail"]))
    except (ValueError, KeyError, TypeError):
        problem = ApiError(response.status_code, "unknown", f"the service answered {response.status_code} without a reason")
    raise problem
