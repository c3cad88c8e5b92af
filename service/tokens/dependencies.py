"""What endpoints depend on: the platform, and the tenant who calls."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Unauthorized
from service.platform import Platform
from service.tokens.service import authenticate

bearer = HTTPBearer(auto_error=False, description="The token that `aiao up` wrote, or one the operator issued.")


def get_platform(request: Request) -> Platform:
    platform: Platform = request.app.state.platform
    return platform


PlatformDep = Annotated[Platform, Depends(get_platform)]


def get_tenant(platform: PlatformDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    if credentials is None:
        raise Unauthorized("send the header Authorization: Bearer <token>")
    with platform.database.session() as session:
        return authenticate(session, credentials.credentials)


TenantDep = Annotated[str, Depends(get_tenant)]
