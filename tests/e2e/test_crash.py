"""A worker may die at any moment, and users may change their minds: no job is lost and no file is left."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from aiao import Client, JobCanceled
from aiao_core.formats.archives import pack
from aiao_core.formats.pipelines import load_model, save_model
from aiao_core.key import decode_secret
from aiao_core.method.embedding import embed
from aiao_core.options import EmbeddingOptions
from demo_models.emoji.data import MODEL
from tests.support.databases import postgres_database
from tests.support.processes import HURRY, TICKING, System, private_redis, stop, system, wait_for
from tests.support.small_model import EMBEDDING

MAX_ATTEMPTS = 2
LONG = {"steps": 5000, "checkpoint_every": 8}
"""An embedding that ends only once it is hurried."""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory) -> Iterator[System]:
    """A system of its own, whose worker the tests kill. Its jobs tick."""
    with (
        postgres_database() as database,
        private_redis() as broker,
        system(
            tmp_path_factory.mktemp("fragile"),
            database_url=database,
            broker_url=broker,
            AIAO_GRACE_SECONDS="1",
            AIAO_MAX_ATTEMPTS=str(MAX_ATTEMPTS),
        ) as running,
    ):
        running.start_worker(app=TICKING)
        yield running


@pytest.fixture(scope="module")
def client(fragile: System) -> Iterator[Client]:
    with fragile.client("owner") as client:
        yield client


def embedding_step(client: Client, job_id: str) -> int:
    progress = client.jobs.get(job_id).progress
    return progress.step if progress and progress.stage == "embedding" else 0


def kill_the_worker(running: System) -> None:
    os.killpg(running.processes["worker"].pid, signal.SIGKILL)
    running.processes["worker"].wait()


@contextmanager
def hurried(running: System) -> Iterator[None]:
    """During the block jobs do not wait between their ticks."""
    (running.data_dir / HURRY).touch()
    yield
    (running.data_dir / HURRY).unlink()


def leftovers(running: System) -> list[str]:
    """Files of attempts and training checkpoints that should be gone."""
    folders = (running.data_dir / "scratch", running.data_dir / "storage" / "training")
    return [str(path) for folder in folders if folder.exists() for path in folder.iterdir()]


@pytest.mark.slow
def test_an_embedding_whose_worker_is_killed_makes_the_same_model_to_the_bit(production, owner, source, tmp_path):
    registration = owner.models.register(source, name="killed", options=EMBEDDING)
    job_id = registration.job.id
    wait_for(lambda: embedding_step(owner, job_id) >= 50, "the embedding does not get going", 120)
    kill_the_worker(production)
    assert owner.jobs.get(job_id).state == "running"  # nobody knows yet
    production.start_worker()

    second_attempt = []
    finished = owner.jobs.wait(registration, progress=lambda job: second_attempt.append(job) if job.attempt == 2 else None)
    assert (finished.state, finished.attempt) == ("succeeded", 2)
    steps = [job.progress.step for job in second_attempt if job.progress and job.progress.stage == "embedding"]
    assert steps
    assert min(steps) > 40  # it went on from its last checkpoint, not from the start
    found = owner.models.download(registration.model.id, tmp_path / "found.zip").read_bytes()

    undisturbed = load_model(source)
    embed(undisturbed, decode_secret(registration.secret_key), options=EmbeddingOptions(**EMBEDDING))
    save_model(undisturbed.denoiser, source, tmp_path / "expected")
    pack(tmp_path / "expected", tmp_path / "expected.zip")
    assert found == (tmp_path / "expected.zip").read_bytes()
    wait_for(lambda: not leftovers(production), "scratch files or a training checkpoint stay behind")


def test_a_killed_worker_loses_no_job(fragile, client):
    registration = client.models.register(MODEL, name="emoji", options=LONG)
    job_id = registration.job.id
    wait_for(lambda: embedding_step(client, job_id) >= 100, "the embedding does not get going")
    kill_the_worker(fragile)
    before, seen = embedding_step(client, job_id), []
    fragile.start_worker(app=TICKING)
    wait_for(lambda: seen.append(embedding_step(client, job_id)) or seen[-1] > before, "the embedding does not go on")
    assert min(seen) >= before - LONG["checkpoint_every"]
    with hurried(fragile):
        finished = client.jobs.wait(registration)
    assert (finished.state, finished.attempt) == ("succeeded", 2)
    wait_for(lambda: not leftovers(fragile), "scratch files or a training checkpoint stay behind")


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_hands_its_job_back(fragile, client):
    registration = client.models.register(MODEL, name="handed back", options=LONG)
    job_id = registration.job.id
    for attempt in range(1, MAX_ATTEMPTS + 2):  # more often than a job may fail
        wait_for(lambda: client.jobs.get(job_id).attempt == attempt, f"no attempt {attempt}")  # noqa: B023
        wait_for(lambda: embedding_step(client, job_id) > 0, "the embedding does not get going")
        fragile.processes["worker"].send_signal(signal.SIGTERM)
        assert fragile.processes["worker"].wait(60) == 0
        assert client.jobs.get(job_id).state == "queued"
        fragile.start_worker(app=TICKING)
    with hurried(fragile):
        assert client.jobs.wait(registration).state == "succeeded"
    assert "Traceback" not in fragile.log("worker")


def test_a_canceled_embedding_stops_and_the_worker_goes_on(fragile, client):
    registration = client.models.register(MODEL, name="canceled", options=LONG)
    wait_for(lambda: embedding_step(client, registration.job.id) >= 10, "the embedding does not get going")
    assert client.jobs.cancel(registration.job.id).cancel_requested
    with pytest.raises(JobCanceled):
        client.jobs.wait(registration.job.id)
    model = client.models.get(registration.model.id)
    assert (model.status, model.error.code) == ("failed", "canceled")
    wait_for(lambda: not leftovers(fragile), "scratch files or a training checkpoint stay behind")

    ready = next(model for model in client.models.list() if model.name == "emoji")
    submission = client.verifications.create(ready.id, MODEL)
    assert client.jobs.wait(submission).state == "succeeded"


@pytest.mark.slow
def test_a_job_that_kills_every_worker_fails_in_the_end(fragile, client):
    registration = client.models.register(MODEL, name="poison", options=LONG)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        wait_for(lambda: client.jobs.get(registration.job.id).attempt == attempt, f"no attempt {attempt}")  # noqa: B023
        kill_the_worker(fragile)
        fragile.start_worker(app=TICKING)
    wait_for(lambda: client.jobs.get(registration.job.id).finished, "the job goes on for ever")
    job = client.jobs.get(registration.job.id)
    assert (job.state, job.error.code) == ("failed", "worker-lost")
    assert client.models.get(registration.model.id).status == "failed"


@pytest.mark.slow
def test_a_ring_that_redis_forgot_is_repeated(fragile, client):
    """The database is the truth: a broker that loses its memory loses no job."""
    registration = client.models.register(MODEL, name="rung for", options=LONG)
    with hurried(fragile):
        client.jobs.wait(registration)
    stop(fragile.processes["worker"])
    submission = client.verifications.create(registration.model.id, MODEL)
    with redis.Redis.from_url(fragile.settings["AIAO_BROKER_URL"]) as broker:
        broker.flushall()
    fragile.change_job(submission.job.id, "rung_at = now() - interval '1 hour'")
    fragile.start_worker(app=TICKING)
    assert client.jobs.wait(submission).state == "succeeded"
