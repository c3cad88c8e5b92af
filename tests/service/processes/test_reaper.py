from dataclasses import replace
from datetime import timedelta

import pytest
import redis
from sqlalchemy import update

from service.context import Context
from service.jobs import service as jobs
from service.jobs.job_ended import training_state_key
from service.jobs.leases import Lease
from service.kit.database import utc_now
from service.kit.dispatch import Dispatcher
from service.kit.queues import GIB, Fleet
from service.processes.reaper import NOTIFY_AGAIN_SECONDS, reap
from service.tables.jobs import Job
from tests.support import rows
from tests.support.processes import free_port
from tests.support.rings import rings

pytestmark = pytest.mark.dialect


@pytest.fixture
def job(context, tenant) -> Job:
    return rows.registered(context, tenant)[1]


def heard(context: Context) -> list[tuple[str, str]]:
    return rings(context.settings.broker_url, context.settings.queue)


def change(context: Context, job: Job, **values) -> None:
    with context.database.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**values))


def lose_worker(context: Context, job: Job) -> None:
    """A worker takes the job and is never heard of again."""
    assert Lease.take(context.database, job.id, 60)
    change(context, job, lease_until=utc_now() - timedelta(seconds=1))


def keep_training_state(context: Context, job: Job) -> None:
    file = context.settings.scratch_dir / "state.pt"
    file.write_bytes(b"weights")
    context.storage.put(training_state_key(job.id), file)


def has_training_state(context: Context, job: Job) -> bool:
    try:
        context.storage.stream(training_state_key(job.id))
    except FileNotFoundError:
        return False
    return True


def test_a_job_whose_worker_died_is_queued_again_and_rung_for(context, job):
    keep_training_state(context, job)
    lose_worker(context, job)
    reap(context)
    now = rows.job(context.database, job.id)
    assert (now.state, now.attempt, now.lease_until) == ("queued", 1, None)
    assert heard(context) == [("worker.embed", job.id)]
    assert has_training_state(context, job)
    assert Lease.take(context.database, job.id, 60).attempt == 2


def test_a_job_whose_workers_keep_dying_fails_in_words_for_its_owner(context, job):
    keep_training_state(context, job)
    for _ in range(context.settings.max_attempts):
        assert rows.job(context.database, job.id).state == "queued"
        lose_worker(context, job)
        reap(context)
    now, model = rows.job(context.database, job.id), rows.model(context.database, job.subject_id)
    assert (now.state, now.attempt, now.lease_until) == ("failed", context.settings.max_attempts, None)
    assert now.finished_at is not None
    assert now.error["code"] == "worker-lost"
    assert "smaller options" in now.error["detail"]
    assert (model.status, model.error) == ("failed", now.error)
    assert not has_training_state(context, job)
    assert len(heard(context)) == context.settings.max_attempts - 1


def test_a_job_that_should_stop_is_canceled_when_its_worker_died(context, tenant, job):
    keep_training_state(context, job)
    lose_worker(context, job)
    with context.database.session() as session:
        jobs.cancel(session, context.storage, tenant, job.id)
    reap(context)
    now, model = rows.job(context.database, job.id), rows.model(context.database, job.subject_id)
    assert (now.state, now.error) == ("canceled", None)
    assert (model.status, model.error["code"]) == ("failed", "canceled")
    assert not has_training_state(context, job)
    assert heard(context) == []


def test_canceling_a_job_that_waits_for_its_next_attempt_leaves_no_training_state(context, tenant, job):
    keep_training_state(context, job)
    lose_worker(context, job)
    reap(context)
    with context.database.session() as session:
        assert jobs.cancel(session, context.storage, tenant, job.id).state == "canceled"
    assert not has_training_state(context, job)


def test_a_forgotten_job_is_rung_for_again_but_once(context, job):
    change(context, job, dispatched_at=utc_now() - timedelta(seconds=NOTIFY_AGAIN_SECONDS + 1))
    reap(context)
    reap(context)
    assert heard(context) == [("worker.embed", job.id)]
    now = rows.job(context.database, job.id)
    assert (now.state, now.attempt) == ("queued", 0)
    assert utc_now() - now.dispatched_at < timedelta(seconds=NOTIFY_AGAIN_SECONDS)


def test_jobs_that_wait_for_busy_workers_fill_no_broker(context, tenant):
    waiting = [rows.registered(context, tenant)[1] for _ in range(3)]

    def wait_in_vain() -> None:
        for job in waiting:
            change(context, job, dispatched_at=utc_now() - timedelta(seconds=NOTIFY_AGAIN_SECONDS + 1))
        reap(context)

    for _ in range(4):
        wait_in_vain()
        assert len(heard(context)) == 3
    with redis.Redis.from_url(context.settings.broker_url) as broker:
        assert broker.lpop(context.settings.queue)
        wait_in_vain()
        assert len(heard(context)) == 3  # what a worker took for another job is sent again
        broker.delete(context.settings.queue)
    wait_in_vain()
    assert sorted(heard(context)) == [("worker.embed", job.id) for job in waiting]


def test_an_older_worker_that_takes_the_job_of_its_message_beside_a_new_one_leaves_none_for_ever(context, tenant):
    """The new one takes the job whose turn it is, and the older one may find that its message's job is gone."""
    share = context.settings.fleet.share_of(context.settings.queue)
    waiting = [rows.registered(context, tenant)[1].id for _ in range(4)]

    def work(messages: list[str]) -> None:
        for number, job_id in enumerate(messages):
            lease = Lease.take_next(context.database, share, 60) if number % 2 else Lease.take(context.database, job_id, 60)
            if lease:
                lease.fail({"code": "x", "detail": "y"})

    def left() -> list[str]:
        return [job_id for job_id in waiting if rows.job(context.database, job_id).state == "queued"]

    work([waiting[number] for number in (1, 2, 0, 3)])
    assert left() == [waiting[3]]
    with context.database.session() as session:
        past = utc_now() - timedelta(seconds=NOTIFY_AGAIN_SECONDS + 1)
        session.execute(update(Job).where(Job.id.in_(waiting)).values(dispatched_at=past))
    reap(context)
    assert heard(context) == [("worker.embed", waiting[3])]
    work([waiting[3]])
    assert left() == []


def test_a_job_that_is_well_is_left_alone(context, tenant):
    queued, running, ended = (rows.registered(context, tenant)[1] for _ in range(3))
    Lease.take(context.database, running.id, 60)
    Lease.take(context.database, ended.id, 60).fail({"code": "x", "detail": "y"})
    change(context, ended, dispatched_at=utc_now() - timedelta(days=1))
    reap(context)
    states = [rows.job(context.database, job.id).state for job in (queued, running, ended)]
    assert states == ["queued", "running", "failed"]
    assert heard(context) == []


def test_a_lost_verification_is_rung_for_as_a_verification(context, tenant):
    with context.database.session() as session:
        job = jobs.create(session, tenant, "verify", "ver_1", None)
    for _ in range(context.settings.max_attempts):
        lose_worker(context, job)
        reap(context)
    assert heard(context) == [("worker.verify", job.id)] * (context.settings.max_attempts - 1)
    assert rows.job(context.database, job.id).error["code"] == "worker-lost"


def test_a_job_is_rung_for_again_where_its_memory_is_and_where_there_is_most_if_nobody_knows_it(context, tenant):
    fleet = Fleet.parse(context.settings.queue, "cpu:8GiB gpu:22GiB")
    mixed = replace(context, dispatcher=Dispatcher(context.settings.broker_url, fleet))
    with context.database.session() as session:
        small, large, unknown = (jobs.create(session, tenant, "verify", f"ver_{need}", need) for need in (GIB, 9 * GIB, None))
    for job in (small, large, unknown):
        lose_worker(context, job)
    reap(mixed)
    mixed.dispatcher.close()
    assert [rings(context.settings.broker_url, name) for name in fleet.names] == [
        [("worker.verify", small.id)],
        [("worker.verify", large.id), ("worker.verify", unknown.id)],
    ]


def test_the_estimate_is_told_where_workers_keep_dying(context, tenant):
    with context.database.session() as session:
        job = jobs.create(session, tenant, "verify", "ver_1", 3 * GIB)
    for _ in range(context.settings.max_attempts):
        lose_worker(context, job)
        reap(context)
    error = rows.job(context.database, job.id).error
    assert error["code"] == "worker-lost"
    assert "for lack of memory (its estimate is 3.0 GiB)" in error["detail"]


def test_a_job_outlives_a_broker_that_is_down(context, job):
    lose_worker(context, job)
    deaf = replace(context, dispatcher=Dispatcher(f"redis://127.0.0.1:{free_port()}/0", context.settings.fleet))
    reap(deaf)
    deaf.dispatcher.close()
    assert rows.job(context.database, job.id).state == "queued"
    change(context, job, dispatched_at=utc_now() - timedelta(seconds=NOTIFY_AGAIN_SECONDS + 1))
    reap(context)
    assert heard(context) == [("worker.embed", job.id)]


def test_a_worker_that_finishes_late_does_not_get_the_job_back(context, job):
    late = Lease.take(context.database, job.id, 60)
    change(context, job, lease_until=utc_now() - timedelta(seconds=1))
    reap(context)
    assert not late.renew(None)
    assert rows.job(context.database, job.id).state == "queued"
