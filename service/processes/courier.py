"""Deliver the messages of the outbox, signed by the Standard Webhooks scheme, and try failed ones again.

    python -m service.processes.courier

A process of its own: an address that answers slowly must hold up nothing else.
"""

import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
from standardwebhooks import Webhook as Signer

from service.context import Context
from service.kit.database import utc_now
from service.kit.logs import configure
from service.settings import read_settings
from service.tables.webhooks import Delivery, Webhook
from service.webhooks import service
from service.webhooks.addresses import Address, UnsafeAddress
from service.webhooks.repository import DueDeliveries

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10
CLAIM_SECONDS = 60
"""Seconds after which another courier takes up the delivery of one that died."""

POLL_SECONDS = 1
AT_ONCE = 8
"""Deliveries side by side."""


def deliver_due(context: Context, client: httpx.Client) -> int:
    """Make at most :data:`AT_ONCE` deliveries, side by side. Return how many were tried."""
    now = utc_now()
    with context.database.session() as session:
        due = DueDeliveries(session).claim(now, now + timedelta(seconds=CLAIM_SECONDS), AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda each: _deliver(context, client, *each), due))
    return len(due)


def _deliver(context: Context, client: httpx.Client, delivery: Delivery, webhook: Webhook) -> None:
    status, error = None, None
    try:
        status = post(client, webhook, webhook.unseal(context.vault), delivery, private=context.settings.private_webhooks)
    except UnsafeAddress as reason:
        error = str(reason)
    except Exception as reason:  # of the network, or a key-encryption key that is away: the next attempt may succeed
        error = type(reason).__name__
        logger.warning("%s: %s", delivery.id, error)
    with context.database.session() as session:
        claimed = DueDeliveries(session).claimed(delivery.id, delivery.attempts)
        if claimed:
            service.record_attempt(*claimed, status, error)


def post(client: httpx.Client, webhook: Webhook, secret: str, delivery: Delivery, *, private: bool) -> int:
    """Make one attempt and return the status of the answer, whose body is not read."""
    url, extensions = Address.of(webhook.url, private=private).resolved()
    now = utc_now()
    headers = {
        "Host": httpx.URL(webhook.url).netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": "aiao-webhooks",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(secret).sign(delivery.id, now, delivery.body),
    }
    with client.stream("POST", url, content=delivery.body, headers=headers, extensions=extensions) as answer:
        return answer.status_code


def http_client() -> httpx.Client:
    """Make a client that follows no redirection and no proxy: both would lead past the check of the address."""
    return httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)


def main() -> None:
    settings = read_settings()
    configure(settings.log_format)
    context = Context.open(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with http_client() as client:
        while not stop.is_set():
            try:
                tried = deliver_due(context, client)
            except Exception:  # the database may be away for a while; the next round tries again
                logger.exception("this round failed")
                tried = 0
            if not tried:
                stop.wait(POLL_SECONDS)
    context.close()


if __name__ == "__main__":
    main()
