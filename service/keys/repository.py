"""Queries for owner keys."""

from typing import NamedTuple

from sqlalchemy import delete, select

from service.kit.repository import TenantRepository
from service.tables.keys import LentSecret, StoredKey


class ToldKey(NamedTuple):
    """What a list of models tells of a key."""

    commitment: str
    version: int | None
    """None until the embedding is done."""


class KeyRepository(TenantRepository[StoredKey]):
    table, noun = StoredKey, "key"

    def of_model(self, model_id: str) -> StoredKey:
        key: StoredKey = self.session.scalars(self._mine().where(StoredKey.model_id == model_id)).one()
        return key

    def told(self, model_ids: list[str]) -> dict[str, ToldKey]:
        """Return what a list of models tells of their keys, by model."""
        version = StoredKey.public_key["version"].as_integer()  # the rest of a public key is long
        query = select(StoredKey.model_id, StoredKey.commitment, version).where(
            StoredKey.tenant_id == self.tenant_id, StoredKey.model_id.in_(model_ids)
        )
        return {model_id: ToldKey(commitment, number) for model_id, commitment, number in self.session.execute(query)}


class LentSecretRepository(TenantRepository[LentSecret]):
    table, noun = LentSecret, "lent secret"

    def drop(self, job_id: str) -> None:
        """Forget the secret that was lent to a job, if there is one."""
        self.session.execute(delete(LentSecret).where(LentSecret.id == job_id, LentSecret.tenant_id == self.tenant_id))
