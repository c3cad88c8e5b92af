"""A collector of OpenTelemetry's spans of one's own: takes them by OTLP over HTTP, as the real one does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.http_server import Handler, serving


@dataclass(frozen=True)
class HeardSpan:
    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: list[str]
    failed: bool


@dataclass
class Collector:
    """What has been sent to ``url``."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)

    def spans(self, trace_id: str) -> list[HeardSpan]:
        """Of one trace, in the order of their start."""
        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = _plain(resource.resource.attributes)["service.name"]
                found += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        return [
            HeardSpan(
                service, span.name, span.kind, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                _plain(span.attributes), [event.name for event in span.events], span.status.code == Status.STATUS_CODE_ERROR,
            )
            for service, span in sorted(found, key=lambda each: each[1].start_time_unix_nano)
            if span.trace_id.hex() == trace_id
        ]  # fmt: skip

    @property
    def text(self) -> str:
        """All of it, to look for what must not be there."""
        return b"\n".join(self.bodies).decode("latin-1")


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    running = Collector()

    class Answers(Handler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            running.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with serving(Answers) as port:
        running.url = f"http://127.0.0.1:{port}"
        yield running
