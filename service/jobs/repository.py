"""Queries for jobs: the tenants' own, and the compare-and-set changes of workers and reaper."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from service.kit.database import UtcDateTime
from service.kit.repository import TenantRepository
from service.tables.jobs import Job


class JobRepository(TenantRepository[Job]):
    """One tenant's jobs."""

    table, noun = Job, "job"

    def unfinished(self) -> int:
        """Count the jobs that are queued or running."""
        query = select(func.count()).where(Job.tenant_id == self.tenant_id, Job.state.in_(("queued", "running")))
        return self.session.scalar(query) or 0


class LeaseRepository:
    """Jobs of every tenant, for workers and the reaper."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, job_id: str) -> Job | None:
        return self.session.get(Job, job_id, populate_existing=True)

    def change(self, job_id: str, state: str, attempt: int, /, **values: Any) -> bool:
        """Compare and set: change the job if it is still in this state and attempt. False if it is not."""
        query = update(Job).where(Job.id == job_id, Job.state == state, Job.attempt == attempt).values(**values)
        result = self.session.execute(query, execution_options={"synchronize_session": False})
        return bool(result.rowcount)  # type: ignore[attr-defined]

    def renew(self, job_id: str, attempt: int, **values: Any) -> bool | None:
        """Change the job if this attempt still runs it. Return whether the user asked to cancel it; None if it does not."""
        query = update(Job).where(Job.id == job_id, Job.state == "running", Job.attempt == attempt).values(**values)
        renewed = query.returning(Job.cancel_requested)
        return self.session.scalar(renewed, execution_options={"synchronize_session": False})

    def running(self, job_id: str, attempt: int) -> Job | None:
        """Return the job if this attempt still runs it."""
        query = select(Job).where(Job.id == job_id, Job.state == "running", Job.attempt == attempt)
        return self.session.scalar(query, execution_options={"populate_existing": True})

    def to_reap(self, now: datetime, dispatched_before: datetime) -> list[Job]:
        """Return running jobs whose lease ran out, and queued ones that were last dispatched before ``dispatched_before``."""
        lost: ColumnElement[bool] = and_(Job.state == "running", Job.lease_until < now)
        forgotten: ColumnElement[bool] = and_(Job.state == "queued", Job.dispatched_at < dispatched_before)
        return list(self.session.scalars(select(Job).where(or_(lost, forgotten)).order_by(Job.id)))

    def unfinished(self) -> list[tuple[str, str, int | None, int, datetime]]:
        """Count the jobs that are queued or running by kind, state and need of memory; with the oldest time of each."""
        alike = (Job.kind, Job.state, Job.memory_bytes)
        query = select(*alike, func.count(), func.min(Job.created_at, type_=UtcDateTime()))
        rows = self.session.execute(query.where(Job.state.in_(("queued", "running"))).group_by(*alike))
        return [(kind, state, memory_bytes, count, oldest) for kind, state, memory_bytes, count, oldest in rows]
