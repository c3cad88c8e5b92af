"""What the processes write: one line an event, for people or as JSON, with the request, job and tenant it belongs to."""

import logging
import re
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.kit.ids import new_id
from service.kit.telemetry import trace_id

Format = Literal["text", "json"]
Event = MutableMapping[str, Any]

HEADER = "X-Request-ID"
REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")

logger = logging.getLogger("service.requests")

bound = structlog.contextvars.bound_contextvars
"""Within the block every event names these."""

bind = structlog.contextvars.bind_contextvars
"""From now on every event of this request or task names these."""


def configure(form: Format) -> None:
    """Let every logger of the process write to the standard error, as ``form`` says."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _name_the_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    renderers: list[Any] = (
        [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers]
        )
    )
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.INFO
    for name in ("uvicorn", "uvicorn.error", "celery", "celery.task", "celery.redirected"):
        named = logging.getLogger(name)
        named.handlers, named.propagate = [], True
    for name, level in {"uvicorn.access": logging.CRITICAL, "httpx": logging.WARNING, "alembic": logging.WARNING}.items():
        logging.getLogger(name).setLevel(level)  # the first says less than our own line


def _name_the_trace(_logger: object, _method: str, event: Event) -> Event:
    if trace := trace_id():
        event["trace_id"] = trace
    return event


class RequestLog:
    """Gives every request an identifier, the client's own if it sends a sensible one, and writes a line when it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = next((value.decode("latin-1") for name, value in scope["headers"] if name == HEADER.lower().encode()), "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else new_id("req")
        start, status = time.monotonic(), 500

        async def identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER.lower().encode(), request_id.encode())]
            await send(message)

        with bound(request_id=request_id):
            try:
                await self.app(scope, receive, identified)
            finally:
                # The route and not the path: that may hold what somebody typed.
                route = getattr(scope.get("route"), "path", "unknown")
                caller = scope.get("state", {}).get("caller")
                who = {"tenant_id": caller.tenant_id, "token_id": caller.token_id} if caller else {}
                with bound(method=scope["method"], status=status, seconds=round(time.monotonic() - start, 3), **who):
                    logger.info(route)
