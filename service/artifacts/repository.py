"""Queries for artifacts."""

from service.artifacts.tables import Artifact
from service.repository import TenantRepository


class ArtifactRepository(TenantRepository[Artifact]):
    table, noun = Artifact, "artifact"
