"""Queries for owner keys."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.keys.tables import StoredKey
from service.repository import TenantRepository


class KeyRepository(TenantRepository[StoredKey]):
    table, noun = StoredKey, "key"

    def of_model(self, model_id: str) -> StoredKey:
        return self.session.scalars(self._mine().where(StoredKey.model_id == model_id)).one()

    def commitments(self, model_ids: list[str]) -> dict[str, str]:
        """Commitments by model."""
        query = select(StoredKey.model_id, StoredKey.commitment).where(
            StoredKey.tenant_id == self.tenant_id, StoredKey.model_id.in_(model_ids)
        )
        return {row.model_id: row.commitment for row in self.session.execute(query)}


class EveryKeyRepository:
    """Keys of every tenant, for the rotation of the key-encryption key."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def sealed_by_others(self, key_id: str, limit: int) -> Sequence[StoredKey]:
        """Locked: an embedding that ends meanwhile waits, and then writes its key under the current one."""
        query = select(StoredKey).where(StoredKey.key_encryption_key_id != key_id).order_by(StoredKey.id).limit(limit)
        return self.session.scalars(query.with_for_update()).all()
