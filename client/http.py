"""Turn what goes wrong in HTTP into the client's errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from client.errors import ApiError, ClientError


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn connection errors inside the block into sentences."""
    try:
        yield
    except httpx.ConnectError as error:
        raise ClientError(f"nothing answers at {url}; is `aiao up` running?") from error
    except httpx.HTTPError as error:
        raise ClientError(f"the connection to {url} broke ({error or type(error).__name__}); try again") from error


def check(response: httpx.Response) -> None:
    """Raise :class:`ApiError` for an answer that is a problem document."""
    if response.is_success:
        return
    response.read()
    try:
        document = response.json()
        problem = ApiError(response.status_code, str(document["type"]), str(document["detail"]))
    except (ValueError, KeyError, TypeError):
        problem = ApiError(response.status_code, "unknown", f"the service answered {response.status_code} without a reason")
    raise problem
