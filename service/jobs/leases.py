"""Leases: a worker's hold on a job, taken, renewed, lost or ended, always by compare-and-set on (state, attempt)."""

import time
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.jobs.job_ended import note_end, record_failure
from service.jobs.repository import LeaseRepository
from service.jobs.turns import next_job
from service.kit.database import Database, utc_now
from service.kit.queues import Share
from service.kit.telemetry import untraced
from service.tables.jobs import Job

RETRY_SECONDS = 20
"""Seconds before an interrupted job is taken again: less than the reaper waits before it sends another message."""


class LeaseLost(Exception):
    """Another attempt has the job, or it has ended: results that this attempt still computes must not be stored."""


class CancelRequested(Exception):
    """The user asked to stop."""


class Lease:
    """One attempt at a job. One thread renews it, and others check it."""

    def __init__(self, database: Database, job: Job, seconds: float) -> None:
        self.database, self.job, self.seconds = database, job, seconds
        self.job_id, self.attempt = job.id, job.attempt
        self.timed_out = False
        """Whether the job has failed because this attempt took too long."""
        self._stop: type[LeaseLost] | type[CancelRequested] | None = None
        """Why this attempt should stop, as the database last said."""
        self._asked = time.monotonic()
        """When the database last answered."""

    @classmethod
    def take(cls, database: Database, job_id: str, seconds: float) -> "Lease | None":
        """Start the next attempt of a queued job. Return None if the job is not queued, or no longer."""
        now = utc_now()
        with database.session() as session:
            leases = LeaseRepository(session)
            job = leases.get(job_id)
            if job is None or job.state != "queued":
                return None
            taken = leases.change(
                job_id,
                "queued",
                job.attempt,
                state="running",
                attempt=job.attempt + 1,
                lease_until=now + timedelta(seconds=seconds),
                started_at=job.started_at or now,
            )
            if not taken:
                return None
            session.refresh(job)
        return cls(database, job, seconds)

    @classmethod
    def take_next(cls, database: Database, share: Share, seconds: float) -> "Lease | None":
        """Start the next attempt at the job whose turn it is in a queue. Return None if no job waits there."""
        while True:
            with database.session() as session:
                job_id = next_job(session, share, utc_now())
            if job_id is None:
                return None
            if lease := cls.take(database, job_id, seconds):
                return lease  # otherwise another worker was faster, and the next job is another one

    def check(self) -> None:
        """Raise :class:`LeaseLost` or :class:`CancelRequested` if this attempt should stop, as the last renewal found.

        It asks the database itself only if no renewal has come through for as long as a lease holds. Until then the attempt
        goes on, though the database may be away.
        """
        if self._stop is None and time.monotonic() > self._asked + self.seconds:
            self._ask()
        if self._stop is not None:
            raise self._stop(self.job_id)

    def renew(self, progress: dict[str, Any] | None) -> bool:
        """Hold the job for another while, write its progress, and learn whether to stop. False if the lease is lost."""
        until = utc_now() + timedelta(seconds=self.seconds)
        values: dict[str, Any] = {"lease_until": until} | ({"progress": progress} if progress else {})
        with self.database.session() as session:
            cancel_requested = LeaseRepository(session).renew(self.job_id, self.attempt, **values)
        self._learn(cancel_requested)
        return cancel_requested is not None

    @untraced()
    def _ask(self) -> None:
        with self.database.read_session() as session:
            job = LeaseRepository(session).running(self.job_id, self.attempt)
        self._learn(job.cancel_requested if job else None)

    def _learn(self, cancel_requested: bool | None) -> None:
        """Note what the database says of this attempt: whether to cancel it, or None if it no longer has the job."""
        self._asked = time.monotonic()
        if cancel_requested is None:
            self._stop = LeaseLost
        elif cancel_requested:
            self._stop = CancelRequested

    def succeed(self, session: Session, result: str) -> None:
        """End the job in the caller's transaction. Raise :class:`LeaseLost`, which undoes the transaction."""
        self._end(session, state="succeeded", result=result)

    def fail(self, error: dict[str, str]) -> None:
        with self.database.session() as session:
            self._end(session, state="failed", error=error)
            record_failure(session, self._job(session), error)

    def time_out(self, error: dict[str, str]) -> None:
        """Fail the job though its attempt still runs, and let the attempt's next check stop it."""
        self.fail(error)
        self.timed_out, self._stop = True, LeaseLost

    def cancel(self) -> None:
        with self.database.session() as session:
            self._end(session, state="canceled")
            record_failure(session, self._job(session), {"code": "canceled", "detail": "the job was canceled"})

    def release(self) -> None:
        """Queue the job again, for another worker: this one has to stop. The attempt does not count against the job."""
        with self.database.session() as session:
            self._queue(session, releases=Job.releases + 1)

    def retry_later(self, max_attempts: int, error: dict[str, str]) -> None:
        """Queue the job again after an attempt that ended by no fault of the job; after ``max_attempts`` fail it.

        It waits a while, or the messages of other jobs would use up its attempts during a short outage.
        """
        with self.database.session() as session:
            job = self._job(session)
            if job.attempts_that_count < max_attempts:
                self._queue(session, waits_until=utc_now() + timedelta(seconds=RETRY_SECONDS))
            else:
                self._end(session, state="failed", error=error)
                record_failure(session, job, error)

    def _queue(self, session: Session, **values: Any) -> None:
        self._change(session, state="queued", lease_until=None, dispatched_at=utc_now(), **values)

    def _end(self, session: Session, **values: Any) -> None:
        self._change(session, lease_until=None, finished_at=utc_now(), **values)
        note_end(session, self._job(session))

    def _change(self, session: Session, **values: Any) -> None:
        if not LeaseRepository(session).change(self.job_id, "running", self.attempt, **values):
            self._stop = LeaseLost
            raise LeaseLost(self.job_id)

    def _job(self, session: Session) -> Job:
        job = LeaseRepository(session).get(self.job_id)
        if job is None:
            raise LeaseLost(self.job_id)
        return job
