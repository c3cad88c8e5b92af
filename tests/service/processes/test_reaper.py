from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from service.jobs import service as jobs
from service.jobs.job_ended import training_state_key
from service.jobs.leases import Lease
from service.kit.database import utc_now
from service.kit.dispatch import Doorbell
from service.kit.queues import GIB, Fleet
from service.platform import Platform
from service.processes.reaper import RING_AGAIN_SECONDS, reap
from service.tables.jobs import Job
from tests.support import rows
from tests.support.processes import free_port
from tests.support.rings import rings


@pytest.fixture
def job(platform, tenant) -> Job:
    return rows.registered(platform, tenant)[1]


def heard(platform: Platform) -> list[tuple[str, str]]:
    return rings(platform.settings.broker_url, platform.settings.queue)


def change(platform: Platform, job: Job, **values) -> None:
    with platform.database.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**values))


def lose_worker(platform: Platform, job: Job) -> None:
    """A worker takes the job and is never heard of again."""
    assert Lease.take(platform.database, job.id, 60)
    change(platform, job, lease_until=utc_now() - timedelta(seconds=1))


def keep_training_state(platform: Platform, job: Job) -> None:
    file = platform.settings.scratch_dir / "state.pt"
    file.write_bytes(b"weights")
    platform.storage.put(training_state_key(job.id), file)


def has_training_state(platform: Platform, job: Job) -> bool:
    try:
        platform.storage.stream(training_state_key(job.id))
    except FileNotFoundError:
        return False
    return True


def test_a_job_whose_worker_died_is_queued_again_and_rung_for(platform, job):
    keep_training_state(platform, job)
    lose_worker(platform, job)
    reap(platform)
    now = rows.job(platform.database, job.id)
    assert (now.state, now.attempt, now.lease_until) == ("queued", 1, None)
    assert heard(platform) == [("worker.embed", job.id)]
    assert has_training_state(platform, job)
    assert Lease.take(platform.database, job.id, 60).attempt == 2


def test_a_job_whose_workers_keep_dying_fails_in_words_for_its_owner(platform, job):
    keep_training_state(platform, job)
    for _ in range(platform.settings.max_attempts):
        assert rows.job(platform.database, job.id).state == "queued"
        lose_worker(platform, job)
        reap(platform)
    now, model = rows.job(platform.database, job.id), rows.model(platform.database, job.subject_id)
    assert (now.state, now.attempt, now.lease_until) == ("failed", platform.settings.max_attempts, None)
    assert now.finished_at is not None
    assert now.error["code"] == "worker-lost"
    assert "smaller options" in now.error["detail"]
    assert (model.status, model.error) == ("failed", now.error)
    assert not has_training_state(platform, job)
    assert len(heard(platform)) == platform.settings.max_attempts - 1


def test_a_job_that_should_stop_is_canceled_when_its_worker_died(platform, tenant, job):
    keep_training_state(platform, job)
    lose_worker(platform, job)
    with platform.database.session() as session:
        jobs.cancel(session, platform.storage, tenant, job.id)
    reap(platform)
    now, model = rows.job(platform.database, job.id), rows.model(platform.database, job.subject_id)
    assert (now.state, now.error) == ("canceled", None)
    assert (model.status, model.error["code"]) == ("failed", "canceled")
    assert not has_training_state(platform, job)
    assert heard(platform) == []


def test_canceling_a_job_that_waits_for_its_next_attempt_leaves_no_training_state(platform, tenant, job):
    keep_training_state(platform, job)
    lose_worker(platform, job)
    reap(platform)
    with platform.database.session() as session:
        assert jobs.cancel(session, platform.storage, tenant, job.id).state == "canceled"
    assert not has_training_state(platform, job)


def test_a_forgotten_job_is_rung_for_again_but_once(platform, job):
    change(platform, job, rung_at=utc_now() - timedelta(seconds=RING_AGAIN_SECONDS + 1))
    reap(platform)
    reap(platform)
    assert heard(platform) == [("worker.embed", job.id)]
    now = rows.job(platform.database, job.id)
    assert (now.state, now.attempt) == ("queued", 0)
    assert utc_now() - now.rung_at < timedelta(seconds=RING_AGAIN_SECONDS)


def test_a_job_that_is_well_is_left_alone(platform, tenant):
    queued, running, ended = (rows.registered(platform, tenant)[1] for _ in range(3))
    Lease.take(platform.database, running.id, 60)
    Lease.take(platform.database, ended.id, 60).fail({"code": "x", "detail": "y"})
    change(platform, ended, rung_at=utc_now() - timedelta(days=1))
    reap(platform)
    states = [rows.job(platform.database, job.id).state for job in (queued, running, ended)]
    assert states == ["queued", "running", "failed"]
    assert heard(platform) == []


def test_a_lost_verification_is_rung_for_as_a_verification(platform, tenant):
    with platform.database.session() as session:
        job = jobs.create(session, tenant, "verify", "ver_1", None)
    for _ in range(platform.settings.max_attempts):
        lose_worker(platform, job)
        reap(platform)
    assert heard(platform) == [("worker.verify", job.id)] * (platform.settings.max_attempts - 1)
    assert rows.job(platform.database, job.id).error["code"] == "worker-lost"


def test_a_job_is_rung_for_again_where_its_memory_is_and_where_there_is_most_if_nobody_knows_it(platform, tenant):
    fleet = Fleet.parse(platform.settings.queue, "cpu:8GiB gpu:22GiB")
    mixed = replace(platform, doorbell=Doorbell(platform.settings.broker_url, fleet))
    with platform.database.session() as session:
        small, large, unknown = (jobs.create(session, tenant, "verify", f"ver_{need}", need) for need in (GIB, 9 * GIB, None))
    for job in (small, large, unknown):
        lose_worker(platform, job)
    reap(mixed)
    mixed.doorbell.close()
    assert [rings(platform.settings.broker_url, name) for name in fleet.names] == [
        [("worker.verify", small.id)],
        [("worker.verify", large.id), ("worker.verify", unknown.id)],
    ]


def test_the_estimate_is_told_where_workers_keep_dying(platform, tenant):
    with platform.database.session() as session:
        job = jobs.create(session, tenant, "verify", "ver_1", 3 * GIB)
    for _ in range(platform.settings.max_attempts):
        lose_worker(platform, job)
        reap(platform)
    error = rows.job(platform.database, job.id).error
    assert error["code"] == "worker-lost"
    assert "for lack of memory (its estimate is 3.0 GiB)" in error["detail"]


def test_a_job_outlives_a_broker_that_is_down(platform, job):
    lose_worker(platform, job)
    deaf = replace(platform, doorbell=Doorbell(f"redis://127.0.0.1:{free_port()}/0", platform.settings.fleet))
    reap(deaf)
    deaf.doorbell.close()
    assert rows.job(platform.database, job.id).state == "queued"
    change(platform, job, rung_at=utc_now() - timedelta(seconds=RING_AGAIN_SECONDS + 1))
    reap(platform)
    assert heard(platform) == [("worker.embed", job.id)]


def test_a_worker_that_finishes_late_does_not_get_the_job_back(platform, job):
    late = Lease.take(platform.database, job.id, 60)
    change(platform, job, lease_until=utc_now() - timedelta(seconds=1))
    reap(platform)
    assert not late.renew(None)
    assert rows.job(platform.database, job.id).state == "queued"
