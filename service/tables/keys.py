"""Owner keys, encrypted."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base
from service.vault.sealed_rows import SealedRow


class StoredKey(SealedRow, Base):
    """An owner's key: the secret alone while the embedding runs, the whole key file once it is done.

    Of a key that its owner holds there is the public part alone.
    """

    __tablename__ = "owner_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), unique=True)
    ciphertext: Mapped[bytes | None] = mapped_column()  # type: ignore[assignment]
    key_encryption_key_id: Mapped[str | None] = mapped_column(index=True)  # type: ignore[assignment]
    commitment: Mapped[str]
    public_key: Mapped[dict[str, Any] | None]
    panel: Mapped[list[dict[str, Any]] | None]
    """The key's tests on other models, at the end of the embedding; null for keys from before there was a panel."""
    opened_at: Mapped[datetime | None]
    """When the key was shown to others, as in a dispute: they can make models with it, so it proves nothing new."""
    created_at: Mapped[datetime]

    @property
    def context(self) -> str:
        return f"aiao/v1/owner-key/{self.tenant_id}/{self.model_id}"


class LentSecret(SealedRow, Base):
    """The secret of a key that its owner holds, for one job; the job's end deletes it."""

    __tablename__ = "lent_secrets"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    """The job."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))

    @property
    def context(self) -> str:
        return f"aiao/v1/lent-secret/{self.tenant_id}/{self.id}"
