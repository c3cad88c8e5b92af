"""Queries for owner keys."""

from sqlalchemy import select

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
