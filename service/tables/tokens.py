"""Tenants and their bearer tokens, of which only a digest is kept."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base


class Tenant(Base):
    """A user of the service, who sees no other tenant's things."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    quota_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    """Maximum size of its uploads, in bytes; null: no limit."""
    created_at: Mapped[datetime]


class Token(Base):
    """A bearer token. A revoked or expired one is kept: the activity log names it."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(sa.JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
