import json
import threading

import httpx
import pytest

from service.jobs.leases import Lease
from service.kit.ids import new_id
from tests.support.calls import post, problem, register

pytestmark = pytest.mark.dialect

PROGRESS = {"stage": "embedding", "step": 3, "total": 9, "metrics": {"response": 0.5}, "seconds_left": 1.5}


def events(http: httpx.Client, job_id: str, after_first=lambda: None) -> list[dict]:
    """Every event until the stream ends by itself."""
    seen = []
    with http.stream("GET", f"/v1/jobs/{job_id}/events", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event:"):
                assert line == "event: job"
            if line.startswith("data:"):
                seen.append(json.loads(line.removeprefix("data:")))
                if len(seen) == 1:
                    after_first()
    return seen


def test_a_queued_job_is_canceled_at_once_and_leaves_a_failed_model(http):
    registered = register(http)
    answer = post(http, f"/v1/jobs/{registered['job']['id']}/cancel", None)
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["cancel_requested"]) == ("canceled", True)
    assert answer.json()["finished_at"] is not None
    model = http.get(f"/v1/models/{registered['model']['id']}").json()
    assert (model["status"], model["error"]["code"]) == ("failed", "canceled")
    assert "before it started" in model["error"]["detail"]
    for path in ("checkpoint", "key"):
        assert "failed" in problem(http.get(f"/v1/models/{model['id']}/{path}"), 409, "conflict")


def test_a_canceled_job_is_not_taken_by_a_worker(http, backstage):
    job_id = register(http)["job"]["id"]
    post(http, f"/v1/jobs/{job_id}/cancel", None).raise_for_status()
    assert Lease.take(backstage.database, job_id, 60) is None


def test_a_running_job_is_asked_to_stop(http, backstage):
    job_id = register(http)["job"]["id"]
    Lease.take(backstage.database, job_id, 60)
    answer = post(http, f"/v1/jobs/{job_id}/cancel", None)
    assert (answer.json()["state"], answer.json()["cancel_requested"]) == ("running", True)


def test_canceling_a_finished_job_leaves_it_as_it_is(http, owned):
    before = http.get(f"/v1/jobs/{owned.finished_job_id}").json()
    assert post(http, f"/v1/jobs/{owned.finished_job_id}/cancel", None).json() == before
    assert http.get(f"/v1/jobs/{owned.finished_job_id}").json() == before
    assert before["state"] == "succeeded"


def test_an_unknown_job_is_not_found(http):
    for path in ("", "/events"):
        problem(http.get(f"/v1/jobs/{new_id('job')}{path}"), 404, "not-found")
    problem(post(http, f"/v1/jobs/{new_id('job')}/cancel", None), 404, "not-found")


def test_progress_and_failure_are_shown(http, backstage):
    registered = register(http)
    job_id = registered["job"]["id"]
    lease = Lease.take(backstage.database, job_id, 60)
    lease.renew(PROGRESS)
    shown = http.get(f"/v1/jobs/{job_id}").json()
    assert (shown["state"], shown["attempt"], shown["progress"]) == ("running", 1, PROGRESS)
    error = {"code": "invalid-checkpoint", "detail": "layer a holds NaN"}
    lease.fail(error)
    shown = http.get(f"/v1/jobs/{job_id}").json()
    assert (shown["state"], shown["error"], shown["result"]) == ("failed", error, None)
    assert http.get(f"/v1/models/{registered['model']['id']}").json()["error"] == error


def test_the_events_of_a_job_end_with_the_job(http, backstage):
    job_id = register(http)["job"]["id"]
    lease = Lease.take(backstage.database, job_id, 60)

    def work() -> None:
        lease.renew(PROGRESS)
        threading.Timer(1, lease.fail, [{"code": "invalid-checkpoint", "detail": "layer a holds NaN"}]).start()

    seen = events(http, job_id, after_first=work)
    assert [job["state"] for job in seen] in (["running", "running", "failed"], ["running", "failed"])
    assert seen[-1]["progress"] == PROGRESS
    assert seen[-1] == http.get(f"/v1/jobs/{job_id}").json()


def test_the_events_of_a_finished_job_are_its_end_alone(http, owned):
    assert events(http, owned.finished_job_id) == [http.get(f"/v1/jobs/{owned.finished_job_id}").json()]


def test_the_events_of_a_queued_job_show_its_cancel(http):
    job_id = register(http)["job"]["id"]
    seen = events(http, job_id, after_first=lambda: post(http, f"/v1/jobs/{job_id}/cancel", None))
    assert [job["state"] for job in seen] == ["queued", "canceled"]


def test_a_listener_that_leaves_does_no_harm(api, http):
    job_id, logged = register(http)["job"]["id"], len(api.log("api"))
    for _ in range(20):
        with http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            assert next(stream.iter_lines()) == "event: job"
    assert http.get(f"/v1/jobs/{job_id}").status_code == 200
    assert "Traceback" not in api.log("api")[logged:]


def test_pages_show_every_job_once(caller):
    newcomer = caller()
    made = [register(newcomer)["job"]["id"] for _ in range(3)]
    first = newcomer.get("/v1/jobs", params={"limit": 2}).json()
    second = newcomer.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == sorted(made, reverse=True)
    assert second["next_cursor"] is None
