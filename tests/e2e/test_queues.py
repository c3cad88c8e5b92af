"""A mixed fleet: each job waits for a worker that has the memory it needs, on Redis and on RabbitMQ."""

import socket
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
import redis

from aiao import ApiError, Client
from aiao_core import sizing
from demo_models.emoji.data import MODEL
from service.kit.ids import new_id
from tests.support.databases import postgres_database
from tests.support.processes import TICKING, System, private_redis, stop, system, wait_for
from tests.support.storm import RABBITMQ_PORT

QUICK = {"steps": 10, "batch_size": 8}

QUEUES = "small:2100MiB large:2250MiB"
"""A verification of the emoji model fits the one, a quick embedding the other, and an audit neither."""


@pytest.fixture(scope="module", params=["redis", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def broker_url(request) -> Iterator[str]:
    if request.param == "redis":
        with private_redis() as url:
            yield url
        return
    with closing(socket.socket()) as probe:
        if probe.connect_ex(("127.0.0.1", RABBITMQ_PORT)):
            pytest.skip("no RabbitMQ on port 5672")
    yield f"amqp://guest:guest@127.0.0.1:{RABBITMQ_PORT}//"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, broker_url) -> Iterator[System]:
    """A worker for each queue."""
    folder, queue = tmp_path_factory.mktemp("fleet"), new_id("fleet")
    settings = {"AIAO_QUEUE": queue, "AIAO_QUEUES": QUEUES, "AIAO_GRACE_SECONDS": "0"}
    with postgres_database() as url, system(folder, database_url=url, broker_url=broker_url, **settings) as running:
        for name in ("small", "large"):
            running.start_worker(name, f"{queue}.{name}", TICKING)
        yield running


@pytest.fixture(scope="module")
def owner(fleet) -> Iterator[Client]:
    with fleet.client("owner") as client:
        yield client


@pytest.fixture(scope="module")
def registered(owner):
    registration = owner.models.register(MODEL, name="emoji", options=QUICK)
    owner.jobs.wait(registration)
    return registration


def verified(owner: Client, model_id: str) -> str:
    """The job of a verification that is done."""
    return owner.jobs.wait(owner.verifications.create(model_id, MODEL)).id


def workers_of(fleet: System, job_id: str) -> list[str]:
    """The workers whose logs tell of this finished job, which they do a moment after its end can be seen."""

    def found() -> list[str]:
        return [name for name in ("small", "large") if f"{job_id}: " in fleet.log(name)]

    wait_for(found, "no worker tells of the job")
    return found()


def waiting(fleet: System, queue: str) -> bool:
    label = f'kind="embed",queue="{fleet.settings["AIAO_QUEUE"]}.{queue}",state="queued"'
    return f"aiao_jobs{{{label}}} 1.0" in httpx.get(f"{fleet.url}/metrics").text


@pytest.mark.slow
def test_a_job_goes_to_the_worker_that_has_the_memory_and_to_no_other(fleet, owner, registered):
    embedding, verification = owner.jobs.get(registered.job.id), owner.jobs.get(verified(owner, registered.model.id))
    assert sizing.PROCESS_BYTES < verification.memory_bytes < 2100 << 20 < embedding.memory_bytes < 2250 << 20
    assert workers_of(fleet, embedding.id) == ["large"]
    assert workers_of(fleet, verification.id) == ["small"]


def test_a_job_that_no_worker_has_the_memory_for_is_refused_at_once(fleet, owner, registered):
    with pytest.raises(ApiError, match=r"this job needs about 2\.34 GiB .* have 2\.20 GiB") as refused:
        owner.audits.create(registered.model.id, preset="quick")
    assert (refused.value.status, refused.value.type) == (422, "not-enough-memory")
    with pytest.raises(ApiError, match="smaller batch_size"):
        owner.models.register(MODEL, name="greedy", options={"batch_size": 4096})
    assert [model.name for model in owner.models.list()] == ["emoji"]


@pytest.mark.slow
def test_a_large_job_waits_for_a_large_worker_while_small_ones_are_done_and_a_lost_ring_is_repeated(
    fleet, owner, registered, broker_url
):
    stop(fleet.processes["large"])
    queue = f"{fleet.settings['AIAO_QUEUE']}.large"
    job = owner.models.register(MODEL, name="waits", options=QUICK).job
    verified(owner, registered.model.id)
    assert owner.jobs.get(job.id).state == "queued"
    assert waiting(fleet, "large")
    assert not waiting(fleet, "small")
    if broker_url.startswith("redis"):
        with redis.Redis.from_url(broker_url) as broker:
            assert broker.llen(queue)  # the reaper may have rung again
            broker.flushall()
            fleet.change_job(job.id, "rung_at = now() - interval '1 hour'")
            wait_for(lambda: broker.llen(queue), "the reaper does not ring")
    fleet.start_worker("large", queue, TICKING)
    wait_for(lambda: owner.jobs.get(job.id).finished, "nobody takes the job")
    assert workers_of(fleet, job.id) == ["large"]


@pytest.mark.slow
def test_a_job_of_which_nobody_knows_what_it_needs_goes_to_the_largest_worker(fleet, owner, registered):
    """As one that an older version accepted: its ring in the old queue is lost, and the reaper rings again."""
    for name in ("small", "large"):
        stop(fleet.processes[name])
    job = owner.verifications.create(registered.model.id, MODEL).job
    fleet.change_job(job.id, "memory_bytes = NULL, rung_at = now() - interval '1 hour'")
    assert owner.jobs.get(job.id).memory_bytes is None
    fleet.start_worker("large", f"{fleet.settings['AIAO_QUEUE']}.large", TICKING)
    owner.jobs.wait(job)
    assert workers_of(fleet, job.id) == ["large"]
