"""Uploaded files. An upload that breaks off goes on where it stopped, by tus 1.0 or, a large one, in the service's bucket."""

import base64
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from aiao._client import direct_upload
from aiao._client.direct_upload import chunks
from aiao._client.documents import Artifact
from aiao._client.errors import ApiError, ClientError
from aiao._client.http import is_transient, read
from aiao._client.resource import LAST_ANSWER_SECONDS, RECONNECT_SECONDS, RECONNECT_TRIES, Resource, TransferProgress
from aiao_core.formats.archives import pack
from aiao_core.formats.digests import sha256_file

TUS = {"Tus-Resumable": "1.0.0"}
DIRECT_BYTES = 64 << 20
"""Smaller files are not worth the calls."""


class Artifacts(Resource):
    """Uploaded files."""

    def upload(self, path: str | Path, *, progress: TransferProgress | None = None) -> Artifact:
        """Upload a file, or a folder, which is packed as .zip first. The service checks the SHA-256."""
        with _as_file(Path(path)) as file:
            name = file.name if Path(path).is_file() else f"{Path(path).resolve().name}.zip"
            size = file.stat().st_size
            if size == 0:
                raise ClientError(f"{path} is empty")
            sha256 = sha256_file(file)
            if size > DIRECT_BYTES:
                with suppress(direct_upload.Unavailable):
                    return direct_upload.send(self._client, file, name, sha256, progress)
            metadata = f"filename {_base64(name)},sha256 {_base64(sha256)}"
            headers = TUS | {"Upload-Length": str(size), "Upload-Metadata": metadata}
            place = self._client.send("POST", "/v1/uploads", headers=headers).headers["Location"]
            return self.get(self._append(place, file, size, progress))

    def list(self) -> Iterator[Artifact]:
        """All artifacts, newest first, without deleted ones."""
        return self._list("/v1/artifacts", Artifact)

    def get(self, artifact_id: str) -> Artifact:
        return read(Artifact, self._client.get(f"/v1/artifacts/{artifact_id}").content)

    def delete(self, artifact_id: str) -> None:
        """The file goes; reports keep its name and digest. Refused while a model or an unfinished job needs it."""
        self._client.delete(f"/v1/artifacts/{artifact_id}")

    def _append(self, place: str, file: Path, size: int, progress: TransferProgress | None) -> str:
        """Send ``file`` to the upload at ``place``, however often the connection breaks; returns the artifact's identifier."""
        offset = tries = 0
        while True:
            try:
                headers = TUS | {
                    "Upload-Offset": str(offset),
                    "Content-Type": "application/offset+octet-stream",
                    "Content-Length": str(size - offset),
                }
                timeout = httpx.Timeout(self._client.http.timeout.connect, read=LAST_ANSWER_SECONDS)
                body = _chunks(file, offset, size, progress)
                return self._client.send("PATCH", place, headers=headers, content=body, timeout=timeout).headers[
                    "AIAO-Artifact"
                ]
            except ClientError as error:
                tries += 1
                # 409: the service was still storing what came before the connection broke.
                behind = isinstance(error, ApiError) and error.status == 409
                if tries > RECONNECT_TRIES or not (behind or is_transient(error)):
                    raise
            time.sleep(RECONNECT_SECONDS)
            before, offset = offset, self._offset(place, offset)
            tries = 0 if offset > before else tries

    def _offset(self, place: str, last_known: int) -> int:
        """Where an upload stands; as far as is known, while nothing answers."""
        try:
            return int(self._client.send("HEAD", place, headers=TUS).headers["Upload-Offset"])
        except ClientError as error:
            if not is_transient(error):
                raise
            return last_known


def check_exists(path: Path) -> None:
    """Raises :class:`ClientError` for a path at which there is neither file nor folder."""
    if not (path.is_file() or path.is_dir()):
        raise ClientError(f"{path} does not exist")


@contextmanager
def _as_file(path: Path) -> Iterator[Path]:
    check_exists(path)
    if path.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            packed = Path(scratch) / "folder.zip"
            pack(path, packed)
            yield packed
    else:
        yield path


def _chunks(file: Path, offset: int, total: int, progress: TransferProgress | None) -> Iterator[bytes]:
    for chunk in chunks(file, offset, total - offset):
        yield chunk
        offset += len(chunk)
        if progress:
            progress(offset, total)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
