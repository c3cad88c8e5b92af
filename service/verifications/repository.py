"""Queries for verifications."""

from sqlalchemy import func, or_, select

from service.kit.repository import TenantRepository
from service.tables.verifications import Verification


class VerificationRepository(TenantRepository[Verification]):
    table, noun = Verification, "verification"

    def tests_with_key(self, model_id: str) -> int:
        """Count the tests with the key of a model, including those from before tests had numbers."""
        tested = or_(Verification.with_key.is_not(None), Verification.report.is_not(None))
        return self._count(Verification.model_id == model_id, tested)

    def tests_of(self, suspect_weights: str) -> int:
        """Count the tests of these weights."""
        return self._count(Verification.suspect_weights == suspect_weights)

    def _count(self, *conditions: object) -> int:
        query = select(func.count()).select_from(Verification).where(Verification.tenant_id == self.tenant_id, *conditions)  # type: ignore[arg-type]
        return int(self.session.scalar(query) or 0)
