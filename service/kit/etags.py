"""Conditional GETs by entity tags (RFC 9110): a client that holds the current version gets 304 and no body."""

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request, Response

from aiao_core import __version__
from service.kit.schemas import header

CACHE_CONTROL = "private, no-cache"
"""Caches ask again at each use, so that only a token that may still see the answer sees it."""

OPAQUE_TAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')


def conditional(**success: Any) -> dict[int | str, dict[str, Any]]:
    """Describe such answers for OpenAPI; ``success`` adds to the description of 200."""
    headers = {"ETag": header("string", "Send it as `If-None-Match` to get this again only if it has changed.")}
    return {
        200: {"headers": headers} | success,
        304: {"description": "What you hold, by `If-None-Match`, is what would be sent.", "headers": headers},
    }


class NotModified(Exception):
    """The answer 304, with the headers that a cache needs."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(headers["ETag"])
        self.headers = headers


@dataclass(frozen=True)
class Precondition:
    """The tags that the caller holds. Check it once the caller is known to be allowed to see the document."""

    if_none_match: str
    response: Response

    def check(self, tag: str, vary: str | None = None) -> dict[str, str]:
        """Raise :class:`NotModified` if the caller holds ``tag``.

        Otherwise give ``response`` these headers, which an endpoint that returns another response must put there itself.
        """
        headers = {"ETag": tag, "Cache-Control": CACHE_CONTROL} | ({"Vary": vary} if vary else {})
        # The comparison is a weak one; a header that is not a list of tags holds none.
        if self.if_none_match == "*" or tag.removeprefix("W/") in OPAQUE_TAG.findall(self.if_none_match):
            raise NotModified(headers)
        self.response.headers.update(headers)
        return headers


async def get_precondition(
    response: Response,
    if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="The `ETag` of what you hold, or several with commas between.")
    ] = None,
) -> Precondition:
    return Precondition(if_none_match or "", response)


PreconditionDep = Annotated[Precondition, Depends(get_precondition)]


def weak(*parts: object) -> str:
    """Return the tag of a document that this version of the service makes of ``parts``: all that can change in it."""
    return f'W/"{hashlib.sha256(repr((__version__, parts)).encode()).hexdigest()[:32]}"'


def strong(sha256: str) -> str:
    """Return the tag of stored bytes, which are sent as they are."""
    return f'"{sha256}"'


def install(app: FastAPI) -> None:
    """Answer 304 if an endpoint of ``app`` raises :class:`NotModified`."""

    @app.exception_handler(NotModified)
    async def not_modified(_: Request, error: NotModified) -> Response:
        return Response(status_code=304, headers=error.headers)
