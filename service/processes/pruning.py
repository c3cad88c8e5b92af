"""Forget what is only kept for a while: answers under an Idempotency-Key, and messages to webhooks that have had their end."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Delete, delete, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from service.idempotency import REMEMBERED_FOR
from service.kit.database import Database
from service.tables.idempotency import IdempotencyRecord
from service.tables.webhooks import Delivery

DELIVERIES_KEPT_FOR = timedelta(days=30)
"""How long a message to a webhook is listed after it was delivered or has failed."""

ROWS_AT_ONCE = 1000
"""Rows that one transaction deletes, at most: others need not wait for long."""


def prune(database: Database, now: datetime) -> int:
    """Delete rows that are old enough. Return how many."""
    answers = _older(IdempotencyRecord.created_at, now - REMEMBERED_FOR, IdempotencyRecord.tenant_id, IdempotencyRecord.key)
    deliveries = _older(Delivery.finished_at, now - DELIVERIES_KEPT_FOR, Delivery.id)
    return sum(_delete_all(database, each) for each in (answers, deliveries))


def _older(time: InstrumentedAttribute[Any], before: datetime, *key: InstrumentedAttribute[Any]) -> Delete:
    some = select(*key).where(time < before).limit(ROWS_AT_ONCE)
    return delete(time.class_).where(tuple_(*key).in_(some))


def _delete_all(database: Database, some: Delete) -> int:
    count = 0
    while True:
        with database.session() as session:
            result: CursorResult[Any] = session.execute(some, execution_options={"synchronize_session": False})  # type: ignore[assignment]
        count += result.rowcount
        if result.rowcount < ROWS_AT_ONCE:
            return count
