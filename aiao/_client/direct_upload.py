"""Send a large file straight to the bucket of the service, some parts at a time, each as often as it needs."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
from pydantic import BaseModel

from aiao._client.documents import Artifact, read
from aiao._client.errors import ApiError, ClientError
from aiao._client.stopping import check_stopped
from aiao._client.transport import LAST_ANSWER_SECONDS, Retries, TransferProgress, Transport, chunks, is_transient

AT_ONCE = 4
"""Parts that are sent at a time; S3 gives each connection only a share of its speed."""

PAGE = 100
"""Parts whose URLs are asked for at once: few enough to be sent while the URLs are good."""

CONNECT_SECONDS = 10
"""Seconds to wait for a connection to the bucket."""

UNREACHABLE_TRIES = 3
"""Tries without any part in the bucket after which it counts as unreachable from here."""


class Unavailable(ClientError):
    """The file must go through the service."""


class _Begun(BaseModel):
    id: str
    parts: int
    part_bytes: int


class _Part(BaseModel):
    number: int
    size: int
    url: str
    etag: str | None


class _Parts(BaseModel):
    items: list[_Part]
    next_after: int | None


def send(transport: Transport, file: Path, name: str, sha256: str, progress: TransferProgress | None) -> Artifact:
    """Send ``file`` to the bucket. Raises :class:`Unavailable` if the service or its bucket takes no such upload from here."""
    body = {"filename": name, "size": file.stat().st_size, "sha256": sha256}
    try:
        begun = read(_Begun, transport.post("/v1/direct-uploads", json=body).content)
    except ApiError as error:
        older = error.status in (404, 405)
        if error.type == "no-direct-uploads" or older or is_transient(error):
            raise Unavailable(str(error)) from error
        raise
    timeout = httpx.Timeout(transport.http.timeout.read, connect=CONNECT_SECONDS)
    with httpx.Client(timeout=timeout) as bucket:  # the token is not for the bucket
        return _Sending(transport, bucket, file, begun, progress).send()


class _Sending:
    """One file on its way."""

    def __init__(
        self, transport: Transport, bucket: httpx.Client, file: Path, begun: _Begun, progress: TransferProgress | None
    ) -> None:
        self._transport, self._bucket, self._file, self._begun, self._progress = transport, bucket, file, begun, progress
        self._size = file.stat().st_size
        self._etags: dict[int, str] = {}
        self._path = f"/v1/direct-uploads/{begun.id}"

    def send(self) -> Artifact:
        """Send every part and complete the upload, however often the connection breaks."""
        tries, retries = 0, Retries()
        while True:
            before = len(self._etags)
            try:
                self._send_missing()
                return self._complete()
            except ClientError as error:
                tries += 1
                if not self._etags and tries >= UNREACHABLE_TRIES:
                    with suppress(ClientError):
                        self._transport.delete(self._path)
                    raise Unavailable(str(error)) from error
                if len(self._etags) > before:
                    retries.progressed()
                retries.wait(error)

    def _send_missing(self) -> None:
        """Send each part that is not in the bucket yet. Raises the error of the first one that did not get there.

        The others then wait too: a bucket that is full, or does not answer, is not sent the rest of the file in vain.
        """
        after: int | None = 0 if len(self._etags) < self._begun.parts else None
        while after is not None:
            limit = PAGE if self._etags else AT_ONCE  # the first ones show whether there is a way to the bucket
            page = read(_Parts, self._transport.get(f"{self._path}/parts", after=after, limit=limit).content)
            missing = [part for part in page.items if part.number not in self._etags]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for part, etag in zip(missing, pool.map(self._etag, missing), strict=True):
                    check_stopped()
                    self._etags[part.number] = etag
                    self._tell()
            after = page.next_after

    def _etag(self, part: _Part) -> str:
        """Send a part if the bucket lacks it, and return its ETag. Errors do not show the URL, which is as good as a token."""
        if part.etag:
            return part.etag
        content = chunks(self._file, (part.number - 1) * self._begun.part_bytes, part.size)
        try:
            answer = self._bucket.put(part.url, content=content, headers={"Content-Length": str(part.size)})
        except httpx.HTTPError as error:
            broke = f"the connection to the bucket of the service broke ({type(error).__name__}); try again"
            raise ClientError(broke) from error
        if answer.is_success and "ETag" in answer.headers:
            return answer.headers["ETag"]
        raise ApiError(503, "bucket", f"the bucket of the service refused a part (status {answer.status_code}); try again")

    def _tell(self) -> None:
        if self._progress:
            part_bytes = self._begun.part_bytes
            done = sum(min(part_bytes, self._size - (number - 1) * part_bytes) for number in self._etags)
            self._progress(done, self._size)

    def _complete(self) -> Artifact:
        body = {"parts": [{"number": number, "etag": etag} for number, etag in sorted(self._etags.items())]}
        timeout = httpx.Timeout(self._transport.http.timeout.connect, read=LAST_ANSWER_SECONDS)
        return read(Artifact, self._transport.send("POST", f"{self._path}/complete", json=body, timeout=timeout).content)
