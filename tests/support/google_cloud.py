"""What the service needs of Google's cloud: the token of a machine's account, and the XML API of its storage.

obstore speaks that API, which gcp-storage-emulator does not know, and fake-gcs-server refuses its PUTs. In the calls
that we make it differs from S3's by the token alone, so an S3 store answers them here, behind a gate that asks for the token.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.http_server import Handler, serving

KEPT = ("content-length", "content-type", "etag", "last-modified", "content-range")
"""What of an answer of the store obstore reads."""


@contextmanager
def cloud(store: str) -> Iterator[dict[str, str]]:
    """The environment of a process on a machine of this cloud, whose buckets are those of the open S3 server at ``store``."""
    token = os.urandom(16).hex()

    class Gate(Handler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.startswith("/computeMetadata/v1/instance/service-accounts/default/token"):
                allowed = self.headers.get("Metadata-Flavor") == "Google"
                granted = json.dumps({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})
                self.send(200 if allowed else 403, {}, granted.encode() if allowed else b"")
            elif self.headers.get("Authorization") != f"Bearer {token}":
                self.send(401, {}, b"")
            else:
                passed = {name: value for name, value in self.headers.items() if name.lower() in ("range", "content-type")}
                answer = httpx.request(self.command, store + self.path, content=body, headers=passed)
                kept = {name: value for name, value in answer.headers.items() if name in KEPT}
                self.send(answer.status_code, kept, answer.content)

        def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    with serving(Gate) as port:
        address = f"127.0.0.1:{port}"
        yield {"GCE_METADATA_HOST": address, "GOOGLE_BASE_URL": f"http://{address}", "GOOGLE_ALLOW_HTTP": "true"}
