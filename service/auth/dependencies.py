"""Dependencies of endpoints: the context, and the caller with its scopes."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from service.auth.authentication import authenticate, note_use
from service.auth.callers import Caller, RecentCallers
from service.context import Context
from service.kit.errors import Unauthorized

bearer = HTTPBearer(
    auto_error=False,
    description="A token of your tenant. The scopes that a call names are alternatives; `read` is in every token, and `admin` "
    "includes all.",
)


async def get_context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def get_recent_callers(request: Request) -> RecentCallers:
    recent: RecentCallers = request.app.state.recent_callers
    return recent


# These are async because they wait for nothing: a dependency that is not costs every request a turn of a thread.
ContextDep = Annotated[Context, Depends(get_context)]
RecentCallersDep = Annotated[RecentCallers, Depends(get_recent_callers)]

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


async def get_caller(request: Request, context: ContextDep, recent: RecentCallersDep, credentials: Credentials) -> Caller:
    # FastAPI asks once for each set of scopes that depends on the caller: a call is authenticated and counted once.
    if not hasattr(request.state, "authenticated"):
        caller = await run_in_threadpool(_authenticated, context, recent, _secret(credentials))
        request.state.authenticated = await _admitted(request, context, caller)
    authenticated: Caller = request.state.authenticated
    return authenticated


async def get_reader(request: Request, context: ContextDep, recent: RecentCallersDep, credentials: Credentials) -> Caller:
    """Return a caller that only reads: for that it is good enough that the token was good a moment ago."""
    secret = _secret(credentials)
    caller = recent.find(secret)
    if caller is None:
        caller = await run_in_threadpool(_authenticated, context, recent, secret)
    return await _admitted(request, context, caller)


def _secret(credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is None:
        raise Unauthorized("send the header Authorization: Bearer <token>")
    return credentials.credentials


def _authenticated(context: Context, recent: RecentCallers, secret: str) -> Caller:
    with context.database.read_session() as session:
        caller, used = authenticate(session, secret)
    if used:
        with context.database.session() as session:
            note_use(session, caller)
    recent.note(secret, caller)
    return caller


async def _admitted(request: Request, context: Context, caller: Caller) -> Caller:
    request.state.caller = caller  # for the log
    if context.rate_limiter:
        await run_in_threadpool(context.rate_limiter.check, caller.tenant_id)
    return caller


AnyCaller = Annotated[Caller, Depends(get_caller)]


async def get_entitled(scopes: SecurityScopes, caller: AnyCaller) -> Caller:
    caller.require(*scopes.scopes)  # type: ignore[arg-type]  # those of the annotations below
    return caller


Reader = Annotated[Caller, Security(get_reader, scopes=["read"])]
ModelWriter = Annotated[Caller, Security(get_entitled, scopes=["models:write"])]
VerificationWriter = Annotated[Caller, Security(get_entitled, scopes=["verifications:write"])]
Writer = Annotated[Caller, Security(get_entitled, scopes=["models:write", "verifications:write"])]
Admin = Annotated[Caller, Security(get_entitled, scopes=["admin"])]
