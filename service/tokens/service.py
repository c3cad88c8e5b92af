"""Issue and revoke bearer tokens."""

import secrets
from datetime import timedelta

from sqlalchemy.orm import Session

from service.auth.callers import digest
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.tables.tokens import Token
from service.tokens.repository import TokenRepository
from service.tokens.schemas import TokenIn

PREFIX = "aiao_"
"""How each secret begins, so that scanners of source code find it."""


def issue(session: Session, tenant_id: str, request: TokenIn) -> tuple[Token, str]:
    """Make a token. Return it with its secret, the only time that this is in the clear: only its digest is kept."""
    secret, now = PREFIX + secrets.token_urlsafe(32), utc_now()
    token = Token(
        id=new_id("tok"),
        tenant_id=tenant_id,
        name=request.name,
        sha256=digest(secret),
        scopes=sorted(request.scopes),
        created_at=now,
        expires_at=now + timedelta(days=request.expires_in_days) if request.expires_in_days else None,
    )
    return TokenRepository(session, tenant_id).add(token), secret


def revoke(session: Session, tenant_id: str, token_id: str) -> None:
    """Refuse the token from now on. Revoking twice changes nothing."""
    token = TokenRepository(session, tenant_id).get(token_id, lock=True)
    token.revoked_at = token.revoked_at or utc_now()
