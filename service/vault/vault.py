"""Secrets at rest: AES-256-GCM under a data key of their own, which a key-encryption key seals.

So another key-encryption key only has to seal the data keys anew, and a key management service never sees an owner's key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from secrets import token_bytes

from service.settings import Settings
from service.vault.key_encryption import KEY_BYTES, KeyEncryptionKey, LocalKey, VaultError, made_at_first_start, open_key

KEY_FILE = "key-encryption-key"


@dataclass(frozen=True)
class SealedSecret:
    """What the database keeps of a secret."""

    ciphertext: bytes
    data_key: bytes | None
    """Sealed; None in what the first release wrote: there the key-encryption key sealed the secret itself."""
    key_encryption_key_id: str


class Vault:
    """Encrypts and decrypts."""

    def __init__(self, current: KeyEncryptionKey, former: Iterable[KeyEncryptionKey] = ()) -> None:
        self._current = current
        self._keys = {key.id: key for key in (*former, current)}

    @classmethod
    def open(cls, settings: Settings) -> "Vault":
        """The vault under the key that the settings name or, without one, under that of a file in the data folder."""
        named = settings.key_encryption_key
        current = open_key(named.get_secret_value()) if named else made_at_first_start(settings.data_dir / KEY_FILE)
        return cls(current, map(open_key, settings.former_key_encryption_keys.get_secret_value().split()))

    @property
    def key_id(self) -> str:
        """Of the key-encryption key that seals from now on."""
        return self._current.id

    def encrypt(self, plaintext: str, context: str) -> SealedSecret:
        """``context`` names the row and its purpose: a ciphertext moved to another one does not open."""
        data_key = token_bytes(KEY_BYTES)
        ciphertext = LocalKey(data_key).seal(plaintext.encode(), context)
        return SealedSecret(ciphertext, self._current.seal(data_key, context), self._current.id)

    def decrypt(self, sealed: SealedSecret, context: str) -> str:
        """The plaintext. Raises :class:`VaultError` if anything was changed or the key-encryption key is not there."""
        key = self._key_of(sealed)
        if sealed.data_key is not None:
            key = LocalKey(key.unseal(sealed.data_key, context))
        return key.unseal(sealed.ciphertext, context).decode()

    def reseal(self, sealed: SealedSecret, context: str) -> SealedSecret:
        """The same secret under the current key-encryption key."""
        if sealed.data_key is None:
            return self.encrypt(self.decrypt(sealed, context), context)
        data_key = self._key_of(sealed).unseal(sealed.data_key, context)
        return SealedSecret(sealed.ciphertext, self._current.seal(data_key, context), self._current.id)

    def _key_of(self, sealed: SealedSecret) -> KeyEncryptionKey:
        try:
            return self._keys[sealed.key_encryption_key_id]
        except KeyError as error:
            raise VaultError(
                f"a secret was sealed under the key-encryption key {sealed.key_encryption_key_id}, which neither "
                "AIAO_KEY_ENCRYPTION_KEY nor AIAO_FORMER_KEY_ENCRYPTION_KEYS names"
            ) from error
