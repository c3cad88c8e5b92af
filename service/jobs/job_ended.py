"""What the end of a job means for the thing it worked on, in the same transaction as the job's last change of state."""

from typing import Any

from sqlalchemy.orm import Session

from service.keys.repository import LentSecretRepository
from service.kit.storage import Storage
from service.models.repository import ModelRepository
from service.tables.jobs import Job
from service.webhooks.service import announce


def ended(session: Session, job: Job) -> None:
    """After the last change of a job's state: webhooks hear of it, and a secret that was lent to it is forgotten."""
    LentSecretRepository(session, job.tenant_id).drop(job.id)
    announce(session, job)


def record_failure(session: Session, job: Job, error: dict[str, Any]) -> None:
    """A failed or canceled embedding leaves a failed model; a verification or an audit shows its job's state itself."""
    if job.kind == "embed":
        model = ModelRepository(session, job.tenant_id).get(job.subject_id)
        if model.status == "embedding":
            model.status, model.error = "failed", error


def training_state_key(job_id: str) -> str:
    """Where an embedding under way keeps its training checkpoint."""
    return f"training/{job_id}.pt"


def discard_training_state(storage: Storage, job_id: str) -> None:
    """Once a job has ended, nobody goes on from its training checkpoint."""
    storage.delete(training_state_key(job_id))
