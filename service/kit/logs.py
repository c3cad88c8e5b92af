"""The log of a process: one line an event, for people or as JSON, with the request, job and tenant it belongs to."""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

from aiao_core.errors import printable
from service.kit.telemetry import trace_id

Format = Literal["text", "json"]
Event = MutableMapping[str, Any]

bound = structlog.contextvars.bound_contextvars
"""Within the block every event names these."""

bind = structlog.contextvars.bind_contextvars
"""From now on every event of this request or task names these."""

MAX_VALUE, MAX_TRACEBACK = 2_000, 32_000
"""Characters of one value, and of a traceback, that the log takes: of a longer one its beginning and its end."""


def configure(form: Format) -> None:
    """Let every logger of the process write to the standard error, as ``form`` says."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _name_the_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper("iso", utc=True),
        _escape,
    ]
    renderers: list[Any] = (
        [
            structlog.processors.ExceptionRenderer(_traceback),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=_write_traceback)]
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


def _escape(_logger: object, _method: str, event: Event) -> Event:
    """Keep each value on its line, and within bounds: clients chose parts of some."""
    return {name: _bounded(printable(value), MAX_VALUE) if isinstance(value, str) else value for name, value in event.items()}


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """Format an exception, whose text may be of a client's choice: each line is indented, so that none passes for an event."""
    lines = "".join(traceback.format_exception(*exc_info)).splitlines()
    return _bounded("\n".join(f"  {printable(line)}" for line in lines), MAX_TRACEBACK)


def _write_traceback(stream: TextIO, error: structlog.typing.ExcInfo) -> None:
    stream.write("\n" + _traceback(error))


def _bounded(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} […] {text[-most // 2 :]}"
