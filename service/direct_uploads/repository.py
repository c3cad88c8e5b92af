"""Queries for direct uploads: a tenant's own, and those of every tenant that have expired or that the bucket knows."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.kit.repository import TenantRepository
from service.tables.direct_uploads import DirectUpload


class DirectUploadRepository(TenantRepository[DirectUpload]):
    """One tenant's direct uploads."""

    table, noun = DirectUpload, "direct upload"


def expired(session: Session, now: datetime) -> Sequence[DirectUpload]:
    """Return direct uploads of any tenant that have expired."""
    return session.scalars(
        select(DirectUpload).where(DirectUpload.expires_at < now).order_by(DirectUpload.expires_at).limit(100)
    ).all()


def under_way(session: Session, upload_ids: Iterable[str]) -> set[str]:
    """Return which of these have not expired, of any tenant."""
    return set(session.scalars(select(DirectUpload.id).where(DirectUpload.id.in_(upload_ids))))
