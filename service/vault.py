"""Owner keys at rest: AES-256-GCM under a key-encryption key that never enters the database."""

import base64
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

NONCE_BYTES = 12


class VaultError(Exception):
    """The key-encryption key is malformed, or not the one that encrypted an owner's key."""


class Vault:
    """Encrypts and decrypts; bound to tenant and model, so that a ciphertext cannot be moved to another row."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise VaultError("the key-encryption key must be 32 bytes in base64; make one with: openssl rand -base64 32")
        self._cipher = AESGCM(key)
        self.key_id = hashlib.sha256(b"aiao/v1/key-encryption-key\0" + key).hexdigest()[:16]

    @classmethod
    def open(cls, setting: SecretStr | None, file: Path) -> "Vault":
        """The vault under the key of the setting, or of ``file``, which is made with mode 0600 at the first start."""
        text = setting.get_secret_value() if setting else _read_or_create(file)
        try:
            return cls(base64.b64decode(text, validate=True))
        except ValueError as error:
            raise VaultError("the key-encryption key is no base64; make one with: openssl rand -base64 32") from error

    def encrypt(self, plaintext: str, *, tenant_id: str, model_id: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext.encode(), _context(tenant_id, model_id))

    def decrypt(self, ciphertext: bytes, *, tenant_id: str, model_id: str) -> str:
        """The plaintext. Raises :class:`VaultError` if anything was changed or the key is another one."""
        nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, sealed, _context(tenant_id, model_id)).decode()
        except (InvalidTag, ValueError) as error:
            raise VaultError(
                "an owner key cannot be decrypted: AIAO_KEY_ENCRYPTION_KEY is not the one it was stored under"
            ) from error


def _context(tenant_id: str, model_id: str) -> bytes:
    return f"aiao/v1/owner-key/{tenant_id}/{model_id}".encode()


def _read_or_create(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists():
        # Linked into place whole: of processes that start together one makes the key, and none reads half of it.
        with NamedTemporaryFile("w", dir=file.parent, prefix=f"{file.name}-") as made, suppress(FileExistsError):
            made.write(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
            made.flush()
            os.fsync(made.fileno())
            os.link(made.name, file)
    return file.read_text(errors="replace").strip()
