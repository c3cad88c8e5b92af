"""Webhooks of a tenant, and jobs whose end they hear of."""

import asyncio

from service.context import Context
from service.jobs import service as jobs
from service.kit.ids import new_id
from service.kit.schemas import Paging
from service.processes.courier import Courier, http_client
from service.tables.webhooks import Delivery
from service.webhooks import service
from service.webhooks.repository import DeliveryRepository
from service.webhooks.schemas import WebhookIn


def subscribe(context: Context, tenant: str, url: str) -> str:
    """The secret of a new webhook."""
    with context.database.session() as session:
        return service.create(session, context.vault, tenant, WebhookIn(url=url), private=True)[1]


def end_a_job(context: Context, tenant: str) -> str:
    with context.database.session() as session:
        job_id = jobs.create(session, tenant, "audit", new_id("aud"), None).id
        jobs.cancel(session, context.storage, tenant, job_id)
    return job_id


def deliveries(context: Context, tenant: str) -> list[Delivery]:
    with context.database.session() as session:
        return DeliveryRepository(session, tenant).page(Paging(100))[0]


def deliver_due(context: Context) -> int:
    """Begin what is due, as many as there are slots for, and wait for its end. Returns how many were tried."""

    async def once() -> int:
        async with http_client() as client:
            courier = Courier(context, client)
            count = await courier.begin()
            await courier.finish()
            return count

    return asyncio.run(once())
