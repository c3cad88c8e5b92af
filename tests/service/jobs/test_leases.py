import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from service.jobs import service as jobs
from service.jobs.leases import CancelRequested, Lease, LeaseLost
from service.kit.database import utc_now
from service.models import service as models
from service.models.repository import ModelRepository
from tests.support import rows

pytestmark = pytest.mark.dialect

ERROR = {"code": "invalid-checkpoint", "detail": "layer a holds NaN"}


@pytest.fixture
def job(context, tenant):
    return rows.registered(context, tenant)[1]


@pytest.fixture
def lease(context, job) -> Lease:
    return Lease.take(context.database, job.id, 60)


def lose(context, lease: Lease) -> Lease:
    """Another worker gets the job, as after an expired lease; returns the lease that counts now."""
    with context.database.session() as session:
        session.execute(sa.text("UPDATE jobs SET state = 'queued' WHERE id = :id"), {"id": lease.job_id})
    return Lease.take(context.database, lease.job_id, 60)


@contextmanager
def meanwhile(context, table: str, work: Callable[[], object]) -> Iterator[None]:
    """Do ``work`` in a thread once the block has read ``table``: to its end, or until it waits for the block's locks."""
    thread = threading.Thread(target=work)

    def read(_connection, _cursor, statement, *_) -> None:
        if not thread.ident and statement.startswith("SELECT") and f"FROM {table}" in statement:
            thread.start()
            thread.join(0.5)

    sa.event.listen(context.database.engine, "after_cursor_execute", read)
    yield
    thread.join()


def succeed(context, lease: Lease) -> None:
    with context.database.session() as session:
        lease.succeed(session, "/v1/models/mdl_1")


def as_values(row) -> dict:
    return {each.key: getattr(row, each.key) for each in type(row).__mapper__.column_attrs}


def test_of_many_workers_exactly_one_takes_a_job(context, job):
    together = threading.Barrier(8)

    def race(_: int) -> Lease | None:
        together.wait()
        return Lease.take(context.database, job.id, 60)

    with ThreadPoolExecutor(8) as pool:
        won = [lease for lease in pool.map(race, range(8)) if lease]
    assert [lease.attempt for lease in won] == [1]
    now = rows.job(context.database, job.id)
    assert (now.state, now.attempt) == ("running", 1)
    assert now.started_at is not None
    assert now.lease_until > utc_now()


def test_a_job_that_is_not_queued_cannot_be_taken(context, lease):
    assert Lease.take(context.database, lease.job_id, 60) is None
    assert Lease.take(context.database, "job_unknown", 60) is None
    succeed(context, lease)
    assert Lease.take(context.database, lease.job_id, 60) is None


def test_the_next_attempt_counts_on_and_keeps_the_first_start(context, lease):
    started = rows.job(context.database, lease.job_id).started_at
    assert lose(context, lease).attempt == 2
    assert rows.job(context.database, lease.job_id).started_at == started


def test_renewing_prolongs_the_lease_and_keeps_the_last_progress(context, lease):
    first = rows.job(context.database, lease.job_id).lease_until
    progress = {"stage": "embedding", "step": 1, "total": 9, "metrics": {}, "seconds_left": None}
    assert lease.renew(progress)
    assert lease.renew(None)
    now = rows.job(context.database, lease.job_id)
    assert now.lease_until > first
    assert now.progress == progress


def test_success_ends_the_job_with_its_result(context, lease):
    succeed(context, lease)
    now = rows.job(context.database, lease.job_id)
    assert (now.state, now.result, now.lease_until) == ("succeeded", "/v1/models/mdl_1", None)
    assert now.finished_at is not None


def test_a_failure_says_why_on_job_and_model(context, job, lease):
    lease.fail(ERROR)
    model = rows.model(context.database, job.subject_id)
    assert (rows.job(context.database, job.id).state, rows.job(context.database, job.id).error) == ("failed", ERROR)
    assert (model.status, model.error) == ("failed", ERROR)


def test_a_canceled_run_leaves_a_failed_model(context, job, lease):
    lease.cancel()
    model = rows.model(context.database, job.subject_id)
    assert rows.job(context.database, job.id).state == "canceled"
    assert (model.status, model.error["code"]) == ("failed", "canceled")


def test_a_wish_to_cancel_reaches_the_worker_by_its_next_renewal(context, tenant, lease):
    assert lease.renew(None)
    lease.check()
    with context.database.session() as session:
        jobs.cancel(session, context.storage, tenant, lease.job_id)
    assert lease.renew(None)
    with pytest.raises(CancelRequested):
        lease.check()
    assert rows.job(context.database, lease.job_id).state == "running"


def test_a_check_asks_itself_once_no_renewal_came_through_for_as_long_as_a_lease_holds(context, tenant, lease):
    with context.database.session() as session:
        jobs.cancel(session, context.storage, tenant, lease.job_id)
    lease.check()
    lease.seconds = 0
    with pytest.raises(CancelRequested):
        lease.check()


@pytest.mark.parametrize("way", ["other attempt", "ended"])
def test_a_worker_that_lost_its_lease_changes_nothing(context, job, lease, way):
    if way == "ended":
        succeed(context, lease)
    else:
        lose(context, lease)
    before = [as_values(rows.job(context.database, job.id)), as_values(rows.model(context.database, job.subject_id))]
    assert not lease.renew({"stage": "late"})
    for late in (lease.check, lambda: succeed(context, lease), lambda: lease.fail(ERROR), lease.cancel):
        with pytest.raises(LeaseLost):
            late()
    after = [as_values(rows.job(context.database, job.id)), as_values(rows.model(context.database, job.subject_id))]
    assert after == before


def test_what_a_fenced_worker_stored_in_its_last_transaction_is_undone(context, tenant, job, lease):
    lose(context, lease)

    def store_and_succeed() -> None:
        with context.database.session() as session:
            model = ModelRepository(session, tenant).get(job.subject_id)
            model.status, model.checkpoint_object = "ready", "marked/late.zip"
            lease.succeed(session, "/v1/models/late")

    with pytest.raises(LeaseLost):
        store_and_succeed()
    model = rows.model(context.database, job.subject_id)
    assert (model.status, model.checkpoint_object) == ("embedding", None)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite runs one transaction at a time
def test_a_cancel_is_not_lost_to_a_worker_that_starts_meanwhile(context, tenant, job):
    def take() -> None:
        Lease.take(context.database, job.id, 60)

    with meanwhile(context, "jobs", take), context.database.session() as session:
        jobs.cancel(session, context.storage, tenant, job.id)
    now = rows.job(context.database, job.id)
    assert now.state == "canceled" or now.cancel_requested


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_model_that_is_retired_while_its_embedding_ends_stays_retired(context, tenant):
    model, job, secret = rows.registered(context, tenant)
    lease = Lease.take(context.database, job.id, 60)

    def retire() -> None:
        with context.database.session() as session:
            models.retire(session, context.storage, tenant, model.id)

    with meanwhile(context, "models", retire), context.database.session() as session:
        lease.succeed(session, "/v1/models/mdl_1")
        models.mark_ready(session, context.vault, tenant, model.id, rows.a_key(secret), (), models.Checkpoint("a", "0", 1))
    now = rows.model(context.database, model.id)
    assert (now.status, now.checkpoint_object) == ("retired", "a")
    assert rows.job(context.database, job.id).state == "succeeded"
