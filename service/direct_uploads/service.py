"""Direct uploads: a client sends a large file to the storage's bucket in parts, which the service then reads and judges itself.

Only the service completes a multipart upload, and a completed one cannot change: the service keeps exactly the bytes it reads.
The object stays where it is and becomes the artifact's, if the tenant does not have the same content already.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from service.artifacts.quota import check_quota
from service.artifacts.repository import ArtifactRepository
from service.artifacts.service import ReceivedFile, keep, object_name, recognize
from service.auth.callers import Caller
from service.context import Context
from service.direct_uploads.repository import DirectUploadRepository
from service.direct_uploads.schemas import DirectUploadIn, PartOut
from service.kit.bucket import MAX_PARTS, Bucket, Part
from service.kit.database import utc_now
from service.kit.errors import Gone, InvalidArtifact, InvalidParts, NoDirectUploads
from service.kit.ids import new_id
from service.tables.artifacts import Artifact
from service.tables.direct_uploads import DirectUpload
from service.tenants import lock_tenant

PART_BYTES = 16 << 20
"""Size of a part, in bytes, unless a file would have more parts than S3 lists at once."""

LIFETIME = timedelta(days=1)
"""How long an upload is kept after the last call for its parts."""

Kept = Callable[[Session, Artifact], None]

MAX_NAMED_PARTS = 10
"""Parts that an error names at most."""


def bucket_of(context: Context) -> Bucket:
    """Return the bucket. Raise :class:`NoDirectUploads` if there is none."""
    if context.bucket is None:
        raise NoDirectUploads(
            "the storage of this service takes no files from clients; send the file by the resumable protocol, POST /v1/uploads"
        )
    return context.bucket


@contextmanager
def begun(context: Context, caller: Caller, request: DirectUploadIn) -> Iterator[Callable[[Session], DirectUpload]]:
    """Begin an upload in the bucket; yield a function that stores its row. Abort the upload unless that succeeds."""
    bucket, now, tenant_id = bucket_of(context), utc_now(), caller.tenant_id
    upload_id, part_bytes = new_id("mpu"), max(PART_BYTES, -(-request.size // MAX_PARTS))
    multipart_id, stored = bucket.begin(object_name(upload_id)), False
    upload = DirectUpload(
        id=upload_id, tenant_id=tenant_id, filename=request.filename, sha256=request.sha256, size=request.size,
        part_bytes=part_bytes, multipart_id=multipart_id, token_id=caller.token_id, created_at=now, expires_at=now + LIFETIME,
    )  # fmt: skip

    def store(session: Session) -> DirectUpload:
        nonlocal stored
        lock_tenant(session, tenant_id)
        check_quota(session, tenant_id, request.size, request.sha256)
        stored = True
        return DirectUploadRepository(session, tenant_id).add(upload)

    try:
        yield store
    except BaseException:
        stored = False
        raise
    finally:
        if not stored:
            bucket.abort(object_name(upload_id), multipart_id)


def go_on(context: Context, caller: Caller, upload_id: str) -> DirectUpload:
    """Keep the upload for another day, and return it.

    Raise :class:`service.kit.errors.NotFound`, :class:`service.kit.errors.Forbidden`, :class:`NoDirectUploads`, or
    :class:`Gone` for one that has expired.
    """
    with context.database.session() as session:
        upload = _changeable(session, caller, upload_id)
        bucket_of(context)
        if upload.expires_at < utc_now():
            raise Gone(f"{upload_id} has expired; begin it again")
        upload.expires_at = utc_now() + LIFETIME
        return upload


def parts(context: Context, upload: DirectUpload, after: int, limit: int) -> list[PartOut]:
    """Return at most ``limit`` parts after number ``after``, each with where to send it."""
    bucket, key = bucket_of(context), object_name(upload.id)
    try:
        there = bucket.parts(key, upload.multipart_id)
    except FileNotFoundError as error:
        raise _lost(upload) from error
    numbers = range(after + 1, min(after + limit, upload.parts) + 1)
    return [
        PartOut(
            number=number,
            size=upload.size_of(number),
            url=bucket.sign(key, upload.multipart_id, number, upload.size_of(number)),
            etag=there[number].etag if number in there else None,
        )
        for number in numbers
    ]


def _changeable(session: Session, caller: Caller, upload_id: str) -> DirectUpload:
    """Return an upload, locked, of which the caller may send parts, or which it may abort.

    A wrong part ends an upload too. One from before its maker was noted, a day ago at most, is open to all of its tenant.
    """
    upload = DirectUploadRepository(session, caller.tenant_id).get(upload_id, lock=True)
    if upload.token_id:
        caller.require_maker(upload.token_id, upload.id)
    return upload


def terminate(context: Context, caller: Caller, upload_id: str) -> None:
    """Forget an upload. An artifact that came of it stays."""
    with context.database.session() as session:
        upload = _changeable(session, caller, upload_id)
        session.delete(upload)
    discard(context, upload)


def discard(context: Context, upload: DirectUpload) -> None:
    """Delete the bytes of an upload that is forgotten."""
    if upload.artifact_id is None:
        if context.bucket:
            context.bucket.abort(object_name(upload.id), upload.multipart_id)
        context.storage.delete(object_name(upload.id))


async def complete(context: Context, caller: Caller, upload: DirectUpload, etags: Mapping[int, str], kept: Kept) -> Artifact:
    """Make the artifact of an upload whose parts have these ETags. Call ``kept`` in the transaction that stores it.

    Raise :class:`InvalidParts`, after which the upload can go on, or :class:`InvalidArtifact`; it is then forgotten.
    May be called again, also at the same time: there is one artifact.
    """
    if artifact := await run_in_threadpool(_artifact, context, upload):
        return artifact
    await run_in_threadpool(_join, context, upload, etags)
    try:
        received = await recognize(
            context.storage,
            object_name(upload.id),
            filename=upload.filename,
            expected_sha256=upload.sha256,
            expected_size=upload.size,
        )
    except (FileNotFoundError, InvalidArtifact) as error:
        # Perhaps another call was faster, found that the tenant has this content already, and has deleted the object.
        if artifact := await run_in_threadpool(_artifact, context, upload):
            return artifact
        if isinstance(error, FileNotFoundError):
            raise _lost(upload) from error
        await run_in_threadpool(terminate, context, caller, upload.id)
        raise
    return await run_in_threadpool(_keep, context, caller, upload, received, kept)


def _artifact(context: Context, upload: DirectUpload) -> Artifact | None:
    with context.database.read_session() as session:
        artifact_id = DirectUploadRepository(session, upload.tenant_id).get(upload.id).artifact_id
        return ArtifactRepository(session, upload.tenant_id).get(artifact_id) if artifact_id else None


def _lost(upload: DirectUpload) -> Gone:
    return Gone(f"the bucket no longer takes parts of {upload.id}; complete it if all were sent, or begin it again")


def _join(context: Context, upload: DirectUpload, etags: Mapping[int, str]) -> None:
    """Make the object of its parts, unless a call that broke off has done so."""
    bucket, key = bucket_of(context), object_name(upload.id)
    try:
        there = bucket.parts(key, upload.multipart_id)
        needed = range(1, upload.parts + 1)
        if missing := [number for number in needed if number not in there]:
            if _is_joined(context, upload):
                return  # by another call: a store may take the parts away one after the other
            raise InvalidParts(f"{_list(missing)} not in the bucket; send what is missing, and complete the upload then")
        if set(etags) != set(needed):
            raise InvalidParts(f"name each of the parts 1 to {upload.parts} once")
        wrong = [n for n in needed if there[n] != Part(upload.size_of(n), etags[n].strip('"'))]
        if wrong:
            raise InvalidParts(f"{_list(wrong)} there with another ETag or size than named; send them again")
        bucket.complete(key, upload.multipart_id, {number: there[number] for number in needed})
    except FileNotFoundError:
        return  # reading the object shows whether it is there


def _is_joined(context: Context, upload: DirectUpload) -> bool:
    try:
        context.storage.open(object_name(upload.id)).close()
    except FileNotFoundError:
        return False
    return True


def _list(numbers: list[int]) -> str:
    more = f" and {len(numbers) - MAX_NAMED_PARTS} more" if len(numbers) > MAX_NAMED_PARTS else ""
    return f"{len(numbers)} of the parts ({', '.join(map(str, numbers[:MAX_NAMED_PARTS]))}{more}) are"


def _keep(context: Context, caller: Caller, upload: DirectUpload, received: ReceivedFile, kept: Kept) -> Artifact:
    with context.database.session() as session:
        row = DirectUploadRepository(session, caller.tenant_id).get(upload.id, lock=True)
        if row.artifact_id:  # another call was faster
            return ArtifactRepository(session, caller.tenant_id).get(row.artifact_id)
        artifact = keep(session, caller, received)
        row.artifact_id = artifact.id
        kept(session, artifact)
    if artifact.object_name != received.object_name:
        context.storage.delete(received.object_name)
    return artifact
