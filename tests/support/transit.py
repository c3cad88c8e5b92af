"""The two calls of a transit engine that the service makes, as HashiCorp Vault documents them; no real one starts here."""

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.http_server import Handler, serving

TOKEN = "hvs.test"


class _Engine(Handler):
    cipher = AESGCM(bytes(32))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = base64.b64decode(body["associated_data"])
        if self.headers["X-Vault-Token"] != TOKEN:
            self._answer(403, {"errors": ["permission denied"]})
        elif self.path == "/v1/transit/encrypt/owners":
            nonce = secrets.token_bytes(12)
            sealed = nonce + self.cipher.encrypt(nonce, base64.b64decode(body["plaintext"]), data)
            self._answer(200, {"data": {"ciphertext": "vault:v1:" + base64.b64encode(sealed).decode(), "key_version": 1}})
        elif self.path == "/v1/transit/decrypt/owners":
            try:
                sealed = base64.b64decode(body["ciphertext"].removeprefix("vault:v1:"), validate=True)
                plaintext = self.cipher.decrypt(sealed[:12], sealed[12:], data)
            except (InvalidTag, ValueError):
                self._answer(400, {"errors": ["cipher: message authentication failed"]})
            else:
                self._answer(200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}})
        else:
            self._answer(400, {"errors": ["encryption key not found"]})

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


@contextmanager
def transit() -> Iterator[str]:
    """The address of an engine that runs during the block."""
    with serving(_Engine) as port:
        yield f"http://127.0.0.1:{port}"
