"""Queries for audits."""

from service.audits.tables import Audit
from service.repository import TenantRepository


class AuditRepository(TenantRepository[Audit]):
    table, noun = Audit, "audit"
