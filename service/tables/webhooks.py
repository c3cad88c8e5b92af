"""Webhooks of a tenant, and their messages."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base
from service.vault.sealed_rows import SealedRow


class Webhook(SealedRow, Base):
    """An address that hears of a tenant's jobs, and the secret that signs what it hears."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    url: Mapped[str]
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime]

    @property
    def context(self) -> str:
        return f"aiao/v1/webhook-secret/{self.tenant_id}/{self.id}"


class Delivery(Base):
    """One message to one webhook. ``next_attempt_at`` is null once it is delivered or has failed."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    event: Mapped[str]
    body: Mapped[str]
    state: Mapped[str]
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime | None] = mapped_column(index=True)
    status_code: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None] = mapped_column(index=True)
