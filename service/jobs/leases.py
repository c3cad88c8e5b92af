"""A worker's hold on a job: taken, renewed, lost or ended, always by compare-and-set on (state, attempt)."""

import time
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.jobs.job_ended import ended, record_failure
from service.jobs.repository import LeaseRepository
from service.kit.database import Database, utc_now
from service.kit.telemetry import untraced
from service.tables.jobs import Job


class LeaseLost(Exception):
    """Another attempt has the job, or it has ended: whatever this one still computes must not be stored."""


class CancelRequested(Exception):
    """The user asked to stop."""


class Lease:
    """One attempt at a job."""

    def __init__(self, database: Database, job: Job, seconds: float) -> None:
        self.database, self.job, self.seconds = database, job, seconds
        self.job_id, self.attempt = job.id, job.attempt
        self.timed_out = False
        """Whether the job has failed because this attempt took too long."""
        self._last_check = time.monotonic()

    @classmethod
    def take(cls, database: Database, job_id: str, seconds: float) -> "Lease | None":
        """Start the next attempt of a queued job; None if it is not queued (any more)."""
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

    @untraced()
    def check(self) -> None:
        """Raise :class:`LeaseLost` or :class:`CancelRequested` if this attempt should stop.

        While the database does not answer, the attempt goes on for as long as its lease may still hold.
        """
        try:
            with self.database.read_session() as session:
                job = LeaseRepository(session).running(self.job_id, self.attempt)
        except OperationalError:
            if time.monotonic() > self._last_check + self.seconds:
                raise
            return
        self._last_check = time.monotonic()
        if job is None:
            raise LeaseLost(self.job_id)
        if job.cancel_requested:
            raise CancelRequested(self.job_id)

    def renew(self, progress: dict[str, Any] | None) -> bool:
        """Hold the job for another while and write its progress. False if the lease is lost."""
        until = utc_now() + timedelta(seconds=self.seconds)
        values: dict[str, Any] = {"lease_until": until} | ({"progress": progress} if progress else {})
        with self.database.session() as session:
            return LeaseRepository(session).change(self.job_id, "running", self.attempt, **values)

    def succeed(self, session: Session, result: str) -> None:
        """End the job in the caller's transaction. Raises :class:`LeaseLost`, so that the transaction is undone."""
        self._end(session, state="succeeded", result=result)

    def fail(self, error: dict[str, str]) -> None:
        with self.database.session() as session:
            self._end(session, state="failed", error=error)
            record_failure(session, self._job(session), error)

    def cancel(self) -> None:
        with self.database.session() as session:
            self._end(session, state="canceled")
            record_failure(session, self._job(session), {"code": "canceled", "detail": "the job was canceled"})

    def release(self) -> None:
        """Queue the job again, for another worker: this one has to stop. The attempt does not count against the job."""
        with self.database.session() as session:
            self._queue(session, releases=Job.releases + 1)

    def retry_later(self, max_attempts: int, error: dict[str, str]) -> None:
        """Queue the job again, as the attempt ended by no fault of the job; after ``max_attempts`` it fails with ``error``."""
        with self.database.session() as session:
            job = self._job(session)
            if job.attempts_that_count < max_attempts:
                self._queue(session)
            else:
                self._end(session, state="failed", error=error)
                record_failure(session, job, error)

    def _queue(self, session: Session, **values: Any) -> None:
        values |= {"state": "queued", "lease_until": None, "dispatched_at": utc_now()}
        if not LeaseRepository(session).change(self.job_id, "running", self.attempt, **values):
            raise LeaseLost(self.job_id)

    def _end(self, session: Session, **values: Any) -> None:
        values |= {"lease_until": None, "finished_at": utc_now()}
        if not LeaseRepository(session).change(self.job_id, "running", self.attempt, **values):
            raise LeaseLost(self.job_id)
        ended(session, self._job(session))

    def _job(self, session: Session) -> Job:
        job = LeaseRepository(session).get(self.job_id)
        if job is None:
            raise LeaseLost(self.job_id)
        return job
