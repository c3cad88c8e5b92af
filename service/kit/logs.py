"""The log of a process: one line an event, for people or as JSON, with the request, job and tenant it belongs to."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from service.kit.telemetry import trace_id

Format = Literal["text", "json"]
Event = MutableMapping[str, Any]

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
