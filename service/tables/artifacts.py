"""Uploaded files."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base


class Artifact(Base):
    """An uploaded file. Those of a tenant with the same content share one object; a deleted one keeps its row for reports."""

    __tablename__ = "artifacts"
    __table_args__ = (
        Index("ix_artifacts_tenant_id_id", "tenant_id", "id"),
        Index("ix_artifacts_tenant_id_sha256_id", "tenant_id", "sha256", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    filename: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    denoiser: Mapped[dict[str, Any] | None]
    """Of an archive: how large its denoiser is, as :class:`aiao_core.sizing.DenoiserSize`."""
    object_name: Mapped[str] = mapped_column("storage_key", index=True)
    token_id: Mapped[str | None]
    """The token that made it; null for one from before that was noted."""
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
