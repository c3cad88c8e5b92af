"""Make and recognise bearer tokens.

python -m service.tokens.service TENANT   # prints a new token of the tenant, which is made if there is none
"""

import hashlib
import secrets
import sys

from sqlalchemy.orm import Session

from service.database import Database, utc_now
from service.errors import Unauthorized
from service.ids import new_id
from service.settings import Settings
from service.tokens.repository import TokenRepository
from service.tokens.tables import Tenant, Token

PREFIX = "aiao_"


def issue_token(session: Session, tenant_name: str) -> str:
    """A new token for the tenant of that name, which is made if there is none. Shown once: only its digest is kept."""
    repository = TokenRepository(session)
    tenant = repository.tenant_named(tenant_name)
    if tenant is None:
        tenant = Tenant(id=new_id("ten"), name=tenant_name, created_at=utc_now())
        repository.add(tenant)
    token = PREFIX + secrets.token_urlsafe(32)
    repository.add(Token(id=new_id("tok"), tenant_id=tenant.id, sha256=_digest(token), created_at=utc_now()))
    return token


def authenticate(session: Session, token: str) -> str:
    """The tenant's identifier. Raises :class:`Unauthorized`."""
    tenant_id = TokenRepository(session).tenant_id_of(_digest(token))
    if tenant_id is None:
        raise Unauthorized("this token is unknown; use one that the operator issued, or the one that aiao up wrote")
    return tenant_id


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


if __name__ == "__main__":
    with Database(Settings().database_url).session() as _session:
        print(issue_token(_session, sys.argv[1]))  # noqa: T201
