"""OpenTelemetry traces: from a client's request over its queries to every attempt at the job that it made.

Off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` names a collector. FastAPI brings OpenTelemetry's interface, which does nothing by
itself; what records spans and sends them is imported by :func:`configure`. The provider is ours, not the global one, or FastAPI
would send spans of its own, which hold paths and queries as clients typed them.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http import HTTPMethod
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from opentelemetry import context, trace
from opentelemetry.trace import INVALID_SPAN, NoOpTracer, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from aiao_core import __version__
from service.kit.credentials import Credentials

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider  # only with the extra

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 2
"""How long a process that ends waits for the collector, in seconds."""

PROBES = ("/healthz", "/readyz", "/metrics")
"""Paths that monitoring asks for every few seconds: they are not traced."""

_w3c = TraceContextTextMapPropagator()
_tracer: Tracer = NoOpTracer()
_provider: "TracerProvider | None" = None


def configure(service_name: str, credentials: Credentials) -> None:
    """Let this process send its spans, if a collector is named. A thread does so: call it after the process was forked."""
    global _provider, _tracer
    if not _wanted():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.util.re import parse_env_headers
    except ImportError as error:
        logger.warning("no traces are sent, though a collector is named: %s; pip install 'aiao-server[telemetry]'", error)
        return
    resource = Resource.create({"service.name": service_name}).merge(OTELResourceDetector().detect())
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    headers = credentials.otel_exporter_otlp_traces_headers or credentials.otel_exporter_otlp_headers
    named = parse_env_headers(headers.get_secret_value(), liberal=True) if headers else None
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(headers=named)))
    _tracer = _provider.get_tracer("aiao", __version__)


def _wanted() -> bool:
    environment = os.environ.get
    named = environment("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment("OTEL_EXPORTER_OTLP_ENDPOINT")
    off = environment("OTEL_SDK_DISABLED", "").lower() == "true" or environment("OTEL_TRACES_EXPORTER") == "none"
    return bool(named) and not off


def close() -> None:
    """Send the remaining spans, but wait for a collector only for a moment."""
    if _provider:
        last = threading.Thread(target=_provider.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)


@contextmanager
def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, *, parent: str | None = None, attributes: dict[str, Any] | None = None
) -> Iterator[Span]:
    """Trace the block, or as a decorator a function; ``parent`` is the ``traceparent`` of another process.

    The parent's other headers are ignored: strangers could fill spans and logs with them.
    """
    above = _w3c.extract({"traceparent": parent}) if parent else None
    with _tracer.start_as_current_span(
        name, above, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            failed(error)
            raise


def failed(error: BaseException) -> None:
    """Mark the current span. The error's text stays in the log: it may repeat a query's parameters."""
    current = trace.get_current_span()
    current.set_attribute("error.type", type(error).__name__)
    current.set_status(StatusCode.ERROR)


def note(**attributes: str | int) -> None:
    """Set attributes of the current span, named as in the log."""
    trace.get_current_span().set_attributes({f"aiao.{name}": value for name, value in attributes.items()})


def event(name: str) -> None:
    """Mark a moment within the current span."""
    trace.get_current_span().add_event(name)


def traceparent() -> str | None:
    """Return the ``traceparent`` by which a later process goes on with the current trace."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier)
    return carrier.get("traceparent")


def trace_id() -> str | None:
    """Return the identifier of the current trace."""
    current = trace.get_current_span().get_span_context()
    return trace.format_trace_id(current.trace_id) if current.is_valid else None


@contextmanager
def untraced() -> Iterator[None]:
    """Make no spans in the block: for queries that repeat as long as a job runs. A decorator too."""
    token = context.attach(trace.set_span_in_context(INVALID_SPAN))
    try:
        yield
    finally:
        context.detach(token)


def request_span(scope: Scope) -> AbstractContextManager[object]:
    """Trace a request. Its span goes on with the client's trace if it sends a ``traceparent``."""
    if _provider is None or scope["path"] in PROBES:
        return nullcontext()
    parent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
    return span("request", SpanKind.SERVER, parent=parent)


def describe_request(scope: Scope, route: str, status: int) -> None:
    """Name the current request's span and set its attributes, at its end."""
    current = trace.get_current_span()
    if not current.is_recording():
        return
    method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "_OTHER"  # as OpenTelemetry names it
    current.update_name(f"{method} {route}")
    current.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if caller := scope.get("state", {}).get("caller"):
        note(tenant_id=caller.tenant_id, token_id=caller.token_id)
    if status >= 500:
        current.set_attribute("error.type", str(status))
        current.set_status(StatusCode.ERROR)


def trace_queries(engine: sa.Engine) -> None:
    """Trace each query within a trace, with its text and without its parameters."""
    if _provider is None:
        return

    def listen(call: str) -> None:
        execute = getattr(engine.dialect, call)

        @sa.event.listens_for(engine, call)
        def traced(cursor: Any, statement: str, parameters: Any, execution: Any) -> bool:
            """True: the statement was executed here."""
            if not trace.get_current_span().is_recording():
                return False
            described = {"db.system.name": engine.dialect.name, "db.query.text": statement}
            with span(statement.split(maxsplit=1)[0], SpanKind.CLIENT, attributes=described):
                execute(cursor, statement, parameters, execution)
            return True

    listen("do_execute")
    listen("do_executemany")
