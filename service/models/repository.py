"""Queries for models."""

from service.kit.repository import TenantRepository
from service.tables.models import Model


class ModelRepository(TenantRepository[Model]):
    table, noun = Model, "model"

    def alike(self, architecture: str, besides: str, most: int) -> list[Model]:
        """Return the newest marked models of an architecture, by its fingerprint, ``besides`` one."""
        query = self._mine().where(
            Model.architecture == architecture, Model.checkpoint_object.is_not(None), Model.id != besides
        )
        return list(self.session.scalars(query.order_by(Model.id.desc()).limit(most)))
