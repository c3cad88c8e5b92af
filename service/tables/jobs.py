"""Jobs: the truth about what runs."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base


class Job(Base):
    """One embedding, verification or audit. Every change of state is a compare-and-set on (state, attempt)."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state_lease_until", "state", "lease_until"),
        Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        Index("ix_jobs_tenant_id_state_id", "tenant_id", "state", "id"),
        Index("ix_jobs_tenant_id_kind_id", "tenant_id", "kind", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]
    subject_id: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued")
    attempt: Mapped[int] = mapped_column(default=0)
    releases: Mapped[int] = mapped_column("hand_backs", default=0, server_default=text("0"))
    """Attempts that ended because their worker was told to stop: they do not count against the job."""
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Memory that it needs, by an estimate, in bytes; null for a job from before there was one, and where it is unknown."""
    lease_until: Mapped[datetime | None]
    dispatched_at: Mapped[datetime] = mapped_column("rung_at")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    traceparent: Mapped[str | None]
    """Continues the request's trace in every attempt, whichever process dispatches it."""
    request_id: Mapped[str | None]
    """The request that made it, for the worker's log."""
    waits_until: Mapped[datetime | None]
    """Time before which an interrupted job is not taken again: what interrupted it may last."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @property
    def attempts_that_count(self) -> int:
        return self.attempt - self.releases
