"""Rows that hold a secret, and their move to another key-encryption key."""

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from service.vault.vault import SealedSecret, Vault


class SealedRow:
    """The columns of a secret, for a table to inherit."""

    ciphertext: Mapped[bytes]
    data_key: Mapped[bytes | None]
    key_encryption_key_id: Mapped[str] = mapped_column(index=True)

    @property
    def context(self) -> str:
        """The name that the secret is bound to, so that it cannot be moved to another row."""
        raise NotImplementedError

    def seal(self, vault: Vault, plaintext: str) -> None:
        """Set the secret, after the columns that :attr:`context` names."""
        self._keep(vault.encrypt(plaintext, self.context))

    def unseal(self, vault: Vault) -> str:
        """Raise :class:`service.vault.key_encryption.VaultError`."""
        return vault.decrypt(self._sealed(), self.context)

    def reseal(self, vault: Vault) -> None:
        """Move the secret to the vault's current key. Raise :class:`service.vault.key_encryption.VaultError`."""
        self._keep(vault.reseal(self._sealed(), self.context))

    def _sealed(self) -> SealedSecret:
        return SealedSecret(self.ciphertext, self.data_key, self.key_encryption_key_id)

    def _keep(self, sealed: SealedSecret) -> None:
        self.ciphertext, self.data_key = sealed.ciphertext, sealed.data_key
        self.key_encryption_key_id = sealed.key_encryption_key_id


def rotate(session: Session, vault: Vault, limit: int) -> int:
    """Seal up to ``limit`` secrets of each table, of any tenant, under the current key-encryption key.

    Returns how many were not before. They are locked: an embedding that ends meanwhile waits, and then seals its own again.
    """
    count = 0
    for table in SealedRow.__subclasses__():
        query = select(table).where(table.key_encryption_key_id != vault.key_id).order_by(table.id).limit(limit)  # type: ignore[attr-defined]
        for row in session.scalars(query.with_for_update()):
            row.reseal(vault)
            count += 1
    return count
