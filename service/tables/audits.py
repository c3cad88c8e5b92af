"""Audits and their reports."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base
from service.tables.subjects import Subject


class Audit(Subject, Base):
    """An audit of a model. Its job makes the attacks."""

    __tablename__ = "audits"
    __table_args__ = (
        Index("ix_audits_tenant_id_id", "tenant_id", "id"),
        Index("ix_audits_tenant_id_model_id_id", "tenant_id", "model_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    preset: Mapped[str | None]
    attacks: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    images_artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    options: Mapped[dict[str, Any]]
    results: Mapped[dict[str, Any]]
    """Finished attacks, by their id: an audit that is interrupted goes on after them."""
    summary: Mapped[dict[str, Any] | None]
    report: Mapped[str | None] = mapped_column(deferred=True)
    """Large: read only if asked for."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
