"""Queries for audits."""

from service.kit.repository import TenantRepository
from service.tables.audits import Audit


class AuditRepository(TenantRepository[Audit]):
    table, noun = Audit, "audit"
