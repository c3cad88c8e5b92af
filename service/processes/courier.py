"""Deliver the messages of the outbox, signed by the Standard Webhooks scheme, and try failed ones again.

    python -m service.processes.courier

A process of its own: an address that answers slowly must hold up nothing else. Nor does it hold up other deliveries: each has a
slot of its own and a deadline, and no tenant has all the slots.
"""

import asyncio
import logging
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

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
"""Seconds for a whole attempt, from the lookup of the name to the last header of the answer."""

CLAIM_SECONDS = 60
"""Seconds after which another courier takes up the delivery of one that died."""

POLL_SECONDS = 1

SLOTS, TENANT_SLOTS = 32, 4
"""Deliveries side by side, and those of one tenant: its slow addresses leave the other slots free."""


class Courier:
    """Deliveries under way, each in a slot."""

    def __init__(self, context: Context, client: httpx.AsyncClient) -> None:
        self._context, self._client = context, client
        # A lookup of a name cannot be broken off: it keeps its slot until it ends, so that there is a thread for each.
        self._threads = ThreadPoolExecutor(SLOTS)
        self._tenants: dict[asyncio.Task[None], str] = {}

    async def begin(self) -> int:
        """Begin deliveries that are due, as many as there are free slots for. Return how many."""
        free, busy = SLOTS - len(self._tenants), Counter(self._tenants.values())
        due = await asyncio.to_thread(self._claim, free, busy) if free else []
        for delivery, webhook in due:
            task = asyncio.create_task(self._deliver(delivery, webhook))
            self._tenants[task] = delivery.tenant_id
            task.add_done_callback(self._tenants.pop)
        return len(due)

    async def finish(self) -> None:
        """Wait until all deliveries under way have ended."""
        await asyncio.gather(*self._tenants)

    async def pause(self, stopped: asyncio.Task[Any]) -> None:
        """Wait a moment, but no longer than until a slot gets free or ``stopped`` ends."""
        await asyncio.wait([stopped, *self._tenants], timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    def _claim(self, free: int, busy: Counter[str]) -> list[tuple[Delivery, Webhook]]:
        now = utc_now()
        with self._context.database.session() as session:
            until = now + timedelta(seconds=CLAIM_SECONDS)
            return DueDeliveries(session).claim(now, until, free, of_each=TENANT_SLOTS, busy=busy)

    async def _deliver(self, delivery: Delivery, webhook: Webhook) -> None:
        status, error = None, None
        prepared = asyncio.get_running_loop().run_in_executor(self._threads, self._prepare, webhook)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                secret, place = await asyncio.shield(prepared)
                status = await post(self._client, webhook, secret, delivery, place)
        except UnsafeAddress as reason:
            error = str(reason)
        except TimeoutError:
            error = f"no whole answer within {TIMEOUT_SECONDS} seconds"
        except Exception as reason:  # of the network, or a key-encryption key that is away: the next attempt may succeed
            error = type(reason).__name__
            logger.warning("%s: %s", delivery.id, error)
        try:
            await asyncio.to_thread(self._record, delivery, status, error)
        except Exception:  # the database may be away for a while; the delivery is claimed again
            logger.exception("%s: its end cannot be noted", delivery.id)
        await asyncio.gather(prepared, return_exceptions=True)

    def _prepare(self, webhook: Webhook) -> tuple[str, "Place"]:
        """Return the secret that signs, and where to send to. Both may ask other servers."""
        secret = webhook.unseal(self._context.vault)
        return secret, Address.of(webhook.url, private=self._context.settings.private_webhooks).resolved()

    def _record(self, delivery: Delivery, status: int | None, error: str | None) -> None:
        with self._context.database.session() as session:
            claimed = DueDeliveries(session).claimed(delivery.id, delivery.attempts)
            if claimed:
                service.record_attempt(*claimed, status, error)


Place = tuple[httpx.URL, dict[str, str]]
"""Of :meth:`service.webhooks.addresses.Address.resolved`."""


async def post(client: httpx.AsyncClient, webhook: Webhook, secret: str, delivery: Delivery, place: Place) -> int:
    """Make one attempt and return the status of the answer, whose body is not read."""
    url, extensions = place
    now = utc_now()
    headers = {
        "Host": httpx.URL(webhook.url).netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": "aiao-webhooks",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(secret).sign(delivery.id, now, delivery.body),
    }
    async with client.stream("POST", url, content=delivery.body, headers=headers, extensions=extensions) as answer:
        return answer.status_code


def http_client() -> httpx.AsyncClient:
    """Make a client that follows no redirection and no proxy: both would lead past the check of the address.

    It keeps no connection, or the next message to the same number would go where TLS was checked against another name.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, follow_redirects=False, trust_env=False)


async def deliver(context: Context, stop: asyncio.Event) -> None:
    """Deliver what is due until ``stop`` is set, and then end what was begun."""
    async with http_client() as client:
        courier, stopped = Courier(context, client), asyncio.create_task(stop.wait())
        while not stop.is_set():
            try:
                begun = await courier.begin()
            except Exception:  # the database may be away for a while; the next round tries again
                logger.exception("this round failed")
                begun = 0
            if not begun:
                await courier.pause(stopped)
        await courier.finish()


async def _until_stopped(context: Context) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await deliver(context, stop)


def main() -> None:
    settings = read_settings()
    configure(settings.log_format)
    context = Context.open(settings)
    asyncio.run(_until_stopped(context))
    context.close()


if __name__ == "__main__":
    main()
