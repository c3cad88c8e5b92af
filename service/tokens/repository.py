"""Queries for tenants and tokens."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.tokens.tables import Tenant, Token


class TokenRepository:
    def __init__(self, session: Session) -> None:
        self.session = session

    def tenant_named(self, name: str) -> Tenant | None:
        return self.session.scalar(select(Tenant).where(Tenant.name == name))

    def tenant_id_of(self, sha256: str) -> str | None:
        return self.session.scalar(select(Token.tenant_id).where(Token.sha256 == sha256))

    def add(self, row: Tenant | Token) -> None:
        self.session.add(row)
        self.session.flush()
