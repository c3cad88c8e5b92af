"""Uploaded files. An upload that breaks off goes on where it stopped, by tus 1.0 or, a large one, in the service's bucket."""

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from aiao._client import direct_upload
from aiao._client.documents import Artifact, read
from aiao._client.errors import ApiError, ClientError
from aiao._client.transport import LAST_ANSWER_SECONDS, Retries, TransferProgress, Transport, chunks, is_transient
from aiao_core.formats.archives import pack
from aiao_core.formats.digests import sha256_file

TUS = {"Tus-Resumable": "1.0.0"}
DIRECT_BYTES = 64 << 20
"""Larger files go to the service's bucket, if it has one; for smaller ones that is not worth the calls."""


class Artifacts:
    """Uploaded files."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: str | Path, *, progress: TransferProgress | None = None) -> Artifact:
        """Upload a file, or a folder, which is packed as .zip first. The service checks the SHA-256.

        An upload that breaks off goes on where it stopped. Raises :class:`ClientError` for an empty or missing file, and if the
        service stays away for about five minutes.
        """
        with _as_file(Path(path)) as file:
            name = file.name if Path(path).is_file() else f"{Path(path).resolve().name}.zip"
            size = file.stat().st_size
            if size == 0:
                raise ClientError(f"{path} is empty")
            sha256 = sha256_file(file)
            if size > DIRECT_BYTES:
                with suppress(direct_upload.Unavailable):
                    return direct_upload.send(self._transport, file, name, sha256, progress)
            metadata = f"filename {_base64(name)},sha256 {_base64(sha256)}"
            headers = TUS | {"Upload-Length": str(size), "Upload-Metadata": metadata}
            place = self._transport.send("POST", "/v1/uploads", headers=headers).headers["Location"]
            return self.get(self._append(place, file, size, progress))

    def list(self) -> Iterator[Artifact]:
        """Yield all artifacts, newest first, without deleted ones."""
        return self._transport.list("/v1/artifacts", Artifact)

    def get(self, artifact_id: str) -> Artifact:
        """Return an artifact: name, digest, size in bytes, kind."""
        return read(Artifact, self._transport.get(f"/v1/artifacts/{artifact_id}").content)

    def delete(self, artifact_id: str) -> None:
        """Delete a file; reports keep its name and digest. Refused while a model or an unfinished job needs it."""
        self._transport.delete(f"/v1/artifacts/{artifact_id}")

    def _append(self, place: str, file: Path, size: int, progress: TransferProgress | None) -> str:
        """Send ``file`` to the upload at ``place``, however often the connection breaks; return the artifact's identifier."""
        offset, retries = 0, Retries()
        while True:
            try:
                headers = TUS | {
                    "Upload-Offset": str(offset),
                    "Content-Type": "application/offset+octet-stream",
                    "Content-Length": str(size - offset),
                }
                timeout = httpx.Timeout(self._transport.http.timeout.connect, read=LAST_ANSWER_SECONDS)
                body = _body(file, offset, size, progress)
                answer = self._transport.send("PATCH", place, headers=headers, content=body, timeout=timeout)
                return answer.headers["AIAO-Artifact"]
            except ClientError as error:
                # 409: the service was still storing what came before the connection broke.
                retries.wait(error, transient=isinstance(error, ApiError) and error.status == 409)
            before, offset = offset, self._offset(place, offset)
            if offset > before:
                retries.progressed()

    def _offset(self, place: str, last_known: int) -> int:
        """Return how many bytes of an upload the service has; while nothing answers, ``last_known``."""
        try:
            return int(self._transport.send("HEAD", place, headers=TUS).headers["Upload-Offset"])
        except ClientError as error:
            if not is_transient(error):
                raise
            return last_known


def check_exists(path: Path) -> None:
    """Raise :class:`ClientError` for a path at which there is neither file nor folder."""
    if not (path.is_file() or path.is_dir()):
        raise ClientError(f"{path} does not exist")


@contextmanager
def _as_file(path: Path) -> Iterator[Path]:
    """``path`` itself, or, if it is a folder, an archive of it that lives as long as the block."""
    check_exists(path)
    if path.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            packed = Path(scratch) / "folder.zip"
            pack(path, packed)
            yield packed
    else:
        yield path


def _body(file: Path, offset: int, total: int, progress: TransferProgress | None) -> Iterator[bytes]:
    for chunk in chunks(file, offset, total - offset):
        yield chunk
        offset += len(chunk)
        if progress:
            progress(offset, total)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
