"""A collector gets all that was recorded; one that is away or silent holds up no request, no job and no end of a process."""

import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from demo_models.emoji.data import MODEL
from tests.support.processes import TICKING, System, free_port, system, wait_for


@contextmanager
def closed() -> Iterator[int]:
    yield free_port()


@contextmanager
def silent() -> Iterator[int]:
    """Takes connections, and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def work(running: System) -> None:
    """Send some requests and a job."""
    running.start_worker(app=TICKING)
    with running.client() as client:
        registration = client.models.register(MODEL, name="emoji", options={"steps": 2})
        assert client.jobs.wait(registration).state == "succeeded"
        for _ in range(20):
            client.jobs.get(registration.job.id)


def end(running: System) -> None:
    for name in ("api", "worker"):
        running.processes[name].send_signal(signal.SIGTERM)
        running.processes[name].wait(20)  # after 30 s a cluster would kill it
    assert "Traceback" not in running.log("api") + running.log("worker")


@pytest.mark.slow
@pytest.mark.parametrize("away", [closed, silent])
def test_without_a_collector_requests_and_jobs_go_on(tmp_path, redis_url, away):
    with (
        away() as port,
        system(
            tmp_path,
            broker_url=redis_url,
            AIAO_QUEUE=f"collector-{away.__name__}",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_TIMEOUT="10" if away is closed else "600",
            OTEL_BSP_SCHEDULE_DELAY="100",
            OTEL_BSP_MAX_QUEUE_SIZE="8",  # soon full
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4",
        ) as running,
    ):
        work(running)
        wait_for(lambda: "Queue full" in running.log("api"), "the API has room for more spans")
        end(running)


@pytest.mark.slow
def test_a_process_that_ends_sends_what_it_has(tmp_path, redis_url, our_collector):
    with system(
        tmp_path,
        broker_url=redis_url,
        AIAO_QUEUE="collector-at-the-end",
        OTEL_EXPORTER_OTLP_ENDPOINT=our_collector.url,
        OTEL_SERVICE_NAME="at-the-end",
        OTEL_BSP_SCHEDULE_DELAY="600000",
    ) as running:
        work(running)
        assert "at-the-end" not in our_collector.text
        end(running)
    assert all(sent in our_collector.text for sent in ("at-the-end", "POST /v1/models", "process worker.embed", "store"))
