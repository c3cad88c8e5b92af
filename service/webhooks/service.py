"""Rules of webhooks: which messages they get, and what becomes of an attempt to deliver one."""

import base64
import json
import secrets
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from sqlalchemy.orm import Session

from service.kit.database import utc_now
from service.kit.errors import Conflict, InvalidWebhook
from service.kit.ids import new_id
from service.tables.webhooks import Delivery, Webhook
from service.tenants import lock_tenant
from service.vault.vault import Vault
from service.webhooks.addresses import Address, UnsafeAddress
from service.webhooks.repository import DeliveryRepository, WebhookRepository
from service.webhooks.schemas import WebhookIn

SECRET_PREFIX = "whsec_"  # noqa: S105  # of the Standard Webhooks scheme
SECRET_BYTES = 32

MAX_WEBHOOKS = 20
"""Webhooks of a tenant at most: each end of a job is a message to each of them."""

RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Waits between attempts, in seconds, as Standard Webhooks recommends: about three days in all."""


def create(session: Session, vault: Vault, tenant_id: str, request: WebhookIn, *, private: bool) -> tuple[Webhook, str]:
    """Make a webhook and its signing secret.

    Raise :class:`InvalidWebhook` for an address that must not be called, and :class:`Conflict` if the tenant has too many.
    """
    lock_tenant(session, tenant_id)
    if WebhookRepository(session, tenant_id).count() >= MAX_WEBHOOKS:
        raise Conflict(f"you have {MAX_WEBHOOKS} webhooks, the most that a tenant may have; remove one that you no longer need")
    try:
        Address.of(str(request.url), private=private)
    except UnsafeAddress as error:
        raise InvalidWebhook(str(error)) from error
    secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    webhook = Webhook(id=new_id("whk"), tenant_id=tenant_id, url=str(request.url), created_at=utc_now())
    webhook.seal(vault, secret)
    return WebhookRepository(session, tenant_id).add(webhook), secret


def announce(session: Session, tenant_id: str, event: str, document: Callable[[], dict[str, Any]]) -> None:
    """Put a message for each of the tenant's webhooks into the outbox, in the caller's transaction.

    ``document`` makes the message's data; it is called only if there is a webhook.
    """
    webhooks = WebhookRepository(session, tenant_id).active()
    if not webhooks:
        return
    now = utc_now()
    body = json.dumps({"type": event, "timestamp": now.isoformat(), "data": document()})
    for webhook in webhooks:
        DeliveryRepository(session, tenant_id).add(
            Delivery(
                id=new_id("dlv"),
                tenant_id=tenant_id,
                webhook_id=webhook.id,
                event=event,
                body=body,
                state="pending",
                attempts=0,
                next_attempt_at=now,
                created_at=now,
            )
        )


def record_attempt(delivery: Delivery, webhook: Webhook, status: int | None, error: str | None) -> None:
    """Note what became of an attempt: delivered, to be tried again, or failed; an address that is gone hears nothing more."""
    now = utc_now()
    delivery.status_code, delivery.error = status, error
    if status is not None and 200 <= status < 300:
        delivery.state, delivery.next_attempt_at, delivery.finished_at = "delivered", None, now
    elif status == HTTPStatus.GONE or delivery.attempts > len(RETRY_SECONDS):
        delivery.state, delivery.next_attempt_at, delivery.finished_at = "failed", None, now
        webhook.disabled_at = webhook.disabled_at or (now if status == HTTPStatus.GONE else None)
    else:
        delivery.next_attempt_at = now + timedelta(seconds=RETRY_SECONDS[delivery.attempts - 1])


def retry(session: Session, tenant_id: str, delivery_id: str) -> Delivery:
    """Deliver a message again, now, whatever became of it before."""
    delivery = DeliveryRepository(session, tenant_id).get(delivery_id, lock=True)
    delivery.state, delivery.next_attempt_at, delivery.finished_at = "pending", utc_now(), None
    return delivery
