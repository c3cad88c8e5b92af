"""Queries for verifications."""

from service.repository import TenantRepository
from service.verifications.tables import Verification


class VerificationRepository(TenantRepository[Verification]):
    table, noun = Verification, "verification"
