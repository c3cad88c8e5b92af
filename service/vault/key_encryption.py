"""Key-encryption keys: they seal the data keys of the vault, and never enter the database."""

import base64
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
KEY_BYTES = 32


class VaultError(Exception):
    """A key-encryption key is malformed, missing, or not the one that encrypted an owner's key."""


class KeyEncryptionKey(Protocol):
    """A key that seals a few bytes, bound to a ``context`` without which they do not open."""

    @property
    def id(self) -> str:
        """A name that is kept beside each sealed secret; it tells nothing about the key."""

    def seal(self, plaintext: bytes, context: str) -> bytes:
        """Raise :class:`service.kit.errors.NotReady` if a key service does not answer; so does :meth:`unseal`."""

    def unseal(self, sealed: bytes, context: str) -> bytes:
        """Raise :class:`VaultError` if anything was changed or the key is another one."""


class LocalKey:
    """A key that the processes of the service hold themselves: AES-256-GCM."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise VaultError("the key-encryption key must be 32 bytes in base64; make one with: openssl rand -base64 32")
        self._cipher = AESGCM(key)
        self.id = hashlib.sha256(b"aiao/v1/key-encryption-key\0" + key).hexdigest()[:16]

    @classmethod
    def of_text(cls, text: str) -> "LocalKey":
        """Take 32 bytes in base64. Raise :class:`VaultError`."""
        try:
            return cls(base64.b64decode(text.strip(), validate=True))
        except ValueError as error:
            raise VaultError("the key-encryption key is no base64; make one with: openssl rand -base64 32") from error

    @classmethod
    def of_file(cls, file: Path) -> "LocalKey":
        """Read a file that holds 32 bytes in base64. Raise :class:`VaultError`."""
        try:
            return cls.of_text(file.read_text(errors="replace"))
        except OSError as error:
            raise VaultError(f"the file {file} of a key-encryption key cannot be read: {error.strerror}") from error

    def seal(self, plaintext: bytes, context: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, context.encode())

    def unseal(self, sealed: bytes, context: str) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError) as error:
            raise VaultError(f"the key-encryption key {self.id} does not open what it is said to have sealed") from error


def made_at_first_start(file: Path) -> LocalKey:
    """Read the key in ``file``; make one, with mode 0600, if there is none."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists():
        # Linked into place whole: of processes that start together one makes the key, and none reads half of it.
        with NamedTemporaryFile("w", dir=file.parent, prefix=f"{file.name}-") as made, suppress(FileExistsError):
            made.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n")
            made.flush()
            os.fsync(made.fileno())
            os.link(made.name, file)
    return LocalKey.of_file(file)
