"""Issue, recognise and revoke bearer tokens."""

import hashlib
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from service.kit.database import utc_now
from service.kit.errors import Forbidden, Unauthorized
from service.kit.ids import new_id
from service.tables.tokens import Tenant, Token
from service.tokens.repository import TenantsRepository, TokenRepository
from service.tokens.schemas import Scope, TokenIn

PREFIX = "aiao_"

USE_SECONDS = 60
"""How exactly the last use of a token is known: a write for every call would be dear."""


@dataclass(frozen=True)
class Caller:
    """Who makes a call: a token of a tenant."""

    tenant_id: str
    token_id: str
    scopes: frozenset[str]

    def has(self, scope: Scope) -> bool:
        """Whether the token has a scope; an admin's has all."""
        return "admin" in self.scopes or scope in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Raises :class:`Forbidden` if the token has none of ``scopes``."""
        if "admin" not in self.scopes and "read" not in scopes and not self.scopes.intersection(scopes):
            raise Forbidden(f"this token lacks the scope {' or '.join(scopes)}; use one that has it")


class RecentCallers:
    """Whose token was good less than a second ago: who polls asks the database once a second and not at every call."""

    SECONDS = 1
    MOST = 10_000
    """So many are remembered; strangers cannot fill it, for only good tokens come in."""

    def __init__(self) -> None:
        self._callers: dict[str, tuple[Caller, float]] = {}

    def find(self, secret: str) -> Caller | None:
        caller, until = self._callers.get(_digest(secret), (None, 0.0))
        return caller if time.monotonic() < until else None

    def note(self, secret: str, caller: Caller) -> None:
        if len(self._callers) >= self.MOST:
            self._callers.clear()
        self._callers[_digest(secret)] = caller, time.monotonic() + self.SECONDS


def tenant_named(session: Session, name: str) -> Tenant:
    """The tenant of that name, which is made if there is none."""
    tenants = TenantsRepository(session)
    return tenants.named(name) or tenants.add(Tenant(id=new_id("ten"), name=name, created_at=utc_now()))


def issue(session: Session, tenant_id: str, request: TokenIn) -> tuple[Token, str]:
    """A new token, and its secret, the only time that it is in the clear: only its digest is kept."""
    secret, now = PREFIX + secrets.token_urlsafe(32), utc_now()
    token = Token(
        id=new_id("tok"),
        tenant_id=tenant_id,
        name=request.name,
        sha256=_digest(secret),
        scopes=sorted(request.scopes),
        created_at=now,
        expires_at=now + timedelta(days=request.expires_in_days) if request.expires_in_days else None,
    )
    return TokenRepository(session, tenant_id).add(token), secret


def revoke(session: Session, tenant_id: str, token_id: str) -> None:
    """From now on the token is refused. Revoking twice changes nothing."""
    token = TokenRepository(session, tenant_id).get(token_id, lock=True)
    token.revoked_at = token.revoked_at or utc_now()


def authenticate(session: Session, secret: str) -> tuple[Caller, bool]:
    """Who calls, and whether it is time to note that. Raises :class:`Unauthorized`."""
    token, now = TenantsRepository(session).token_with(_digest(secret)), utc_now()
    if token is None:
        raise Unauthorized("this token is unknown; use one that the operator issued, or the one that aiao up wrote")
    if token.revoked_at:
        raise Unauthorized(f"the token {token.id} was revoked; ask an admin of your tenant for another one")
    if token.expires_at and token.expires_at <= now:
        raise Unauthorized(f"the token {token.id} has expired; ask an admin of your tenant for another one")
    long_ago = token.last_used_at is None or token.last_used_at < now - timedelta(seconds=USE_SECONDS)
    return Caller(token.tenant_id, token.id, frozenset(token.scopes)), long_ago


def note_use(session: Session, caller: Caller) -> None:
    """Note that the caller's token was used just now."""
    TokenRepository(session, caller.tenant_id).get(caller.token_id).last_used_at = utc_now()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
