"""An address that answers slowly holds up no other delivery, and no tenant's addresses hold up another tenant's."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from service.context import Context
from service.processes import courier
from service.processes.courier import SLOTS, TENANT_SLOTS, Courier, deliver
from service.webhooks import addresses
from tests.support import rows
from tests.support.processes import wait_for
from tests.support.receiver import receiver
from tests.support.webhooks import deliver_due, deliveries, end_a_job, subscribe

pytestmark = pytest.mark.dialect


@dataclass
class Slow:
    """A server that takes every message and answers for ever."""

    url: str = ""
    connections: list[socket.socket] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Break all answers off."""
        self.closed.set()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def slow(*, seconds: float) -> Iterator[Slow]:
    """A server of raw sockets whose header has no end: it sends a byte of it every ``seconds``."""
    known, listener = Slow(), socket.create_server(("127.0.0.1", 0))
    known.url = f"http://127.0.0.1:{listener.getsockname()[1]}/slow"

    def drip(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Filler: ")
            while not known.closed.wait(seconds):
                connection.sendall(b"x")

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                known.connections.append(connection)
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield known
    finally:
        known.close()
        listener.close()


@contextmanager
def delivering(context: Context, at_the_end: Callable[[], None]) -> Iterator[None]:
    """A courier works during the block. Afterwards it waits for what it has begun, which ``at_the_end`` ends."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(deliver(context, stop),))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        at_the_end()
        thread.join()
        loop.close()


def test_an_answer_that_drips_ends_at_the_deadline_of_the_whole_attempt(closed, tenant, monkeypatch):
    """Each read of httpx has its own patience, which a byte now and then never exhausts."""
    monkeypatch.setattr(courier, "TIMEOUT_SECONDS", 2)
    with slow(seconds=0.5) as server:
        subscribe(closed, tenant, server.url)
        end_a_job(closed, tenant)
        with delivering(closed, server.close):
            wait_for(lambda: deliveries(closed, tenant)[0].error, "the attempt goes on for ever")
    (row,) = deliveries(closed, tenant)
    assert (row.state, row.attempts, row.status_code) == ("pending", 1, None)
    assert row.error == "no whole answer within 2 seconds"


def test_slow_addresses_of_one_tenant_hold_up_nobody_else(closed, tenant, monkeypatch):
    monkeypatch.setattr(courier, "TIMEOUT_SECONDS", 60)  # the slow ones do not end before the others are done
    others = [rows.tenant(closed.database) for _ in range(3)]
    with slow(seconds=0.5) as server, receiver() as quick:
        for number in range(5):
            subscribe(closed, tenant, f"{server.url}/{number}")
        for _ in range(SLOTS):
            end_a_job(closed, tenant)
        with delivering(closed, server.close):
            wait_for(lambda: len(server.connections) == TENANT_SLOTS, "the slow ones have not begun")
            for other in others:
                subscribe(closed, other, quick.url)
                end_a_job(closed, other)
            wait_for(lambda: len(quick.heard) == len(others), "the others wait for the slow ones")
            assert len(server.connections) == TENANT_SLOTS
    assert {row.state for other in others for row in deliveries(closed, other)} == {"delivered"}


def test_a_round_takes_of_each_tenant_before_it_takes_more_of_one(closed, tenant, monkeypatch):
    begun = Counter()

    async def count(_courier: Courier, delivery, _webhook) -> None:
        begun[delivery.tenant_id] += 1

    monkeypatch.setattr(Courier, "_deliver", count)
    monkeypatch.setattr(courier, "SLOTS", 5)
    others = [rows.tenant(closed.database) for _ in range(3)]
    with receiver() as nobody:
        for each in (tenant, *others):
            subscribe(closed, each, nobody.url)
        for _ in range(20):
            end_a_job(closed, tenant)
        for other in others:
            end_a_job(closed, other)
    deliver_due(closed)
    assert begun == Counter({tenant: 2} | dict.fromkeys(others, 1))


def test_a_lookup_that_hangs_keeps_a_slot_of_its_tenant_and_no_more(closed, tenant, monkeypatch):
    """A lookup cannot be broken off: without a slot for each, a name server of an attacker would use up the threads."""
    monkeypatch.setattr(courier, "TIMEOUT_SECONDS", 1)
    release, looked_up = threading.Event(), []
    resolve: Callable = addresses.Address.resolved

    def hanging(address: addresses.Address):
        if address.url.host == "slow.example":
            looked_up.append(address)
            release.wait()
        return resolve(address)

    monkeypatch.setattr(addresses.Address, "resolved", hanging)
    other = rows.tenant(closed.database)
    with receiver() as quick:
        subscribe(closed, tenant, "https://slow.example/")
        for _ in range(3 * TENANT_SLOTS):
            end_a_job(closed, tenant)
        with delivering(closed, release.set):
            wait_for(lambda: len([row for row in deliveries(closed, tenant) if row.error]) == TENANT_SLOTS, "no deadline")
            subscribe(closed, other, quick.url)
            end_a_job(closed, other)
            wait_for(lambda: quick.heard, "the other tenant waits")
            assert len(looked_up) == TENANT_SLOTS
