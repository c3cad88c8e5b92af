"""Registered models."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, Session, mapped_column

from service.kit.database import Base
from service.tables.subjects import Subject


class Model(Subject, Base):
    """A registered model. Its job embeds the watermark."""

    __tablename__ = "models"
    __table_args__ = (
        Index("ix_models_tenant_id_id", "tenant_id", "id"),
        Index("ix_models_tenant_id_status_id", "tenant_id", "status", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    status: Mapped[str]
    custody: Mapped[str] = mapped_column(server_default="service")
    """The keeper of the key: the service or its owner."""
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id"))
    images_artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    options: Mapped[dict[str, Any]]
    renews: Mapped[str | None]
    """The model from whose source and images this one was made."""
    architecture: Mapped[str | None]
    checkpoint_object: Mapped[str | None] = mapped_column("checkpoint_key", index=True)
    checkpoint_sha256: Mapped[str | None]
    checkpoint_size: Mapped[int | None] = mapped_column(BigInteger)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]

    @classmethod
    def note_failure(cls, session: Session, subject_id: str, error: dict[str, Any]) -> None:
        """Let a failed or canceled embedding leave a failed model; one that was retired meanwhile stays so."""
        model = session.get_one(cls, subject_id)
        if model.status == "embedding":
            model.status, model.error = "failed", error
