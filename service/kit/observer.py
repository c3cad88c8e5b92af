"""Observe each request once: its identifier, its span, its figures, its line in the log, and the headers of each answer."""

import logging
import re
import time
from collections.abc import Callable
from http import HTTPMethod

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.kit.ids import new_id
from service.kit.logs import bound
from service.kit.safe_headers import with_defaults
from service.kit.telemetry import describe_request, request_span

HEADER = b"x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
UNKNOWN = "unknown"

logger = logging.getLogger("service.requests")

Count = Callable[[str, str, int, float], None]
"""Takes the method, the route, the status and the seconds until the answer began."""


class RequestObserver:
    """Middleware that gives each request an identifier, traces and counts it, and logs it once it is answered.

    Paths and made-up methods may hold anything that a client typed: spans, figures and the log name the route instead, or
    strangers could fill them.
    """

    def __init__(self, app: ASGIApp, count: Count) -> None:
        self.app, self.count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        began, status = time.monotonic(), 500  # as the server answers if the application raises

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = with_defaults([*message["headers"], (HEADER, request_id.encode())])
                self.count(method_of(scope), route_of(scope), status, time.monotonic() - began)
            await send(message)

        with request_span(scope), bound(request_id=request_id):
            try:
                await self.app(scope, receive, observed)
            finally:
                describe_request(scope, route_of(scope), status)
                with bound(
                    method=method_of(scope), status=status, seconds=round(time.monotonic() - began, 3), **_caller(scope)
                ):
                    logger.info(route_of(scope))


def _request_id(scope: Scope) -> str:
    """Return the client's own identifier if it sent a sensible one, or a new one."""
    sent = next((value.decode("latin-1") for name, value in scope["headers"] if name == HEADER), "")
    return sent if REQUEST_ID.fullmatch(sent) else new_id("req")


def method_of(scope: Scope) -> str:
    """Return the request's method, if HTTP has it."""
    return scope["method"] if scope["method"] in HTTPMethod.__members__ else UNKNOWN


def route_of(scope: Scope) -> str:
    """Return the route, and not the path, which may hold anything."""
    return getattr(scope.get("route"), "path", UNKNOWN)


def _caller(scope: Scope) -> dict[str, str]:
    caller = scope.get("state", {}).get("caller")
    return {"tenant_id": caller.tenant_id, "token_id": caller.token_id} if caller else {}
