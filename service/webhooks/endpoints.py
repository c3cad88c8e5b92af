"""HTTP calls for webhooks, for the admins of a tenant."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from service.activity.service import record
from service.auth.dependencies import Admin, CallerFirst, ContextDep
from service.idempotency import IdempotentJson
from service.kit.errors import responses
from service.kit.schemas import DeliveryId, Page, PageQuery, WebhookId
from service.webhooks import service
from service.webhooks.repository import DeliveryRepository, WebhookRepository
from service.webhooks.schemas import DeliveryOut, WebhookCreated, WebhookIn, WebhookOut

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=CallerFirst)


@router.post(
    "",
    status_code=201,
    summary="Add a webhook",
    response_model=WebhookCreated,
    responses=responses(400, 401, 403, 409, 413, 422),
)
def create(request: WebhookIn, context: ContextDep, caller: Admin, idempotency: IdempotentJson) -> Response:
    """The address hears of every job that ends: `job.succeeded`, `job.failed` or `job.canceled`, with the job as its data.

    Messages are signed by the Standard Webhooks scheme and tried again for about three days. The answer shows the **secret,
    this once**.
    """
    with context.database.session() as session:
        if replay := idempotency.replay(session):
            return replay
        private = context.settings.private_webhooks
        webhook, secret = service.create(session, context.vault, caller.tenant_id, request, private=private)
        record(session, caller.tenant_id, caller.token_id, "webhook.create", webhook.id)
        body = WebhookCreated(webhook=WebhookOut.model_validate(webhook), secret=secret).model_dump(mode="json")
        idempotency.remember(session, 201, body | {"secret": None}, {})
    return JSONResponse(body, 201)


@router.get("", summary="List webhooks", responses=responses(401, 403, 422))
def list_webhooks(context: ContextDep, caller: Admin, paging: PageQuery) -> Page[WebhookOut]:
    """Newest first."""
    with context.database.read_session() as session:
        rows, next_cursor = WebhookRepository(session, caller.tenant_id).page(paging)
        return Page(items=[WebhookOut.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.delete("/{webhook_id}", status_code=204, summary="Remove a webhook", responses=responses(401, 403, 404, 422))
def delete(webhook_id: WebhookId, context: ContextDep, caller: Admin) -> None:
    """With its log; what is still to be delivered is dropped."""
    with context.database.session() as session:
        WebhookRepository(session, caller.tenant_id).delete(webhook_id)
        record(session, caller.tenant_id, caller.token_id, "webhook.delete", webhook_id)


@router.get("/{webhook_id}/deliveries", summary="List what was delivered", responses=responses(401, 403, 404, 422))
def list_deliveries(webhook_id: WebhookId, context: ContextDep, caller: Admin, paging: PageQuery) -> Page[DeliveryOut]:
    """What was delivered, when it is tried again, and what the address answered."""
    with context.database.read_session() as session:
        webhook = WebhookRepository(session, caller.tenant_id).get(webhook_id)
        rows, next_cursor = DeliveryRepository(session, caller.tenant_id).page(paging, webhook_id=webhook.id)
        return Page(items=[DeliveryOut.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.post(
    "/deliveries/{delivery_id}/retry",
    status_code=202,
    summary="Deliver again",
    response_model=DeliveryOut,
    responses=responses(401, 403, 404, 409, 413, 422),
)
def retry(delivery_id: DeliveryId, context: ContextDep, caller: Admin, idempotency: IdempotentJson) -> Response:
    """Deliver a message once more, now, whatever became of it before."""
    with context.database.session() as session:
        if replay := idempotency.replay(session):
            return replay
        delivery = DeliveryOut.model_validate(service.retry(session, caller.tenant_id, delivery_id))
        idempotency.remember(session, 202, delivery.model_dump(mode="json"), {})
    return Response(delivery.model_dump_json(), 202, media_type="application/json")
