"""Rules of webhooks: who hears of what, and what becomes of an attempt to tell."""

import base64
import json
import secrets
from datetime import timedelta
from typing import Any, cast

from sqlalchemy.orm import Session

from aiao_core.reports.words import Told, sentence
from service.jobs.schemas import JobOut
from service.kit.database import utc_now
from service.kit.errors import InvalidWebhook
from service.kit.ids import new_id
from service.tables.jobs import Job
from service.tables.webhooks import Delivery, Webhook
from service.vault.vault import Vault
from service.verifications.repository import VerificationRepository
from service.webhooks.addresses import Address, UnsafeAddress
from service.webhooks.repository import DeliveryRepository, WebhookRepository
from service.webhooks.schemas import WebhookIn

SECRET_PREFIX = "whsec_"  # noqa: S105  # of the Standard Webhooks scheme
SECRET_BYTES = 32

RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Waits between attempts, as Standard Webhooks recommends: about three days in all."""

GONE = 410


def create(session: Session, vault: Vault, tenant_id: str, request: WebhookIn, *, private: bool) -> tuple[Webhook, str]:
    """A webhook and its signing secret. Raises :class:`InvalidWebhook` for an address that may not be called."""
    try:
        Address.of(str(request.url), private=private)
    except UnsafeAddress as error:
        raise InvalidWebhook(str(error)) from error
    secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    webhook = Webhook(id=new_id("whk"), tenant_id=tenant_id, url=str(request.url), created_at=utc_now())
    webhook.seal(vault, secret)
    return WebhookRepository(session, tenant_id).add(webhook), secret


def announce(session: Session, job: Job) -> None:
    """Put a message for each of the tenant's webhooks into the outbox: with the end of the job, or not at all."""
    webhooks = WebhookRepository(session, job.tenant_id).active()
    if not webhooks:
        return
    now = utc_now()
    event = f"job.{job.state}"
    data = JobOut.model_validate(job).model_dump(mode="json") | _verdict(session, job)
    for webhook in webhooks:
        body = {"type": event, "timestamp": now.isoformat(), "data": data}
        DeliveryRepository(session, job.tenant_id).add(
            Delivery(
                id=new_id("dlv"),
                tenant_id=job.tenant_id,
                webhook_id=webhook.id,
                event=event,
                body=json.dumps(body),
                state="pending",
                attempts=0,
                next_attempt_at=now,
                created_at=now,
            )
        )


def _verdict(session: Session, job: Job) -> dict[str, Any]:
    """Of a verification: what was tested, and what came of it, in a word and in a sentence. It holds no figures."""
    if job.kind != "verify":
        return {}
    row = VerificationRepository(session, job.tenant_id).get(job.subject_id)
    told = {name: getattr(row, name) for name in ("verdict", "reason", "tested", "suspect_name", "base_name", "bound_log10_p")}
    return {"verification": told | {"sentence": sentence(cast(Told, row)) if row.verdict else None}}


def record_attempt(delivery: Delivery, webhook: Webhook, status: int | None, error: str | None) -> None:
    """What became of an attempt: delivered, tried again later, or given up; an address that is gone hears nothing more."""
    now = utc_now()
    delivery.status_code, delivery.error = status, error
    if status is not None and 200 <= status < 300:
        delivery.state, delivery.next_attempt_at, delivery.finished_at = "delivered", None, now
    elif status == GONE or delivery.attempts > len(RETRY_SECONDS):
        delivery.state, delivery.next_attempt_at, delivery.finished_at = "failed", None, now
        webhook.disabled_at = webhook.disabled_at or (now if status == GONE else None)
    else:
        delivery.next_attempt_at = now + timedelta(seconds=RETRY_SECONDS[delivery.attempts - 1])


def retry(session: Session, tenant_id: str, delivery_id: str) -> Delivery:
    """Deliver once more, now, whatever became of it before."""
    delivery = DeliveryRepository(session, tenant_id).get(delivery_id, lock=True)
    delivery.state, delivery.next_attempt_at, delivery.finished_at = "pending", utc_now(), None
    return delivery
