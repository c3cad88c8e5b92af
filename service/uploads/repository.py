"""Queries for uploads: a tenant's own, and those of every tenant that have expired."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from service.kit.repository import TenantRepository
from service.tables.uploads import Upload, UploadPart


class UploadRepository(TenantRepository[Upload]):
    """One tenant's uploads."""

    table, noun = Upload, "upload"

    def append(self, upload: Upload, part: UploadPart, offset: int, expires_at: datetime) -> bool:
        """Note a part after which the upload has ``offset`` bytes. False if something else has come in at its start."""
        query = update(Upload).where(Upload.id == upload.id, Upload.offset == part.start)
        result: Any = self.session.execute(query.values(offset=offset, expires_at=expires_at))
        if result.rowcount:
            self.session.add(part)
        return bool(result.rowcount)

    def parts(self, upload_id: str) -> Sequence[str]:
        """Return the keys of the parts that have come in, in order."""
        query = select(UploadPart.object_name).where(UploadPart.upload_id == upload_id).order_by(UploadPart.start)
        return self.session.scalars(query).all()

    def drop_parts(self, upload_id: str) -> Sequence[str]:
        """Forget the parts. Return the keys of their objects, which can go once this is committed."""
        keys = self.parts(upload_id)
        self.session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))
        return keys

    def remove(self, upload: Upload) -> Sequence[str]:
        """Forget the upload and its parts. Return the keys of their objects."""
        keys = self.drop_parts(upload.id)
        self.session.delete(upload)
        return keys


def expired(session: Session, now: datetime) -> Sequence[Upload]:
    """Return uploads of any tenant that have expired."""
    return session.scalars(select(Upload).where(Upload.expires_at < now).order_by(Upload.expires_at).limit(100)).all()
