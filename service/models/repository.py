"""Queries for models."""

from service.models.tables import Model
from service.repository import TenantRepository


class ModelRepository(TenantRepository[Model]):
    table, noun = Model, "model"
