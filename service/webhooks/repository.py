"""Queries for webhooks and their deliveries."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import case, delete, func, literal, select
from sqlalchemy.orm import Session

from service.kit.repository import TenantRepository
from service.tables.webhooks import Delivery, Webhook


class WebhookRepository(TenantRepository[Webhook]):
    table, noun = Webhook, "webhook"

    def active(self) -> Sequence[Webhook]:
        return self.session.scalars(self._mine().where(Webhook.disabled_at.is_(None)).order_by(Webhook.id)).all()

    def count(self) -> int:
        return self.session.scalar(select(func.count()).where(Webhook.tenant_id == self.tenant_id)) or 0

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook with all its messages."""
        webhook = self.get(webhook_id, lock=True)
        self.session.execute(delete(Delivery).where(Delivery.webhook_id == webhook.id))
        self.session.delete(webhook)


class DeliveryRepository(TenantRepository[Delivery]):
    table, noun = Delivery, "delivery"


class DueDeliveries:
    """Deliveries of every tenant, for the courier."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def claim(
        self, now: datetime, until: datetime, limit: int, *, of_each: int, busy: Mapping[str, int]
    ) -> list[tuple[Delivery, Webhook]]:
        """Take deliveries that are due, with their webhooks; until ``until`` no other courier takes them.

        No tenant gets more than ``of_each`` with the ``busy`` ones that it has, and those with the fewest come first.
        """
        before = case(busy, value=Delivery.tenant_id, else_=0) if busy else literal(0)
        place = func.row_number().over(partition_by=Delivery.tenant_id, order_by=(Delivery.next_attempt_at, Delivery.id))
        due = Delivery.next_attempt_at <= now
        ranked = select(Delivery.id, (before + place).label("rank")).where(due).subquery()
        query = (
            select(Delivery, Webhook)
            .join(Webhook, Delivery.webhook_id == Webhook.id)
            .join(ranked, ranked.c.id == Delivery.id)
            .where(due, ranked.c.rank <= of_each)
            .order_by(ranked.c.rank, Delivery.next_attempt_at)
            .limit(limit)
            .with_for_update(of=Delivery, skip_locked=True)
        )
        found = [(delivery, webhook) for delivery, webhook in self.session.execute(query)]
        for delivery, _ in found:
            delivery.attempts, delivery.next_attempt_at = delivery.attempts + 1, until
        return found

    def claimed(self, delivery_id: str, attempts: int) -> tuple[Delivery, Webhook] | None:
        """Lock and return a delivery and its webhook if both are still there and no later attempt was begun."""
        query = (
            select(Delivery, Webhook)
            .join(Webhook, Delivery.webhook_id == Webhook.id)
            .where(Delivery.id == delivery_id, Delivery.attempts == attempts)
            .with_for_update()
        )
        row = self.session.execute(query).one_or_none()
        return (row[0], row[1]) if row else None
