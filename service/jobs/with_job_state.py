"""Verifications and audits as the API shows them: with the states of their jobs."""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from service.jobs.repository import JobRepository
from service.kit.schemas import Schema

Shown = TypeVar("Shown", bound=Schema)


def with_states(kind: type[Shown], session: Session, tenant_id: str, rows: Sequence[Any], outcome: str) -> list[Shown]:
    """Show ``rows`` with the states of their jobs. ``outcome`` is a column that is filled once a job has succeeded."""
    jobs = JobRepository(session, tenant_id).by_id(row.job_id for row in rows)
    for row in rows:
        if jobs[row.job_id].state == "succeeded" and getattr(row, outcome) is None:
            session.refresh(row)  # the job has ended since the row was read
    return [_with_job(kind, row, jobs[row.job_id].state, jobs[row.job_id].error) for row in rows]


def _with_job(kind: type[Shown], row: Any, status: str, error: dict[str, Any] | None) -> Shown:
    fields = {name: getattr(row, name) for name in kind.model_fields if name not in ("status", "error")}
    return kind.model_validate(fields | {"status": status, "error": error})
