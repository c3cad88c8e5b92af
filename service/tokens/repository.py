"""Queries for tokens."""

from service.kit.repository import TenantRepository
from service.tables.tokens import Token


class TokenRepository(TenantRepository[Token]):
    """One tenant's tokens."""

    table, noun = Token, "token"
