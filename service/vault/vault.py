"""Secrets at rest: AES-256-GCM under a data key of their own, which a key-encryption key seals.

So another key-encryption key only has to seal the data keys again, and a key management service never sees an owner's key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

from pydantic import SecretStr

from service.kit.credentials import Credentials
from service.vault.key_encryption import KEY_BYTES, KeyEncryptionKey, LocalKey, VaultError, made_at_first_start
from service.vault.key_services import AwsKms, VaultTransit

KEY_FILE = "key-encryption-key"
"""Name of the file in the data folder that holds the key, unless a setting names another one."""


@dataclass(frozen=True)
class SealedSecret:
    """What the database keeps of a secret."""

    ciphertext: bytes
    data_key: bytes | None
    """Sealed; None in what the first release wrote: there the key-encryption key sealed the secret itself."""
    key_encryption_key_id: str


class Vault:
    """Encryption and decryption of secrets."""

    def __init__(self, current: KeyEncryptionKey, former: Iterable[KeyEncryptionKey] = ()) -> None:
        self._current = current
        self._keys = {key.id: key for key in (*former, current)}

    @classmethod
    def open(cls, named: SecretStr | None, former: SecretStr, folder: Path, credentials: Credentials) -> "Vault":
        """Open the vault under the ``named`` key or, without one, under that of a file in ``folder``.

        ``former`` names other keys, with blanks between, under which secrets still lie. ``credentials`` are those for a key
        service.
        """
        current = open_key(named.get_secret_value(), credentials) if named else made_at_first_start(folder / KEY_FILE)
        return cls(current, [open_key(text, credentials) for text in former.get_secret_value().split()])

    @property
    def key_id(self) -> str:
        """The identifier of the key-encryption key that seals from now on."""
        return self._current.id

    def encrypt(self, plaintext: str, context: str) -> SealedSecret:
        """Seal a secret. ``context`` names the row and its purpose: a ciphertext moved to another one does not open."""
        data_key = token_bytes(KEY_BYTES)
        ciphertext = LocalKey(data_key).seal(plaintext.encode(), context)
        return SealedSecret(ciphertext, self._current.seal(data_key, context), self._current.id)

    def decrypt(self, sealed: SealedSecret, context: str) -> str:
        """Return the plaintext. Raise :class:`VaultError` if anything was changed or the key-encryption key is not there."""
        key = self._key_of(sealed)
        if sealed.data_key is not None:
            key = LocalKey(key.unseal(sealed.data_key, context))
        return key.unseal(sealed.ciphertext, context).decode()

    def reseal(self, sealed: SealedSecret, context: str) -> SealedSecret:
        """Seal the same secret under the current key-encryption key."""
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


def open_key(text: str, credentials: Credentials) -> KeyEncryptionKey:
    """Open the key that a setting names. Raise :class:`VaultError` if there is none.

    The setting is 32 bytes in base64, ``file:PATH`` with such a text in it, ``aws-kms:KEY`` or ``vault-transit:KEY``.
    """
    scheme, _, name = text.partition(":")
    match scheme:
        case "file":
            return LocalKey.of_file(Path(name))
        case "aws-kms":
            return AwsKms(name, credentials)
        case "vault-transit":
            return VaultTransit(name, credentials)
        case _:
            return LocalKey.of_text(text)
