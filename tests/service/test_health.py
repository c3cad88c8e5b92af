import re
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from aiao_core.formats.archives import has_slow_tar_headers
from service.kit.database import Database
from tests.support import rows
from tests.support.calls import post, problem, register, send
from tests.support.databases import POSTGRES, postgres_database
from tests.support.processes import System, free_port, wait_for


def test_the_process_says_that_it_is_alive_and_ready(api):
    for path in ("/healthz", "/readyz"):
        answer = httpx.get(api.url + path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.fixture(scope="module")
def without_broker(tmp_path_factory) -> Iterator[tuple[System, httpx.Client]]:
    """An API whose broker is down from the start."""
    with postgres_database() as url:
        database = Database(url)
        headers = {"Authorization": f"Bearer {rows.token(database)}"}
        database.dispose()
        port, broker = str(free_port()), f"redis://:hush@127.0.0.1:{free_port()}/0"
        folder = tmp_path_factory.mktemp("without-broker")
        system = System(folder, {"AIAO_PORT": port, "AIAO_BROKER_URL": broker, "AIAO_DATABASE_URL": url})
        try:
            system.start("api", "uvicorn", "--factory", "service.app:create_app", "--port", port)
            wait_for(lambda: httpx.get(f"{system.url}/healthz").is_success, "the API did not start")
            with httpx.Client(base_url=system.url, headers=headers, timeout=30) as client:
                yield system, client
        finally:
            system.stop()


@pytest.mark.slow
@pytest.mark.process
def test_a_broker_that_is_down_is_named_and_loses_no_job(without_broker):
    system, http = without_broker
    assert "broker" in problem(http.get("/readyz"), 503, "not-ready")
    assert http.get("/healthz").status_code == 200
    registered = register(http)
    assert http.get(f"/v1/jobs/{registered['job']['id']}").json()["state"] == "queued"
    assert "reaper will send it again" in system.log("api")
    assert "hush" not in system.log("api")


@pytest.mark.process
def test_a_database_that_is_gone_is_named(without_broker):
    """The last test of this API."""
    system, http = without_broker
    name = system.settings["AIAO_DATABASE_URL"].rpartition("/")[2]
    with psycopg.connect(POSTGRES, autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    assert "database" in problem(http.get("/readyz"), 503, "not-ready")
    assert http.get("/healthz").status_code == 200
    answer = http.get("/v1/models")
    assert name not in problem(answer, 503, "not-ready")
    assert answer.headers["retry-after"] == "2"


def metric(text: str, name: str, **labels: str) -> float:
    wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
    found = re.search(rf"^{name}\{{{re.escape(wanted)}\}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0


def test_metrics_count_requests_by_route_and_status(api, http, owned):
    def counted() -> float:
        labels = {"method": "GET", "route": "/v1/models/{model_id}", "status": "200"}
        return metric(httpx.get(f"{api.url}/metrics").text, "aiao_request_seconds_count", **labels)

    before = counted()
    for _ in range(3):
        http.get(f"/v1/models/{owned.model_id}").raise_for_status()
    assert counted() == before + 3


def test_metrics_count_jobs_by_kind_state_and_queue(api, http):
    def queued() -> float:
        labels = {"kind": "embed", "queue": api.settings["AIAO_QUEUE"], "state": "queued"}
        return metric(httpx.get(f"{api.url}/metrics").text, "aiao_jobs", **labels)

    before = queued()
    job_id = register(http)["job"]["id"]
    assert queued() == before + 1
    post(http, f"/v1/jobs/{job_id}/cancel", None).raise_for_status()
    assert queued() == before


def test_metrics_are_text_for_prometheus(api):
    answer = httpx.get(f"{api.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE aiao_jobs gauge" in answer.text


def test_metrics_do_not_grow_with_what_strangers_make_up(api, stranger):
    stranger.request("BREWCOFFEE", "/healthz")
    stranger.get("/made-up-path")
    send(stranger, b"not a model", "made-up-name").close()
    text = httpx.get(f"{api.url}/metrics").text
    for word in ("BREWCOFFEE", "made-up-path", "made-up-name"):
        assert word not in text


def test_an_interpreter_with_slow_tar_headers_is_named_at_the_start(apis):
    assert ("CVE-2024-6232" in apis("postgresql").log("api")) is has_slow_tar_headers()
