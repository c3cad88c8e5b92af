"""Queries for audits."""

from service.audits.tables import Audit
from service.repository import TenantRepository


class AuditRepository(TenantRepository[Audit]):
    table, noun = Audit, "audit"

    def page_of(self, model_id: str, limit: int, cursor: str | None) -> tuple[list[Audit], str | None]:
        """A page of one model's audits."""
        return self.page(limit, cursor, Audit.model_id == model_id)
