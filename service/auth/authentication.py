"""Authentication: from a bearer token's secret to its caller."""

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.auth.callers import Caller, digest
from service.kit.database import utc_now
from service.kit.errors import Unauthorized
from service.tables.tokens import Token

USE_SECONDS = 60
"""Precision of a token's last use, in seconds: a write for every call would be expensive."""


def authenticate(session: Session, secret: str) -> tuple[Caller, bool]:
    """Return the caller, and whether it is time to note that its token was used. Raise :class:`Unauthorized`."""
    token, now = session.scalar(select(Token).where(Token.sha256 == digest(secret))), utc_now()
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
    session.get_one(Token, caller.token_id).last_used_at = utc_now()
