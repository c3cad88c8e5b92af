"""Queries for owner keys."""

from sqlalchemy import delete, select

from service.kit.repository import TenantRepository
from service.tables.keys import LentSecret, StoredKey


class KeyRepository(TenantRepository[StoredKey]):
    table, noun = StoredKey, "key"

    def of_model(self, model_id: str) -> StoredKey:
        key: StoredKey = self.session.scalars(self._mine().where(StoredKey.model_id == model_id)).one()
        return key

    def commitments(self, model_ids: list[str]) -> dict[str, str]:
        """Return commitments by model."""
        query = select(StoredKey.model_id, StoredKey.commitment).where(
            StoredKey.tenant_id == self.tenant_id, StoredKey.model_id.in_(model_ids)
        )
        return {row.model_id: row.commitment for row in self.session.execute(query)}


class LentSecretRepository(TenantRepository[LentSecret]):
    table, noun = LentSecret, "lent secret"

    def drop(self, job_id: str) -> None:
        """Forget the secret that was lent to a job, if there is one."""
        self.session.execute(delete(LentSecret).where(LentSecret.id == job_id, LentSecret.tenant_id == self.tenant_id))
