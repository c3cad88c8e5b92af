"""Delete what nobody refers to: uploads that have expired, and objects that a killed process left in storage."""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.artifacts.tables import Artifact
from service.database import utc_now
from service.jobs.outcomes import training_state_key
from service.jobs.service import FINAL
from service.jobs.tables import Job
from service.models.tables import Model
from service.platform import Platform
from service.uploads.repository import UploadRepository, expired
from service.uploads.tables import UploadPart

logger = logging.getLogger(__name__)

Refers = Callable[[Session, Iterable[str]], set[str | None]]
"""Which of these objects does a row refer to?"""

GRACE = timedelta(days=1)
"""An object is stored before the row that refers to it, and so may be alone for a moment."""


def collect(platform: Platform, now: datetime | None = None) -> int:
    """One round; returns how many objects were deleted. ``now`` is for tests that will not wait."""
    now = now or utc_now()
    keys = _expired_parts(platform, now)
    for folder, referred in REFERRED.items():
        for objects in platform.storage.list(folder):
            old = [each.key for each in objects if each.changed_at < now - GRACE]
            if old:
                with platform.database.session() as session:
                    keys += set(old) - referred(session, old)
    for key in keys:
        platform.storage.delete(key)
        logger.info("%s: deleted, nothing refers to it", key)
    return len(keys) + platform.storage.drop_unfinished(now - GRACE)


def _expired_parts(platform: Platform, now: datetime) -> list[str]:
    keys: list[str] = []
    with platform.database.session() as session:
        for upload in expired(session, now):
            keys += UploadRepository(session, upload.tenant_id).remove(upload)
    return keys


def _column(column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], *conditions: ColumnElement[bool]) -> Refers:
    return lambda session, keys: set(session.scalars(select(column).where(column.in_(keys), *conditions)))


def _training(session: Session, keys: Iterable[str]) -> set[str | None]:
    jobs = [PurePosixPath(key).stem for key in keys]
    query = select(Job.id).where(Job.id.in_(jobs), Job.state.not_in(FINAL))
    return {training_state_key(job) for job in session.scalars(query)}


REFERRED: dict[str, Refers] = {
    "artifacts": _column(Artifact.storage_key, Artifact.deleted_at.is_(None)),
    "marked": _column(Model.checkpoint_key),
    "training": _training,
    "uploads": _column(UploadPart.storage_key),
}
"""By the folder of the objects."""
