"""Verifications and their reports."""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import ForeignKey, Index, false
from sqlalchemy.orm import Mapped, Session, mapped_column

from aiao_core.key import BINDING_VERSION
from aiao_core.protocol import coarse_bound
from aiao_core.reports.words import OLD_KEY, Told, sentence
from service.kit.database import Base
from service.tables.subjects import Subject


class Verification(Subject, Base):
    """A test of a suspect. Its job makes the test."""

    __tablename__ = "verifications"
    __table_args__ = (
        Index("ix_verifications_tenant_id_id", "tenant_id", "id"),
        Index("ix_verifications_tenant_id_model_id_id", "tenant_id", "model_id", "id"),
        Index("ix_verifications_tenant_id_verdict_id", "tenant_id", "verdict", "id"),
        Index("ix_verifications_tenant_id_suspect_weights", "tenant_id", "suspect_weights"),
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
    token_id: Mapped[str | None]
    """The token that submitted it; null for those from before that was noted."""
    with_secret: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the submitter sent the key's secret, and so may see the figures."""
    suspect_weights: Mapped[str | None]
    """Digest of the tested weights, however they were packed."""
    with_key: Mapped[int | None]
    """It is the n-th test with its key."""
    of_file: Mapped[int | None]
    """It is the n-th test of these weights by this tenant."""
    key_version: Mapped[int | None]
    """Null until there is a verdict, and of tests from before keys had a version 3."""
    verdict: Mapped[str | None]
    reason: Mapped[str | None]
    tested: Mapped[str | None]
    base_name: Mapped[str | None]
    log10_p: Mapped[float | None]
    vs_rate: Mapped[float | None]
    rs_rate: Mapped[float | None]
    report: Mapped[str | None] = mapped_column(deferred=True)
    """Large: read only if asked for."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]

    @property
    def bound_log10_p(self) -> float | None:
        """log10 of the bound that every reader may know; None above it."""
        if self.log10_p is None or self.verdict not in ("match", "base-marked"):
            return None
        return coarse_bound(self.log10_p)

    @classmethod
    def announcement(cls, session: Session, subject_id: str) -> dict[str, Any]:
        """Return what was tested, and what came of it, in a word and in a sentence."""
        row = session.get_one(cls, subject_id)
        names = ("verdict", "reason", "tested", "suspect_name", "base_name", "bound_log10_p")
        told = {name: getattr(row, name) for name in names}
        notice = OLD_KEY if row.verdict and (row.key_version or 1) < BINDING_VERSION else None
        words = {"sentence": sentence(cast(Told, row)) if row.verdict else None, "notice": notice}
        return {"verification": told | {"key_version": row.key_version} | words}
