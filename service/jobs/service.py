"""Rules of a job's life: queued, running, then succeeded, failed or canceled."""

from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars

from service.jobs.job_ended import discard_training_state, note_end, record_failure
from service.jobs.repository import JobRepository, LeaseRepository
from service.jobs.schemas import JobKind
from service.kit.database import utc_now
from service.kit.errors import TooManyJobs
from service.kit.ids import new_id
from service.kit.storage import Storage
from service.kit.telemetry import note, traceparent
from service.tables.jobs import Job

FINAL = ("succeeded", "failed", "canceled")


def check_room(session: Session, tenant_id: str, limit: int) -> None:
    """Raise :class:`TooManyJobs` if the tenant has ``limit`` unfinished jobs. Lock the tenant before."""
    if limit and JobRepository(session, tenant_id).unfinished() >= limit:
        raise TooManyJobs(
            f"{limit} of your jobs have not ended yet, the most that a tenant may have; wait until some end, or cancel some"
        )


def create(session: Session, tenant_id: str, kind: JobKind, subject_id: str, memory_bytes: int | None) -> Job:
    """Queue a job that needs ``memory_bytes``. Notify the dispatcher once the transaction is committed."""
    now = utc_now()
    job = Job(
        id=new_id("job"), tenant_id=tenant_id, kind=kind, subject_id=subject_id, state="queued", attempt=0, dispatched_at=now,
        cancel_requested=False, traceparent=traceparent(), request_id=get_contextvars().get("request_id"), created_at=now,
        memory_bytes=memory_bytes,
    )  # fmt: skip
    note(job_id=job.id, kind=kind)
    return JobRepository(session, tenant_id).add(job)


def cancel(session: Session, storage: Storage, tenant_id: str, job_id: str) -> Job:
    """Cancel a queued job at once, ask a running one to stop, and leave a finished one as it is."""
    # Locked, or a worker that takes the job between reading and writing would never learn of it.
    job = JobRepository(session, tenant_id).get(job_id, lock=True)
    if job.state in FINAL:
        return job
    leases = LeaseRepository(session)
    if leases.change(job.id, "queued", job.attempt, state="canceled", cancel_requested=True, finished_at=utc_now()):
        record_failure(session, job, {"code": "canceled", "detail": "the job was canceled before it started"})
        discard_training_state(storage, job.id)  # of an attempt whose worker was lost
        session.refresh(job)
        note_end(session, job)
    else:
        leases.change(job.id, "running", job.attempt, cancel_requested=True)
        session.refresh(job)
    return job
