"""Verifications and their reports."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base


class Verification(Base):
    __tablename__ = "verifications"
    __table_args__ = (
        Index("ix_verifications_tenant_id_id", "tenant_id", "id"),
        Index("ix_verifications_tenant_id_model_id_id", "tenant_id", "model_id", "id"),
        Index("ix_verifications_tenant_id_verdict_id", "tenant_id", "verdict", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    hub: Mapped[str | None]
    base_artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    suspect_name: Mapped[str]
    suspect_sha256: Mapped[str | None]
    options: Mapped[dict[str, Any]]
    verdict: Mapped[str | None]
    log10_p: Mapped[float | None]
    vs_rate: Mapped[float | None]
    rs_rate: Mapped[float | None]
    report: Mapped[str | None] = mapped_column(deferred=True)
    """Large: read only for whoever asks for it."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
