"""Resumable uploads: bytes come in as parts, each an object of its own; once all are there they become an artifact.

Any process of the API can go on with an upload, and a killed one loses at most one part.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from service.artifacts.quota import check_quota
from service.artifacts.repository import ArtifactRepository
from service.artifacts.service import receive, spare_deleted
from service.auth.callers import Caller
from service.context import Context
from service.kit.database import utc_now
from service.kit.errors import ChecksumMismatch, Conflict, Gone, InvalidArtifact, ServiceError, UploadTooLarge
from service.kit.ids import new_id
from service.kit.storage import Storage
from service.tables.artifacts import Artifact
from service.tables.uploads import Upload, UploadPart
from service.tenants import lock_tenant
from service.uploads.repository import UploadRepository
from service.uploads.schemas import Checksum, Metadata

PART_BYTES = 64 << 20
"""Size of a part, in bytes: a killed process loses at most one."""

LIFETIME = timedelta(days=1)
"""How long an upload is kept after its last bytes."""


def create(session: Session, caller: Caller, metadata: Metadata, length: int) -> Upload:
    """Begin an upload. Raise :class:`service.kit.errors.QuotaExceeded`."""
    tenant_id = caller.tenant_id
    lock_tenant(session, tenant_id)
    check_quota(session, tenant_id, length, metadata.sha256)
    now = utc_now()
    upload = Upload(
        id=new_id("upl"),
        tenant_id=tenant_id,
        token_id=caller.token_id,
        filename=metadata.filename,
        sha256=metadata.sha256,
        length=length,
        offset=0,
        created_at=now,
        expires_at=now + LIFETIME,
    )
    return UploadRepository(session, tenant_id).add(upload)


def find(context: Context, tenant_id: str, upload_id: str) -> Upload:
    """Return an upload. Raise :class:`service.kit.errors.NotFound`, or :class:`Gone` for one that has expired."""
    with context.database.read_session() as session:
        upload = UploadRepository(session, tenant_id).get(upload_id)
    if upload.expires_at < utc_now():
        raise Gone(f"{upload_id} has expired; begin it again")
    return upload


def check_changeable(caller: Caller, upload: Upload) -> None:
    """Raise :class:`service.kit.errors.Forbidden` unless the caller may send bytes of an upload, or give it up.

    A wrong byte ends an upload too. One from before its maker was noted, a day ago at most, is open to all of its tenant.
    """
    if upload.token_id:
        caller.require_maker(upload.token_id, upload.id)


def terminate(context: Context, caller: Caller, upload_id: str) -> None:
    """Forget an upload. An artifact that came of it stays."""
    with context.database.session() as session:
        uploads = UploadRepository(session, caller.tenant_id)
        upload = uploads.get(upload_id, lock=True)
        check_changeable(caller, upload)
        keys = uploads.remove(upload)
    _delete(context.storage, keys)


async def append(context: Context, upload: Upload, body: AsyncIterator[bytes], checksum: Checksum | None) -> int:
    """Take in the next bytes. Return how many there are now.

    A body that breaks off is kept as far as it came; with a ``checksum`` all of it is kept or nothing. Raise :class:`Conflict`
    if another request appends to the same upload, :class:`UploadTooLarge` and :class:`ChecksumMismatch`.
    """
    pieces = _Pieces(body, upload, checksum)
    unchecked: list[tuple[UploadPart, int]] = []
    try:
        while not pieces.ended:
            start, key = pieces.offset, f"uploads/{upload.id}/{new_id('prt')}"
            await context.storage.receive(key, pieces.part())
            unchecked.append((UploadPart(upload_id=upload.id, start=start, object_name=key), pieces.offset))
            if checksum is None:
                await run_in_threadpool(_note, context, upload, unchecked)
                unchecked.clear()
        if checksum and (pieces.broken or not checksum.holds()):
            raise ChecksumMismatch("the bytes of this request have another checksum than it announces; send them again")
        await run_in_threadpool(_note, context, upload, unchecked)
    except ServiceError:
        _delete(context.storage, [part.object_name for part, _ in unchecked])
        raise
    return pieces.offset


def _note(context: Context, upload: Upload, parts: list[tuple[UploadPart, int]]) -> None:
    """Note all ``parts`` or none. Drop an empty one, which the end of a body leaves."""
    for part, offset in parts:
        if offset == part.start:
            context.storage.delete(part.object_name)
    with context.database.session() as session:
        uploads = UploadRepository(session, upload.tenant_id)
        for part, offset in parts:
            if offset > part.start and not uploads.append(upload, part, offset, utc_now() + LIFETIME):
                raise Conflict(f"another request has changed {upload.id}; ask where it stands, and go on from there")


class _Pieces:
    """The body of a request, cut into parts."""

    def __init__(self, body: AsyncIterator[bytes], upload: Upload, checksum: Checksum | None) -> None:
        self._body, self._length, self._checksum = body, upload.length, checksum
        self.offset = upload.offset
        self.ended = self.broken = False

    async def part(self) -> AsyncIterator[bytes]:
        end = self.offset + PART_BYTES
        while self.offset < end:
            try:
                chunk = await anext(self._body)
            except StopAsyncIteration:
                self.ended = True
                return
            except ClientDisconnect:
                self.ended = self.broken = True
                return
            self.offset += len(chunk)
            if self.offset > self._length:
                raise UploadTooLarge(f"these are more bytes than the {self._length} that were announced")
            if self._checksum:
                self._checksum.digest.update(chunk)
            yield chunk


async def finish(context: Context, caller: Caller, upload: Upload) -> Artifact:
    """Make the artifact of an upload that is all there. Raise :class:`InvalidArtifact`; the upload is then forgotten.

    May be called again, also at the same time: there is one artifact.
    """
    artifact, keys = await run_in_threadpool(_state, context, upload)
    if artifact:
        return artifact
    try:
        received = await receive(
            context.storage,
            _joined(context.storage, keys),
            filename=upload.filename,
            expected_sha256=upload.sha256,
            max_bytes=upload.length,
        )
    except FileNotFoundError:  # perhaps another request was faster, and has deleted the parts
        artifact, _ = await run_in_threadpool(_state, context, upload)
        if artifact:
            return artifact
        raise
    except InvalidArtifact:
        await run_in_threadpool(terminate, context, caller, upload.id)
        raise

    def kept() -> Artifact:
        with spare_deleted(context, received) as keep, context.database.session() as session:
            uploads = UploadRepository(session, caller.tenant_id)
            row = uploads.get(upload.id, lock=True)
            if row.artifact_id:  # another request was faster
                return ArtifactRepository(session, caller.tenant_id).get(row.artifact_id)
            artifact = keep(session, caller)
            row.artifact_id = artifact.id
            spare = uploads.drop_parts(upload.id)
        _delete(context.storage, spare)
        return artifact

    return await run_in_threadpool(kept)


def _state(context: Context, upload: Upload) -> tuple[Artifact | None, Sequence[str]]:
    """Return the artifact that came of the upload, if one did, and the keys of its parts."""
    with context.database.read_session() as session:
        uploads = UploadRepository(session, upload.tenant_id)
        keys = uploads.parts(upload.id)  # first: another request that takes them away meanwhile has named its artifact by then
        artifact_id = uploads.get(upload.id).artifact_id
        return ArtifactRepository(session, upload.tenant_id).get(artifact_id) if artifact_id else None, keys


async def _joined(storage: Storage, keys: Sequence[str]) -> AsyncIterator[bytes]:
    for key in keys:
        async for chunk in storage.stream_async(key):
            yield chunk


def _delete(storage: Storage, keys: Sequence[str]) -> None:
    for key in keys:
        storage.delete(key)
