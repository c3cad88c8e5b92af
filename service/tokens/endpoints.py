"""HTTP calls for tokens, for the admins of a tenant."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from service.activity.service import record
from service.auth.dependencies import Admin, CallerFirst, ContextDep
from service.idempotency import IdempotentJson
from service.kit.errors import responses
from service.kit.schemas import Page, PageQuery, TokenId
from service.tokens import service
from service.tokens.repository import TokenRepository
from service.tokens.schemas import TokenIn, TokenIssued, TokenOut

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], route_class=CallerFirst)


@router.post(
    "", status_code=201, summary="Issue a token", response_model=TokenIssued, responses=responses(400, 401, 403, 409, 413, 422)
)
def issue(request: TokenIn, context: ContextDep, caller: Admin, idempotency: IdempotentJson) -> Response:
    """A token of your tenant. The answer shows its **secret, this once**."""
    with context.database.session() as session:
        if replay := idempotency.replay(session):
            return replay
        token, secret = service.issue(session, caller.tenant_id, request)
        record(session, caller.tenant_id, caller.token_id, "token.issue", token.id)
        body = TokenIssued(token=TokenOut.model_validate(token), secret=secret).model_dump(mode="json")
        idempotency.remember(session, 201, body | {"secret": None}, {})
    return JSONResponse(body, 201)


@router.get("", summary="List tokens", responses=responses(401, 403, 422))
def list_tokens(context: ContextDep, caller: Admin, paging: PageQuery) -> Page[TokenOut]:
    """Newest first, with their last use; revoked and expired ones included."""
    with context.database.read_session() as session:
        rows, next_cursor = TokenRepository(session, caller.tenant_id).page(paging)
        return Page(items=[TokenOut.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.delete("/{token_id}", status_code=204, summary="Revoke a token", responses=responses(401, 403, 404, 422))
def revoke(token_id: TokenId, context: ContextDep, caller: Admin) -> None:
    """From now on it changes nothing, and after a second it reads nothing."""
    with context.database.session() as session:
        service.revoke(session, caller.tenant_id, token_id)
        record(session, caller.tenant_id, caller.token_id, "token.revoke", token_id)
