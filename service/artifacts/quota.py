"""The bytes that a tenant may keep. Uploads under way count from their beginning: two at once cannot share what is left."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.artifacts.repository import ArtifactRepository
from service.auth.callers import Caller
from service.context import Context
from service.kit.database import Database, utc_now
from service.kit.errors import QuotaExceeded
from service.kit.ids import new_id
from service.tables.uploads import Upload
from service.tenants import Tenants, lock_tenant

STEP_BYTES = 16 << 20
"""Bytes of the quota that a body of unknown length takes at a time, at most: each step costs a transaction."""

HELD_FOR = timedelta(days=1)
"""How long bytes stay held for an upload whose process was killed."""


def check_quota(session: Session, tenant_id: str, more: int = 0, sha256: str | None = None) -> None:
    """Raise :class:`QuotaExceeded` if the tenant's uploads, those under way and ``more`` bytes are too many.

    An upload that announces digest and length of a file that the tenant has takes nothing. Lock the tenant before.
    """
    quota, artifacts = Tenants(session).get(tenant_id).quota_bytes, ArtifactRepository(session, tenant_id)
    if quota is None or (sha256 and artifacts.takes_nothing(sha256, more)):
        return
    needed = artifacts.bytes_used() + more
    if needed > quota:
        raise QuotaExceeded(
            f"your uploads would take {needed} of the {quota} bytes that you may keep; delete artifacts that you no longer "
            "need, or ask the operator for more"
        )


@dataclass
class Hold:
    """The bytes of a quota that one request may send. They are a row of an upload, which every process counts."""

    database: Database
    tenant_id: str
    upload_id: str | None
    """None for a tenant without a quota."""
    size: int

    async def bounded(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass ``chunks`` on, and hold more bytes for them as they come. Raise :class:`QuotaExceeded`."""
        received = 0
        async for chunk in chunks:
            received += len(chunk)
            if self.upload_id and received > self.size:
                await run_in_threadpool(self._grow, received)
            yield chunk

    def _grow(self, received: int) -> None:
        with self.database.session() as session:
            lock_tenant(session, self.tenant_id)
            more = received - self.size
            check_quota(session, self.tenant_id, more)
            quota, used = (
                Tenants(session).get(self.tenant_id).quota_bytes,
                ArtifactRepository(session, self.tenant_id).bytes_used(),
            )
            more = max(more, STEP_BYTES if quota is None else min(STEP_BYTES, quota - used))
            row = session.get(Upload, self.upload_id)
            if row is None:  # it has expired
                raise QuotaExceeded("this upload took longer than a day; send it by the resumable protocol, POST /v1/uploads")
            row.length, row.expires_at = self.size + more, utc_now() + HELD_FOR
        self.size += more

    def release(self, session: Session) -> None:
        """Give the bytes back: the file is kept, and counts itself, or it is not."""
        session.execute(delete(Upload).where(Upload.id == self.upload_id))


@asynccontextmanager
async def held(context: Context, caller: Caller, filename: str, announced: int, sha256: str | None) -> AsyncIterator[Hold]:
    """Hold the announced bytes of an upload by one request, or as many as come, until the block ends.

    Raise :class:`QuotaExceeded`.
    """
    hold = await run_in_threadpool(_begin, context, caller, filename, announced, sha256)
    try:
        yield hold
    finally:
        if hold.upload_id:
            await run_in_threadpool(_end, context, hold)


def _begin(context: Context, caller: Caller, filename: str, announced: int, sha256: str | None) -> Hold:
    hold, now = Hold(context.database, caller.tenant_id, None, announced), utc_now()
    with context.database.read_session() as session:
        if Tenants(session).get(caller.tenant_id).quota_bytes is None:
            return hold
    hold.upload_id = new_id("upl")
    with context.database.session() as session:
        lock_tenant(session, caller.tenant_id)
        check_quota(session, caller.tenant_id, announced, sha256)
        row = Upload(
            id=hold.upload_id, tenant_id=caller.tenant_id, token_id=caller.token_id, filename=filename, length=announced,
            sha256=sha256 if announced else None, offset=0, created_at=now, expires_at=now + HELD_FOR,
        )  # fmt: skip
        session.add(row)
    return hold


def _end(context: Context, hold: Hold) -> None:
    with context.database.session() as session:
        hold.release(session)
