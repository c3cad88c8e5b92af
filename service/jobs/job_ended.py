"""The end of a job: what it means for the job's subject, in the same transaction as the job's last change of state."""

from typing import Any

from sqlalchemy.orm import Session

from service.jobs.schemas import JobOut
from service.keys.repository import LentSecretRepository
from service.kit.storage import Storage
from service.tables.audits import Audit
from service.tables.jobs import Job
from service.tables.models import Model
from service.tables.subjects import Subject
from service.tables.verifications import Verification
from service.webhooks.service import announce

SUBJECTS: dict[str, type[Subject]] = {"embed": Model, "verify": Verification, "audit": Audit}
"""What a job works on, by its kind."""


def note_end(session: Session, job: Job) -> None:
    """After the last change of a job's state: forget a secret that was lent to it, and tell the webhooks."""
    LentSecretRepository(session, job.tenant_id).drop(job.id)

    def document() -> dict[str, Any]:
        told = SUBJECTS[job.kind].announcement(session, job.subject_id)
        return JobOut.model_validate(job).model_dump(mode="json") | told

    announce(session, job.tenant_id, f"job.{job.state}", document)


def record_failure(session: Session, job: Job, error: dict[str, Any]) -> None:
    """Tell a failed or canceled job's subject."""
    SUBJECTS[job.kind].note_failure(session, job.subject_id, error)


def training_state_key(job_id: str) -> str:
    """Return where an embedding under way keeps its training checkpoint."""
    return f"training/{job_id}.pt"


def discard_training_state(storage: Storage, job_id: str) -> None:
    """Delete the training checkpoint of a job that has ended: nobody goes on from it."""
    storage.delete(training_state_key(job_id))
