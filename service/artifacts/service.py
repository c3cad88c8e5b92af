"""Take a file in: stream it into storage, hash it, recognize it and keep it once per content, or leave nothing behind."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from obstore.exceptions import BaseError
from sqlalchemy.orm import Session

from aiao_core.formats.identify import Kind
from aiao_core.sizing import UNKNOWN, DenoiserSize
from service.activity.service import record
from service.artifacts.inspectors import INSPECTORS
from service.artifacts.repository import ArtifactRepository
from service.auth.callers import Caller
from service.context import Context
from service.kit.database import utc_now
from service.kit.errors import Conflict, InvalidArtifact, ServiceError, UploadTooLarge
from service.kit.ids import new_id
from service.kit.storage import Storage
from service.tables.artifacts import Artifact
from service.tenants import lock_tenant


@dataclass(frozen=True)
class ReceivedFile:
    """A file that came in whole, in an object of its own."""

    artifact_id: str
    filename: str
    sha256: str
    size: int
    kind: Kind
    denoiser: DenoiserSize | None
    """Of an archive or a safetensors file."""
    object_name: str


async def receive(
    storage: Storage, chunks: AsyncIterator[bytes], *, filename: str, expected_sha256: str | None, max_bytes: int
) -> ReceivedFile:
    """Store ``chunks``, hashing them on the way. Raise :class:`UploadTooLarge` or :class:`InvalidArtifact`."""
    artifact_id, digest, size = new_id("art"), hashlib.sha256(), 0

    async def hashed() -> AsyncIterator[bytes]:
        nonlocal size
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise UploadTooLarge.beyond(max_bytes)
            digest.update(chunk)
            yield chunk

    key = object_name(artifact_id)
    await storage.receive(key, hashed())
    try:
        _check_digest(digest.hexdigest(), expected_sha256)
        kind, denoiser = await _kind_and_size(storage, key, size, filename)
    except BaseException:
        storage.delete(key)
        raise
    return ReceivedFile(artifact_id, filename, digest.hexdigest(), size, kind, denoiser, key)


async def recognize(
    storage: Storage, key: str, *, filename: str, expected_sha256: str | None, expected_size: int
) -> ReceivedFile:
    """Read an object that came into storage by another way, once, to its end. Raise :class:`InvalidArtifact`."""
    digest, size = hashlib.sha256(), 0
    async for chunk in storage.stream_async(key):
        size += len(chunk)
        digest.update(chunk)
    if size != expected_size:
        raise InvalidArtifact(f"{size} bytes came in, and not the {expected_size} that were announced; send the file again")
    _check_digest(digest.hexdigest(), expected_sha256)
    kind, denoiser = await _kind_and_size(storage, key, size, filename)
    return ReceivedFile(new_id("art"), filename, digest.hexdigest(), size, kind, denoiser, key)


def _check_digest(sha256: str, expected: str | None) -> None:
    if expected and sha256 != expected:
        raise InvalidArtifact(f"the upload was damaged on the way: its SHA-256 is {sha256}; send it again")


async def _kind_and_size(storage: Storage, key: str, size: int, filename: str) -> tuple[Kind, DenoiserSize | None]:
    if size == 0:
        raise InvalidArtifact("the upload is empty; send the file as the body of the request")
    answer = await INSPECTORS.ask("upload", partial(storage.open, key), size, filename)
    if "invalid" in answer:
        raise InvalidArtifact(answer["invalid"])
    return answer["kind"], DenoiserSize(**answer["denoiser"]) if answer["denoiser"] else None


def denoiser_of(storage: Storage, artifact: Artifact) -> DenoiserSize:
    """Return how large the model in an artifact is. Inspect it now if the artifact is from before that was noted."""
    if artifact.denoiser:
        return DenoiserSize(**artifact.denoiser)
    try:
        answer = INSPECTORS.ask_if_free("denoiser", partial(storage.open, artifact.object_name), artifact.size)
    except (OSError, BaseError):  # an estimate is not worth a failed call
        answer = None
    return DenoiserSize(**answer) if answer else UNKNOWN


def keep(session: Session, caller: Caller, received: ReceivedFile) -> Artifact:
    """Make the artifact of a file that came in. If the tenant already has its content, share that object."""
    tenant_id = caller.tenant_id
    lock_tenant(session, tenant_id)
    artifacts = ArtifactRepository(session, tenant_id)
    twin = artifacts.with_content(received.sha256)
    artifact = Artifact(
        id=received.artifact_id,
        tenant_id=tenant_id,
        filename=received.filename,
        sha256=received.sha256,
        size=received.size,
        kind=received.kind,
        denoiser=asdict(received.denoiser) if received.denoiser else None,
        object_name=twin.object_name if twin else received.object_name,
        token_id=caller.token_id,
        created_at=utc_now(),
    )
    record(session, tenant_id, caller.token_id, "artifact.upload", artifact.id)
    return artifacts.add(artifact)


@contextmanager
def spare_deleted(context: Context, received: ReceivedFile) -> Iterator[Callable[[Session, Caller], Artifact]]:
    """Yield :func:`keep`, to be called once, in a transaction. Afterwards delete the object if no artifact came of it.

    If the transaction failed at its very end, the artifact may be there or not: the object stays, and the collection of garbage
    decides.
    """
    spare = True

    def keeping(session: Session, caller: Caller) -> Artifact:
        nonlocal spare
        artifact = keep(session, caller, received)
        spare = artifact.object_name != received.object_name
        return artifact

    try:
        yield keeping
    except ServiceError:  # before the end
        spare = True
        raise
    finally:
        if spare:
            context.storage.delete(received.object_name)


def delete(session: Session, caller: Caller, artifact_id: str) -> str | None:
    """Delete an artifact. Return the key of its object if that can go too, once this is committed.

    Raise :class:`service.kit.errors.Forbidden` unless the caller made it or has the owner's scope, and :class:`Conflict` if a
    model or a job needs it.
    """
    lock_tenant(session, caller.tenant_id)
    artifacts = ArtifactRepository(session, caller.tenant_id)
    artifact = artifacts.get(artifact_id, lock=True)
    caller.require_maker(artifact.token_id, artifact_id)
    if user := artifacts.user_of(artifact_id):
        raise Conflict(f"{user} needs {artifact_id}; retire the model, or wait for the job or cancel it, and delete it then")
    artifact.deleted_at = utc_now()
    session.flush()
    return None if artifacts.shares_object(artifact) else artifact.object_name


def object_name(artifact_id: str) -> str:
    return f"artifacts/{artifact_id}"
