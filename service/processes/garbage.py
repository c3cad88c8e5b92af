"""Delete objects that no row refers to, expired uploads and files that killed processes left in storage; and old rows."""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.artifacts.service import object_name
from service.context import Context
from service.direct_uploads import repository as direct_uploads
from service.direct_uploads.service import discard
from service.jobs.job_ended import training_state_key
from service.jobs.service import FINAL
from service.kit.database import utc_now
from service.processes.pruning import prune
from service.tables.artifacts import Artifact
from service.tables.jobs import Job
from service.tables.models import Model
from service.tables.uploads import UploadPart
from service.uploads.repository import UploadRepository, expired

logger = logging.getLogger(__name__)

Refers = Callable[[Session, Iterable[str]], set[str | None]]
"""Returns which of these objects a row refers to."""

GRACE_PERIOD = timedelta(days=1)
"""An object is stored before the row that refers to it, and so may be alone for a moment."""


def collect(context: Context, now: datetime | None = None) -> int:
    """Delete garbage once. Return how many objects were deleted. ``now`` is for tests, which cannot wait."""
    now = now or utc_now()
    prune(context.database, now)
    keys = _expired_parts(context, now)
    for folder, referred in REFERRED.items():
        for objects in context.storage.list(folder):
            old = [each.key for each in objects if each.changed_at < now - GRACE_PERIOD]
            if old:
                with context.database.session() as session:
                    keys += set(old) - referred(session, old)
    for key in keys:
        context.storage.delete(key)
        logger.info("%s: deleted, nothing refers to it", key)
    return len(keys) + _expired_direct_uploads(context, now) + _unfinished(context, now - GRACE_PERIOD)


def _expired_parts(context: Context, now: datetime) -> list[str]:
    keys: list[str] = []
    with context.database.session() as session:
        for upload in expired(session, now):
            keys += UploadRepository(session, upload.tenant_id).remove(upload)
    return keys


def _expired_direct_uploads(context: Context, now: datetime) -> int:
    with context.database.session() as session:
        uploads = direct_uploads.expired(session, now)
        for upload in uploads:
            session.delete(upload)
    for upload in uploads:
        discard(context, upload)
    return len(uploads)


def _unfinished(context: Context, before: datetime) -> int:
    """Delete files that were begun before then and never became an object."""
    count = context.storage.drop_unfinished(before)
    if context.bucket:
        begun = [each for folder in REFERRED for each in context.bucket.unfinished(folder, before)]
        with context.database.session() as session:
            kept = {object_name(each) for each in direct_uploads.under_way(session, map(_name, dict(begun)))}
        for key, multipart_id in begun:
            if key not in kept:
                context.bucket.abort(key, multipart_id)
                count += 1
    return count


def _column(column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], *conditions: ColumnElement[bool]) -> Refers:
    return lambda session, keys: set(session.scalars(select(column).where(column.in_(keys), *conditions)))


def _artifacts(session: Session, keys: Iterable[str]) -> set[str | None]:
    """Keep objects of direct uploads too: they seem as old as their first call, and are read before an artifact names them."""
    read = direct_uploads.under_way(session, map(_name, keys))
    return _column(Artifact.object_name, Artifact.deleted_at.is_(None))(session, keys) | {object_name(each) for each in read}


def _training(session: Session, keys: Iterable[str]) -> set[str | None]:
    jobs = [_name(key) for key in keys]
    query = select(Job.id).where(Job.id.in_(jobs), Job.state.not_in(FINAL))
    return {training_state_key(job) for job in session.scalars(query)}


def _name(key: str) -> str:
    return PurePosixPath(key).stem


REFERRED: dict[str, Refers] = {
    "artifacts": _artifacts,
    "marked": _column(Model.checkpoint_object),
    "training": _training,
    "uploads": _column(UploadPart.object_name),
}
"""By the folder of the objects."""
