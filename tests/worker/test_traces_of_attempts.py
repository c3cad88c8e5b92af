"""Every attempt at a job goes on with the trace of the request that made it."""

import pytest
import sqlalchemy as sa

from service.jobs import service as jobs
from service.kit import telemetry
from service.kit.ids import new_id
from tests.support.attempts import run
from tests.support.tiny import TENANT


@pytest.fixture
def request_and_job(sent, context) -> tuple[str, str, str]:
    with telemetry.span("request") as request, context.database.session() as session:
        job = jobs.create(session, TENANT, "verify", new_id("ver"), None)
        return telemetry.trace_id(), format(request.get_span_context().span_id, "016x"), job.id


def test_a_second_attempt_goes_on_with_the_first_trace(sent, context, request_and_job):
    trace_id, request, job_id = request_and_job

    def task(work) -> None:
        if work.lease.attempt == 1:
            raise sa.exc.OperationalError("SELECT 1", {"password": "hunter2"}, Exception("hunter2"))
        with context.database.session() as session:
            work.lease.succeed(session, "/v1/verifications/x")

    run(job_id, task)
    run(job_id, task)
    attempts = [span for span in sent().spans(trace_id) if span.name == "process worker.verify"]
    assert [span.parent_id for span in attempts] == [request, request]
    assert [(span.attributes["aiao.attempt"], span.attributes["aiao.outcome"]) for span in attempts] == [
        (1, "interrupted"),
        (2, "succeeded"),
    ]
    assert [(span.failed, span.attributes.get("error.type")) for span in attempts] == [
        (True, "OperationalError"),
        (False, None),
    ]
    assert "hunter2" not in sent().text


def test_a_stage_that_fails_is_marked_and_tells_nothing(sent, context, request_and_job):
    trace_id, _, job_id = request_and_job

    def task(work) -> None:
        with telemetry.span("run"):
            raise RuntimeError("password=hunter2")

    run(job_id, task)
    failed = {span.name: span.attributes["error.type"] for span in sent().spans(trace_id) if span.failed}
    assert failed == {"process worker.verify": "RuntimeError", "run": "RuntimeError"}
    assert "hunter2" not in sent().text


def test_a_job_that_came_without_a_trace_has_one_for_each_attempt(sent, context, job_id):
    seen = []
    run(job_id, lambda work: seen.append(telemetry.trace_id()))
    first = sent().spans(*seen)[0]
    assert (first.name, first.parent_id) == ("process worker.verify", "")
