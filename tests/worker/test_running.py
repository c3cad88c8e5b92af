import errno
import fcntl
import os
import threading
import time

import obstore
import pytest
import sqlalchemy as sa
import torch
from safetensors import SafetensorError

from aiao_core.errors import LONGEST_SENTENCE, InvalidCheckpoint
from aiao_core.progress import Progress
from service.jobs import service as jobs
from service.jobs.leases import CancelRequested, Lease, LeaseLost
from service.jobs.repository import LeaseRepository
from service.kit.ids import new_id
from service.vault.key_encryption import VaultError
from tests.support.attempts import run
from tests.support.processes import wait_for
from worker import running
from worker.scratch import LOCK, remove_abandoned


def job(context, job_id):
    with context.database.session() as session:
        return LeaseRepository(session).get(job_id)


def scratch_of(context) -> list[str]:
    return sorted(path.name for path in context.settings.scratch_dir.iterdir())


def finish(work) -> None:
    with work.context.database.session() as session:
        work.lease.succeed(session, "/v1/verifications/x")


def go_on(work) -> None:
    """Make steps until one stops the attempt."""
    for step in range(1, 2000):
        work.progress(Progress("embedding", step, 2000))
        time.sleep(0.005)


def test_a_task_gets_the_job_and_a_scratch_folder_that_goes(context, job_id):
    seen = {}

    def task(work) -> None:
        seen.update(job=work.job.id, state=job(context, job_id).state, scratch=work.scratch)
        (work.scratch / "file").write_text("x")
        finish(work)

    run(job_id, task)
    assert (seen["job"], seen["state"]) == (job_id, "running")
    assert not seen["scratch"].exists()
    done = job(context, job_id)
    assert (done.state, done.attempt, done.result) == ("succeeded", 1, "/v1/verifications/x")


def test_the_same_job_is_not_run_twice(context, job_id):
    runs = []

    def task(work) -> None:
        runs.append(work.lease.attempt)
        run(job_id, task)  # rung for again while it runs
        finish(work)

    run(job_id, task)
    run(job_id, task)
    assert runs == [1]


def test_an_error_with_a_reason_is_the_jobs_reason(context, job_id):
    def task(work) -> None:
        raise InvalidCheckpoint("layer x is missing")

    run(job_id, task)
    failed = job(context, job_id)
    assert (failed.state, failed.error) == ("failed", {"code": "invalid-checkpoint", "detail": "layer x is missing"})
    assert scratch_of(context) == []


def test_a_clients_name_in_an_error_is_printable_and_short(context, job_id):
    ids = [new_id("art") for _ in range(2)]
    names = ["\x1b[2J\u202e" + "a" * 180, ids[0]]

    def task(work) -> None:
        work.filenames |= dict(zip(ids, names, strict=True))
        raise InvalidCheckpoint(f"{ids[0]}: broken, as {ids[1]} and {new_id('art')}; " + f"{ids[0]} " * 100)

    run(job_id, task)
    detail = job(context, job_id).error["detail"]
    assert detail.startswith(r"\x1b[2J\u202eaaa")
    assert f"as {ids[0]} and art_" in detail  # a name is not looked up again
    assert detail.isprintable()
    assert len(detail) <= LONGEST_SENTENCE


def test_an_unexpected_error_is_a_failed_job_that_leaks_nothing(context, job_id, caplog):
    def task(work) -> None:
        raise RuntimeError("password=hunter2")

    run(job_id, task)
    failed = job(context, job_id)
    assert (failed.state, failed.error["code"]) == ("failed", "internal-error")
    assert "hunter2" not in failed.error["detail"]
    assert job_id in failed.error["detail"]
    assert "hunter2" in caplog.text  # the operator's log has it


def test_a_cancel_takes_effect_at_the_first_step_after_a_heartbeat(context, job_id, monkeypatch):
    renew, begun = Lease.renew, []

    def renewed(lease, progress) -> bool:
        begun.append(progress)
        return renew(lease, progress)

    def task(work) -> None:
        work.progress(Progress("embedding", 1, 2000))
        with context.database.session() as session:
            jobs.cancel(session, context.storage, job(context, job_id).tenant_id, job_id)
        begun.clear()
        go_on(work)
        finish(work)

    monkeypatch.setattr(Lease, "renew", renewed)
    run(job_id, task)
    assert job(context, job_id).state == "canceled"
    assert len(begun) <= 2  # the one that told it, and perhaps another one before the step was at its end


def test_a_step_costs_no_query(context, job_id):
    mine, counts = threading.get_ident(), []

    def count(*_: object) -> None:
        counts.append(threading.get_ident())

    def task(work) -> None:
        sa.event.listen(work.context.database.engine, "before_cursor_execute", count)
        for step in range(1, 1001):
            work.progress(Progress("embedding", step, 1000))
        counts.append("steps are done")
        finish(work)

    run(job_id, task)
    done = counts.index("steps are done")
    assert counts[:done].count(mine) == 0
    assert counts[done:].count(mine) > 0  # what is counted is what the task asks
    assert job(context, job_id).state == "succeeded"


def test_a_lost_lease_stops_the_attempt_and_stores_nothing(context, job_id):
    def task(work) -> None:
        with context.database.session() as session:  # the reaper gave the job to another worker
            LeaseRepository(session).change(job_id, "running", 1, state="queued")
            LeaseRepository(session).change(job_id, "queued", 1, state="running", attempt=2)
        with pytest.raises(LeaseLost):
            go_on(work)
        finish(work)

    run(job_id, task)
    still = job(context, job_id)
    assert (still.state, still.attempt, still.result) == ("running", 2, None)


def test_the_heartbeat_writes_progress_and_holds_the_lease_during_one_long_step(context, job_id):
    def task(work) -> None:
        first = job(context, job_id).lease_until
        work.progress(Progress("embedding", 5, 10, {"response": 0.5}))
        wait_for(lambda: job(context, job_id).progress, "no progress was written")
        wait_for(lambda: job(context, job_id).lease_until > first, "the lease was not renewed")
        finish(work)

    run(job_id, task)
    progress = job(context, job_id).progress
    assert (progress["stage"], progress["step"], progress["total"]) == ("embedding", 5, 10)


def test_what_a_killed_attempt_left_is_removed_and_what_a_living_one_needs_is_not(context, job_id):
    killed, living, beginning = (context.settings.scratch_dir / f"{new_id('job')}-{name}" for name in "abc")
    for folder in (killed, living, beginning):
        folder.mkdir()
    for folder in (killed, living):
        (folder / LOCK).write_text("")
    with (living / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(job_id, finish)
        assert scratch_of(context) == sorted([living.name, beginning.name])
    os.utime(beginning, (0, 0))
    remove_abandoned(context.settings.scratch_dir)
    assert scratch_of(context) == []


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 60)],
    ids=["torch", "Python"],
)
def test_a_job_that_gets_no_memory_fails_in_words_for_its_owner(context, job_id, allocate):
    def task(work) -> None:
        allocate()

    run(job_id, task)
    failed = job(context, job_id)
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", 1, "out-of-memory")
    assert "batch_size" in failed.error["detail"]


@pytest.fixture
def hasty(monkeypatch, context):
    """A worker's context with a time limit."""
    monkeypatch.setenv("AIAO_JOB_SECONDS", "0.3")
    running._context.cache_clear()
    return context


def test_a_job_fails_at_its_time_limit_also_within_one_long_step(hasty, job_id):
    def task(work) -> None:
        wait_for(lambda: job(hasty, job_id).state == "failed", "the job goes on for ever")
        with pytest.raises(LeaseLost):
            go_on(work)
        finish(work)

    run(job_id, task)
    failed = job(hasty, job_id)
    assert (failed.state, failed.attempt, failed.result) == ("failed", 1, None)
    assert failed.error["code"] == "time-limit"
    assert "not done after 0.3 seconds" in failed.error["detail"]
    assert running.JOB_SECONDS.labels("verify", "timed out")._sum.get() > 0
    assert scratch_of(hasty) == []


def test_a_time_limit_is_no_concern_of_a_job_that_is_done_before(hasty, job_id):
    run(job_id, finish)
    assert job(hasty, job_id).state == "succeeded"


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.OperationalError("SELECT 1", {}, Exception("gone")),
        obstore.exceptions.GenericError("the storage is away"),
        VaultError("the key service is away"),
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_outage_ends_an_attempt_and_no_job_until_there_were_too_many(context, job_id, error):
    def task(work) -> None:
        raise error

    limit = context.settings.max_attempts
    for attempt in range(1, limit):
        run(job_id, task)
        assert (job(context, job_id).state, job(context, job_id).attempt) == ("queued", attempt)
    run(job_id, task)
    failed = job(context, job_id)
    assert (failed.state, failed.attempt, failed.error["code"]) == ("failed", limit, "worker-lost")
    assert type(error).__name__ in failed.error["detail"]
    assert scratch_of(context) == []


def test_a_worker_that_must_stop_hands_back_and_the_attempt_does_not_count(context, job_id):
    def task(work) -> None:
        running.STOPPING.set()
        work.progress(Progress("embedding", 1, 10))

    for attempt in range(1, 2 * context.settings.max_attempts):
        run(job_id, task)
        running.STOPPING.clear()
        found = job(context, job_id)
        assert (found.state, found.attempt, found.releases, found.lease_until) == ("queued", attempt, attempt, None)


def test_a_step_outlives_an_outage_of_the_database_shorter_than_the_lease(context, job_id, monkeypatch):
    def gone(*_: object) -> None:
        raise sa.exc.OperationalError("SELECT 1", {}, Exception("gone"))

    def task(work) -> None:
        with monkeypatch.context() as outage:
            for query in ("renew", "running"):
                outage.setattr(LeaseRepository, query, gone)
            work.progress(Progress("embedding", 1, 10))
            work.lease.seconds = 0
            with pytest.raises(sa.exc.OperationalError):
                work.progress(Progress("embedding", 2, 10))
        finish(work)

    run(job_id, task)
    assert job(context, job_id).state == "succeeded"


def test_pace_tells_the_seconds_that_are_left():
    pace = running.Pace()
    pace.note(Progress("embedding", 1, 10))
    assert pace.latest()["seconds_left"] is None
    pace._began -= 4  # four seconds for the next two steps
    pace.note(Progress("embedding", 3, 10))
    assert pace.latest()["seconds_left"] == pytest.approx(14, abs=1)
    pace.note(Progress("decoys", 1, 2))
    assert pace.latest()["seconds_left"] is None


def test_cancel_requested_is_told_by_the_lease(context, job_id):
    def task(work) -> None:
        with context.database.session() as session:
            jobs.cancel(session, context.storage, job(context, job_id).tenant_id, job_id)
        with pytest.raises(CancelRequested):
            go_on(work)
        finish(work)  # it was done already: the result counts

    run(job_id, task)
    assert job(context, job_id).state == "succeeded"
