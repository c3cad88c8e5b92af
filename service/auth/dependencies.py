"""Dependencies of endpoints: the context, and the caller with its scopes."""

import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
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


AT_ONCE = CapacityLimiter(2)
"""Tokens that are looked up at a time: more threads, for many strangers, would take the interpreter from the event loop."""


GOOD_SECONDS = 1
"""How long a token that was looked up stays good for the same call: its body may take minutes, and the token be revoked."""


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
    known: Caller | None = getattr(request.state, "admitted", None)  # by CallerFirst, or for another dependency of this call
    if known and time.monotonic() < request.state.good_until:
        return known
    secret = _secret(credentials)
    caller = await to_thread.run_sync(_authenticated, context, recent, secret, limiter=AT_ONCE)
    request.state.good_until = time.monotonic() + GOOD_SECONDS
    if known is None:
        request.state.admitted = await _admitted(request, context, caller)
    return caller


async def get_reader(request: Request, context: ContextDep, recent: RecentCallersDep, credentials: Credentials) -> Caller:
    """Return a caller that only reads: for that it is good enough that the token was good a moment ago."""
    secret = _secret(credentials)
    caller = recent.find(secret)
    if caller is None:
        caller = await to_thread.run_sync(_authenticated, context, recent, secret, limiter=AT_ONCE)
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


class CallerFirst(APIRoute):
    """A call that knows its caller before it reads a body: FastAPI reads and parses it before any dependency."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_known(request: Request) -> Response:
            state = request.app.state
            await get_caller(request, state.context, state.recent_callers, await bearer(request))
            return await handle(request)

        return handle_known


AnyCaller = Annotated[Caller, Depends(get_caller)]


async def get_entitled(scopes: SecurityScopes, caller: AnyCaller) -> Caller:
    caller.require(*scopes.scopes)  # type: ignore[arg-type]  # those of the annotations below
    return caller


Reader = Annotated[Caller, Security(get_reader, scopes=["read"])]
ModelWriter = Annotated[Caller, Security(get_entitled, scopes=["models:write"])]
VerificationWriter = Annotated[Caller, Security(get_entitled, scopes=["verifications:write"])]
Writer = Annotated[Caller, Security(get_entitled, scopes=["models:write", "verifications:write"])]
Admin = Annotated[Caller, Security(get_entitled, scopes=["admin"])]
