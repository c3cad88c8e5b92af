"""Turn what goes wrong in HTTP into the client's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from aiao._client.errors import ApiError, ClientError

Document = TypeVar("Document", bound=BaseModel)


def checked_url(url: str) -> str:
    """``url`` if it can be the address of a service."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ClientError(f"{url} is no address of a service; one looks like http://127.0.0.1:8377")
    return url


def checked_token(token: str) -> str:
    """``token``, without white space around it, if it can be one. It is secret: no message repeats it."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientError("the token holds characters that no token has; copy it again, or start `aiao up` again")
    return token


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn connection errors inside the block into sentences."""
    try:
        yield
    except httpx.ConnectError as error:
        raise ClientError(f"nothing answers at {url}; is `aiao up` running?") from error
    except httpx.HTTPError as error:
        raise ClientError(f"the connection to {url} broke ({error or type(error).__name__}); try again") from error


def is_transient(error: ClientError) -> bool:
    """Whether the connection broke or a proxy found no service behind it, as while one is restarted."""
    return isinstance(error.__cause__, httpx.HTTPError) or (isinstance(error, ApiError) and error.status in (502, 503, 504))


def check(response: httpx.Response) -> None:
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


def read(kind: type[Document], answer: str | bytes | dict[str, Any]) -> Document:
    """The document in an answer. Raises :class:`ClientError` if it is none, for example because a proxy answered."""
    try:
        return kind.model_validate(answer) if isinstance(answer, dict) else kind.model_validate_json(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole of it"
        raise ClientError(
            f"the answer is no {kind.__name__} that this client understands ({where}: {first['msg']}); "
            "is it an AIAO service at this address, and as new as this client?"
        ) from error
