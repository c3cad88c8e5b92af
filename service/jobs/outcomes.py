"""What the end of a job means for the thing it worked on, in the same transaction as the job's last change of state."""

from typing import Any

from sqlalchemy.orm import Session

from service.jobs.tables import Job
from service.models.repository import ModelRepository


def record_failure(session: Session, job: Job, error: dict[str, Any]) -> None:
    """A failed or canceled embedding leaves a failed model; a verification shows its job's state itself."""
    if job.kind == "embed":
        model = ModelRepository(session, job.tenant_id).get(job.subject_id)
        if model.status == "embedding":
            model.status, model.error = "failed", error
