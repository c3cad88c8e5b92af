"""What an operator sees of a job: one request's way through the logs, and figures on a dashboard."""

import json
import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.places import PROJECT
from tests.support.processes import wait_for

DASHBOARD = PROJECT / "docs" / "grafana.json"


def events(running, name: str) -> list[dict]:
    """The events in a process's log; Celery's banner is none."""
    return [json.loads(line) for line in running.log(name).splitlines() if line.startswith("{")]


def about(running, name: str, request_id: str) -> list[dict]:
    return [event for event in events(running, name) if event.get("request_id") == request_id]


def test_one_identifier_leads_from_the_request_to_the_workers_lines(production, owner, source, registered):
    request_id = "support-case-4711"
    artifact = owner.artifacts.upload(source)
    body = {"model_id": registered.model.id, "artifact_id": artifact.id}
    answer = owner.transport.send("POST", "/v1/verifications", json=body, headers={"X-Request-ID": request_id})
    assert answer.headers["x-request-id"] == request_id
    job_id = answer.json()["job"]["id"]
    owner.jobs.wait(job_id)
    wait_for(lambda: about(production, "worker", request_id), "the worker writes nothing of the request")
    (request,) = (event for event in about(production, "api", request_id) if event["message"] == "/v1/verifications")
    assert (request["method"], request["status"], request["level"]) == ("POST", 202, "info")
    done = next(event for event in about(production, "worker", request_id) if "succeeded in attempt" in event["message"])
    assert (done["job_id"], done["attempt"]) == (job_id, 1)
    assert done["tenant_id"] == request["tenant_id"]
    assert request["token_id"].startswith("tok_")


@pytest.mark.parametrize("sent", [None, "", "a b", "x" * 65, "ü".encode("latin-1"), '{"a":1}'])
def test_a_request_without_a_sensible_identifier_gets_one(owner, sent):
    headers = [] if sent is None else [("X-Request-ID", sent)]
    answer = owner.transport.http.get("/v1/models", headers=headers)
    assert re.fullmatch(r"req_\w{26}", answer.headers["x-request-id"])


def test_a_path_that_somebody_typed_is_not_in_the_log(production, owner):
    owner.transport.http.get("/v1/secret-path-aiao1abc?token=aiao_secret")
    owner.transport.http.get("/v1/models/mdl_secret-aiao1abc")
    assert "aiao1abc" not in production.log("api")
    assert "aiao_secret" not in production.log("api")


def figures(*texts: str) -> set[str]:
    return {sample.name for text in texts for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.mark.usefixtures("registered")
def test_the_dashboard_asks_for_figures_that_there_are(production, owner, source):
    """After a run: the API's figures and the worker's."""

    def of_the_worker() -> str:
        return httpx.get(f"http://127.0.0.1:{production.settings['AIAO_METRICS_PORT']}/metrics").text

    wait_for(lambda: "aiao_job_seconds_bucket" in of_the_worker(), "the worker counts no job")  # a moment after its end
    worker = of_the_worker()
    job = owner.models.register(source, name="queued", options={"steps": 20_000}).job
    known = figures(httpx.get(f"{production.url}/metrics").text, worker)
    owner.jobs.cancel(job.id)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len(panels) >= 8
    asked = {name for panel in panels for target in panel["targets"] for name in re.findall(r"aiao_\w+", target["expr"])}
    assert asked <= known | {"aiao_verdicts_total", "aiao_gpu_memory_bytes"}
    assert {"aiao_jobs", "aiao_oldest_job_seconds", "aiao_job_seconds_bucket", "aiao_request_seconds_bucket"} <= asked
