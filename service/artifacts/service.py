"""Take a file in: streamed, hashed, recognised and stored, or nothing left behind."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from sqlalchemy.orm import Session

from service.artifacts.kinds import kind_of
from service.artifacts.repository import ArtifactRepository
from service.artifacts.schemas import Kind
from service.artifacts.tables import Artifact
from service.database import utc_now
from service.errors import InvalidArtifact, UploadTooLarge
from service.ids import new_id
from service.platform import Platform


@dataclass(frozen=True)
class Upload:
    """A file that came in whole, in a temporary place."""

    path: Path
    filename: str
    sha256: str
    size: int
    kind: Kind


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """A file that is gone after the block."""
    with NamedTemporaryFile(dir=folder, prefix="upload-", delete=False) as handle:
        path = Path(handle.name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


async def receive(
    chunks: AsyncIterator[bytes], path: Path, *, filename: str, expected_sha256: str | None, max_bytes: int
) -> Upload:
    """Write ``chunks`` to ``path``, hashing them on the way. Raises :class:`UploadTooLarge` or :class:`InvalidArtifact`."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise UploadTooLarge(f"this upload has more than {max_bytes} bytes, the largest that this service takes")
            digest.update(chunk)
            await asyncio.to_thread(target.write, chunk)
    sha256 = digest.hexdigest()
    if expected_sha256 and sha256 != expected_sha256:
        raise InvalidArtifact(f"the upload was damaged on the way: its SHA-256 is {sha256}; send it again")
    return Upload(path, filename, sha256, size, await asyncio.to_thread(kind_of, path, filename))


@contextmanager
def stored(platform: Platform, upload: Upload) -> Iterator[str]:
    """Put an upload into storage and yield its artifact identifier; if the block fails, the object is deleted again."""
    artifact_id = new_id("art")
    platform.storage.put(storage_key(artifact_id), upload.path)
    try:
        yield artifact_id
    except BaseException:
        platform.storage.delete(storage_key(artifact_id))
        raise


def keep(session: Session, tenant_id: str, artifact_id: str, upload: Upload) -> Artifact:
    """The row of a stored upload."""
    artifact = Artifact(
        id=artifact_id,
        tenant_id=tenant_id,
        filename=upload.filename,
        sha256=upload.sha256,
        size=upload.size,
        kind=upload.kind,
        storage_key=storage_key(artifact_id),
        created_at=utc_now(),
    )
    return ArtifactRepository(session, tenant_id).add(artifact)


def storage_key(artifact_id: str) -> str:
    return f"artifacts/{artifact_id}"
