"""A worker may die at any moment, and a user may change her mind: nothing is lost and nothing is left."""

import os
import signal

import pytest

from aiao import JobCanceled
from aiao_core.formats.archives import pack
from aiao_core.formats.pipelines import load_model, save_model
from aiao_core.key import decode_secret
from aiao_core.method.embedding import embed
from aiao_core.options import EmbeddingOptions
from demo_models.emoji.data import MODEL
from tests.support.databases import postgres_database
from tests.support.processes import private_redis, stop, system, wait_for

OPTIONS = {"steps": 100, "batch_size": 8, "samples": 16, "layers": 12, "checkpoint_every": 8}
MAX_ATTEMPTS = 2


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """A system of its own, whose worker the tests kill."""
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
        running.start_worker()
        yield running


@pytest.fixture(scope="module")
def owner(fragile):
    with fragile.client("owner") as client:
        yield client


def embedding_step(client, job_id) -> int:
    progress = client.jobs.get(job_id).progress
    return progress.step if progress and progress.stage == "embedding" else 0


def leftovers(running) -> list[str]:
    """Files of attempts and training checkpoints that should be gone."""
    folders = (running.data_dir / "scratch", running.data_dir / "storage" / "training")
    return [str(path) for folder in folders if folder.exists() for path in folder.iterdir()]


def test_a_killed_worker_loses_nothing(fragile, owner, tmp_path):
    registration = owner.models.register(MODEL, name="emoji", options=OPTIONS)
    job_id = registration.job.id
    wait_for(lambda: embedding_step(owner, job_id) >= 20, "the embedding does not get going", 120)
    os.killpg(fragile.processes["worker"].pid, signal.SIGKILL)
    fragile.processes["worker"].wait()
    assert owner.jobs.get(job_id).state == "running"  # nobody knows yet
    fragile.start_worker()

    second_attempt = []
    finished = owner.jobs.wait(registration, progress=lambda job: second_attempt.append(job) if job.attempt == 2 else None)
    assert (finished.state, finished.attempt) == ("succeeded", 2)
    steps = [job.progress.step for job in second_attempt if job.progress and job.progress.stage == "embedding"]
    assert steps
    assert min(steps) > 16  # it went on from its last checkpoint, not from the start
    found = owner.models.download(registration.model.id, tmp_path / "found.zip").read_bytes()

    undisturbed = load_model(MODEL)
    embed(undisturbed, decode_secret(registration.secret_key), options=EmbeddingOptions(**OPTIONS))
    save_model(undisturbed.denoiser, MODEL, tmp_path / "expected")
    pack(tmp_path / "expected", tmp_path / "expected.zip")
    assert found == (tmp_path / "expected.zip").read_bytes()
    wait_for(lambda: not leftovers(fragile), "scratch files or a training checkpoint stay behind", 10)


def test_a_worker_that_is_told_to_stop_hands_its_job_back(fragile, owner):
    registration = owner.models.register(MODEL, name="handed back", options=OPTIONS | {"steps": 200})
    job_id = registration.job.id
    for attempt in range(1, MAX_ATTEMPTS + 2):  # more often than a job may fail
        wait_for(lambda: owner.jobs.get(job_id).attempt == attempt, f"no attempt {attempt}", 120)  # noqa: B023
        wait_for(lambda: embedding_step(owner, job_id) > 0, "the embedding does not get going", 120)
        fragile.processes["worker"].send_signal(signal.SIGTERM)
        assert fragile.processes["worker"].wait(60) == 0
        assert owner.jobs.get(job_id).state == "queued"
        fragile.start_worker()
    assert owner.jobs.wait(registration).state == "succeeded"
    assert "Traceback" not in fragile.log("worker")


def test_a_canceled_embedding_stops_and_the_worker_goes_on(fragile, owner):
    registration = owner.models.register(MODEL, name="canceled", options=OPTIONS | {"steps": 100_000})
    wait_for(lambda: embedding_step(owner, registration.job.id) >= 10, "the embedding does not get going", 120)
    assert owner.jobs.cancel(registration.job.id).cancel_requested
    with pytest.raises(JobCanceled):
        owner.jobs.wait(registration.job.id)
    model = owner.models.get(registration.model.id)
    assert (model.status, model.error.code) == ("failed", "canceled")
    wait_for(lambda: not leftovers(fragile), "scratch files or a training checkpoint stay behind", 10)

    ready = next(model for model in owner.models.list() if model.name == "emoji")
    submission = owner.verifications.create(ready.id, MODEL)
    assert owner.jobs.wait(submission).state == "succeeded"


def test_a_job_that_kills_every_worker_fails_in_the_end(fragile, owner):
    registration = owner.models.register(MODEL, name="poison", options=OPTIONS | {"steps": 100_000})
    for attempt in range(1, MAX_ATTEMPTS + 1):
        wait_for(lambda: owner.jobs.get(registration.job.id).attempt == attempt, f"no attempt {attempt}", 120)  # noqa: B023
        os.killpg(fragile.processes["worker"].pid, signal.SIGKILL)
        fragile.processes["worker"].wait()
        fragile.start_worker()
    wait_for(lambda: owner.jobs.get(registration.job.id).finished, "the job goes on for ever", 60)
    job = owner.jobs.get(registration.job.id)
    assert (job.state, job.error.code) == ("failed", "worker-lost")
    assert owner.models.get(registration.model.id).status == "failed"


def test_a_ring_that_redis_forgot_is_repeated(fragile, owner):
    """The database is the truth: a broker that loses its memory loses no job."""
    import redis

    stop(fragile.processes["worker"])
    ready = next(model for model in owner.models.list() if model.name == "emoji")
    submission = owner.verifications.create(ready.id, MODEL)
    with redis.Redis.from_url(fragile.settings["AIAO_BROKER_URL"]) as broker:
        broker.flushall()
    fragile.change_job(submission.job.id, "rung_at = now() - interval '1 hour'")
    fragile.start_worker()
    assert owner.jobs.wait(submission).state == "succeeded"
