"""Queries for tenants and tokens."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.kit.repository import TenantRepository
from service.tables.tokens import Tenant, Token


class TokenRepository(TenantRepository[Token]):
    """One tenant's tokens."""

    table, noun = Token, "token"


class TenantsRepository:
    """Every tenant, and the token of a caller who is not known yet."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, tenant_id: str, *, lock: bool = False) -> Tenant:
        """The tenant of a caller; under ``lock`` nobody else locks it before the transaction ends."""
        query = select(Tenant).where(Tenant.id == tenant_id)
        if lock:  # rows that refer to the tenant may still come in
            query = query.with_for_update(key_share=True)
        return self.session.scalars(query).one()

    def named(self, name: str) -> Tenant | None:
        return self.session.scalar(select(Tenant).where(Tenant.name == name))

    def all(self) -> Sequence[Tenant]:
        return self.session.scalars(select(Tenant).order_by(Tenant.name)).all()

    def token_with(self, sha256: str) -> Token | None:
        return self.session.scalar(select(Token).where(Token.sha256 == sha256))

    def add(self, tenant: Tenant) -> Tenant:
        self.session.add(tenant)
        self.session.flush()
        return tenant
