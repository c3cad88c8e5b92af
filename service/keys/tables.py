"""Owner keys, encrypted."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base
from service.vault import Sealed


class StoredKey(Base):
    """An owner's key: the secret alone while the embedding runs, the whole key file once it is done."""

    __tablename__ = "owner_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), unique=True)
    commitment: Mapped[str]
    public_key: Mapped[dict[str, Any] | None]
    ciphertext: Mapped[bytes]
    data_key: Mapped[bytes | None]
    key_encryption_key_id: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[datetime]

    @property
    def sealed(self) -> Sealed:
        return Sealed(self.ciphertext, self.data_key, self.key_encryption_key_id)

    @sealed.setter
    def sealed(self, sealed: Sealed) -> None:
        self.ciphertext, self.data_key = sealed.ciphertext, sealed.data_key
        self.key_encryption_key_id = sealed.key_encryption_key_id
