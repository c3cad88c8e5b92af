"""One request's way through API, database and worker, as the operator's collector shows it."""

import json
import secrets
from dataclasses import dataclass, field

import pytest

from tests.support.processes import wait_for

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


@dataclass
class Caller:
    """A client that traces its own calls."""

    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def headers(self, flags: str = "01") -> dict[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-{flags}"}


@pytest.fixture
def caller() -> Caller:
    return Caller()


def wait_for_requests(our_collector, caller: Caller, count: int = 1) -> list[str]:
    """The names of the requests in the caller's trace. They end last, so that their queries have been heard of too."""

    def names() -> list[str]:
        return [span.name for span in our_collector.spans(caller.trace_id) if span.kind == SERVER]

    wait_for(lambda: len(names()) >= count, "the requests are not heard of")
    return names()


@pytest.fixture(scope="module")
def verify(owner, source, registered):
    """Submits the model's source as a suspect, with these headers."""
    artifact = owner.artifacts.upload(source)

    def submit(headers: dict[str, str]) -> str:
        body = {"model_id": registered.model.id, "artifact_id": artifact.id}
        return owner.transport.send("POST", "/v1/verifications", json=body, headers=headers).json()["job"]["id"]

    return submit


def test_one_trace_leads_from_the_client_to_the_workers_stages(production, our_collector, owner, verify, caller):
    job_id = verify(caller.headers())
    owner.jobs.wait(job_id)
    wait_for_requests(our_collector, caller)

    def ended() -> bool:
        return "process worker.verify" in {span.name for span in our_collector.spans(caller.trace_id)}

    wait_for(ended, "the worker's attempt is not heard of")
    spans = our_collector.spans(caller.trace_id)
    (request,) = [span for span in spans if span.parent_id == caller.span_id]
    assert (request.service, request.name, request.kind) == ("aiao-api", "POST /v1/verifications", SERVER)
    who = {"aiao.tenant_id": request.attributes["aiao.tenant_id"]}
    assert request.attributes.pop("aiao.token_id").startswith("tok_")
    assert request.attributes == who | {
        "http.request.method": "POST", "http.route": "/v1/verifications", "http.response.status_code": 202,
        "aiao.job_id": job_id, "aiao.kind": "verify",
    }  # fmt: skip

    def below(parent) -> list:
        return [span for span in spans if span.parent_id == parent.span_id]

    assert {span.kind for span in below(request)} == {CLIENT, PRODUCER, CONSUMER}
    queries = [span for span in below(request) if span.kind == CLIENT]
    assert {"SELECT", "INSERT"} <= {span.name for span in queries}
    assert {span.attributes["db.system.name"] for span in queries} == {"postgresql"}
    assert any(span.attributes["db.query.text"].startswith("INSERT INTO jobs") for span in queries)
    assert [span.name for span in below(request) if span.kind == PRODUCER] == ["send worker.verify"]

    (attempt,) = [span for span in below(request) if span.kind == CONSUMER]
    assert (attempt.service, attempt.name) == ("aiao-worker", "process worker.verify")
    assert attempt.attributes == who | {
        "aiao.job_id": job_id, "aiao.kind": "verify", "aiao.attempt": 1, "aiao.outcome": "succeeded"
    }  # fmt: skip
    stages = [span for span in below(attempt) if span.kind != CLIENT]
    assert [span.name for span in stages] == ["fetch", "read suspect", "run", "store"]
    running, storing = stages[2:]
    assert running.events == ["source", "draws", "decoys"]
    (reading,) = below(running)  # and nothing else, although it asks at each step whether to go on
    assert reading.name == "read source"
    assert [span.name for span in below(reading)] == ["fetch"]
    assert {"SELECT", "UPDATE"} <= {span.name for span in below(storing)}
    assert not [span for span in spans if span.failed]


def test_the_log_names_the_trace(production, owner, verify, caller):
    job_id = verify(caller.headers())
    owner.jobs.wait(job_id)
    for process, words in {"api": "/v1/verifications", "worker": f"{job_id}: succeeded in attempt 1"}.items():

        def line(process=process, words=words) -> dict:
            lines = production.log(process).splitlines()
            return next(json.loads(line) for line in lines if caller.trace_id in line and f'"message": "{words}"' in line)

        wait_for(line, f"the {process} does not name the trace")
        assert line()["trace_id"] == caller.trace_id


def test_a_client_that_does_not_trace_its_call_is_not_traced(our_collector, owner, verify, caller):
    owner.jobs.wait(verify(caller.headers(flags="00")))
    owner.transport.http.get("/v1/models", headers=(later := Caller()).headers())
    wait_for_requests(our_collector, later)
    assert our_collector.spans(caller.trace_id) == []


def test_a_stream_of_events_is_one_query_in_its_trace(our_collector, owner, verify, caller):
    """It asks again for as long as the job runs."""
    owner.transport.http.get(f"/v1/jobs/{verify({})}/events", headers=caller.headers()).raise_for_status()
    wait_for_requests(our_collector, caller)
    texts = [span.attributes.get("db.query.text", "") for span in our_collector.spans(caller.trace_id)]
    assert len([text for text in texts if "FROM jobs" in text]) == 1


def test_what_somebody_typed_is_in_no_span(our_collector, owner, caller):
    typed = {"tracestate": "aiao1abc=aiao1abc", "baggage": "aiao1abc=1", "user-agent": "aiao1abc", "host": "aiao1abc"}
    owner.transport.http.get("/v1/models/mdl_aiao1abc?name=aiao1abc", headers=caller.headers() | typed)
    owner.transport.http.request("PROPFIND", "/v1/aiao1abc", headers=caller.headers())
    assert wait_for_requests(our_collector, caller, 2) == ["GET /v1/models/{model_id}", "_OTHER unknown"]
    assert "aiao1abc" not in our_collector.text


@pytest.mark.parametrize("sent", ["", "00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ü".encode("latin-1"), "0" * 20_000])
def test_a_traceparent_that_is_none_begins_a_trace(owner, sent):
    assert owner.transport.http.get("/v1/models", headers=[("traceparent", sent)]).status_code == 200


def test_probes_are_not_traced(our_collector, owner, caller):
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
        owner.transport.http.get(path, headers=caller.headers())
    assert wait_for_requests(our_collector, caller) == ["GET /v1/models"]
