"""Does the API answer while it is attacked, and how much memory does it take?

    python -m benchmarks.availability [--seconds 20] [--only NAME]

A real uvicorn, started as our images start it, on PostgreSQL. Each attack comes from a process of its own, on the same machine,
over and over. Meanwhile `/healthz` is asked on a new connection 20 times a second. We aim at 99% of its answers within 0.5 s,
and at less than 350 MiB resident in the API's process; the inspectors, processes of their own, have up to 384 MiB each besides.
Attacker, PostgreSQL and API share the machine: the load that is printed tells how far its figures are those of the API.
"""

import argparse
import asyncio
import io
import itertools
import logging
import math
import multiprocessing
import os
import platform
import struct
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from tests.support.databases import postgres_database
from tests.support.processes import private_redis, system

AIM_SECONDS, AIM_MIB = 0.5, 350
EVERY_SECONDS = 0.05
"""Between two questions to `/healthz`."""

PATIENCE_SECONDS = 60
CHUNK = 1 << 16

CLOSED = "closed"
"""The server closed the connection without an answer."""


@dataclass(frozen=True)
class Target:
    port: int
    token: str


Attack = Callable[[Target], Awaitable[str]]
"""Attacks once; returns the status of the answer."""


def head(method: str, path: str, token: str, length: int) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\nconnection: close\r\n\r\n"
    ).encode()


async def exchange(port: int, *pieces: bytes, pause: float = 0) -> str:
    """Send ``pieces``, with a pause after each, until there is an answer; return its status."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), PATIENCE_SECONDS)
    except (OSError, TimeoutError):
        return CLOSED
    answer = asyncio.ensure_future(reader.readline())
    try:
        for piece in pieces:
            if answer.done() or writer.transport.is_closing():
                break
            writer.write(piece)
            with suppress(ConnectionError):
                await writer.drain()
            await asyncio.wait([answer], timeout=pause)
        line = await asyncio.wait_for(answer, PATIENCE_SECONDS)
        return line.split()[1].decode() if line else CLOSED
    except TimeoutError:
        return "no answer"
    except (ConnectionError, IndexError):
        return CLOSED
    finally:
        answer.cancel()
        writer.close()


async def upload(content: bytes, target: Target) -> str:
    pieces = (content[place : place + CHUNK] for place in range(0, len(content), CHUNK))
    return await exchange(target.port, head("POST", "/v1/artifacts?filename=a", target.token, len(content)), *pieces)


async def endless_head(target: Target) -> str:
    lines = b"a: b\r\n" * (CHUNK // 6)
    return await exchange(target.port, b"GET /healthz HTTP/1.1\r\nhost: a\r\n", *itertools.repeat(lines, (100 << 20) // CHUNK))


async def slow_head(target: Target) -> str:
    return await exchange(target.port, b"GET /healthz HTTP/1.1\r\n", *itertools.repeat(b"a: b\r\n", 60), pause=1)


async def slow_body(target: Target) -> str:
    """With a good token: without one the body is not waited for."""
    begin = head("POST", "/v1/verifications", target.token, 1 << 20)
    return await exchange(target.port, begin, *itertools.repeat(b" ", 60), pause=1)


async def slow_upload(target: Target) -> str:
    begin = head("POST", "/v1/artifacts?filename=a", target.token, 1 << 30)
    return await exchange(target.port, begin, *itertools.repeat(b" " * CHUNK, 60), pause=1)


JSON = b"[" + b"[]," * (349_000) + b"1]"


async def json_of_a_stranger(target: Target) -> str:
    return await exchange(target.port, head("POST", "/v1/verifications", "nobody", len(JSON)), JSON)


async def call_of_a_stranger(target: Target) -> str:
    return await exchange(target.port, head("GET", "/v1/jobs", "nobody", 0))


async def unread(target: Target) -> str:
    """Ask for the longest document that needs no token, many times, and take nothing."""
    _, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 10)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n" * 8)
    await asyncio.sleep(30)
    writer.close()
    return CLOSED


def pax() -> bytes:
    entry = tarfile.TarInfo("a")
    entry.pax_headers = {"a": "1" * (64 << 10)}
    return tar(entry, b"")


def sparse() -> bytes:
    """A file in a TAR archive whose map of 16 million numbers the library reads one by one."""
    entry = tarfile.TarInfo("a")
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    return tar(entry, b"16000000\n" + b"1\n" * (16 << 20))


def tar(entry: tarfile.TarInfo, content: bytes) -> bytes:
    target = io.BytesIO()
    entry.size = len(content)
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def safetensors(mebibytes: int) -> bytes:
    text = b'{"a":[' + b"[]," * (mebibytes * 349_000) + b"1]}"
    return struct.pack("<Q", len(text)) + text


def directory(entries: int) -> bytes:
    """A ZIP archive that is nearly all directory."""
    entry = struct.pack("<4s4B4H3I5H2I", b"PK\x01\x02", 20, 0, 20, *[0] * 8, 2, *[0] * 6) + b"ab"
    content, count = entry * entries, entries & 0xFFFF
    return b"PK\x03\x04" + content + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(content), 4, 0)


ATTACKS: dict[str, tuple[int, Callable[[], Attack]]] = {
    "nothing": (0, lambda: call_of_a_stranger),
    "a pax header of 64 KiB": (8, lambda: partial(upload, pax())),
    "a sparse file in a TAR archive": (8, lambda: partial(upload, sparse())),
    "a safetensors header of 60 MiB": (4, lambda: partial(upload, safetensors(60))),
    "a safetensors header of 15 MiB": (8, lambda: partial(upload, safetensors(15))),
    "a ZIP directory of 600,000 entries": (8, lambda: partial(upload, directory(600_000))),
    "a ZIP directory of 2 million entries": (4, lambda: partial(upload, directory(2_000_000))),
    "100 MiB of header lines": (32, lambda: endless_head),
    "slow heads": (1000, lambda: slow_head),
    "slow bodies": (400, lambda: slow_body),
    "slow uploads": (200, lambda: slow_upload),
    "1 MiB of JSON without a token": (64, lambda: json_of_a_stranger),
    "calls without a token": (256, lambda: call_of_a_stranger),
    "answers that nobody takes": (200, lambda: unread),
}
"""How many at a time, and what makes it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each attack")
    parser.add_argument("--only", choices=ATTACKS, action="append", help="this attack, perhaps several times")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} before the first attack")
    print(f"\n{'attack':38}{'p50 s':>8}{'p99 s':>8}{'max s':>8}{'MiB':>6}{'load':>6}  answers by status")
    for name in arguments.only or ATTACKS:
        with (
            tempfile.TemporaryDirectory() as folder,
            private_redis() as broker,
            postgres_database() as database,
            system(Path(folder), database_url=database, broker_url=broker, reaper=False, AIAO_QUEUE="nobody") as api,
        ):
            target = Target(int(api.settings["AIAO_PORT"]), api.token())
            times, peak, answers = under(name, target, api.processes["api"].pid, arguments.seconds)
        times.sort()
        p50, p99 = (times[min(len(times) - 1, math.ceil(share * len(times)) - 1)] for share in (0.5, 0.99))
        counts = ", ".join(f"{count} {status}" for status, count in sorted(answers.items()))
        missed = " (missed)" if p99 > AIM_SECONDS or peak > AIM_MIB else ""
        load = os.getloadavg()[0]
        print(f"{name:38}{p50:8.3f}{p99:8.3f}{times[-1]:8.3f}{peak:6.0f}{load:6.1f}  {counts}{missed}", flush=True)


def under(name: str, target: Target, pid: int, seconds: float) -> tuple[list[float], float, Counter[str]]:
    """Return the times of `/healthz` under an attack, the API's peak of memory in MiB, and how the attack was answered."""
    results: SimpleQueue[Counter[str]] = multiprocessing.get_context("spawn").SimpleQueue()
    attacker = multiprocessing.get_context("spawn").Process(target=attack, args=(name, target, seconds, results))
    attacker.start()
    results.get()  # it is ready
    times, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        times.append(asyncio.run(healthz(target.port)))
        time.sleep(EVERY_SECONDS)
    status = Path(f"/proc/{pid}/status").read_text()
    answers = results.get()
    attacker.join()
    return times, int(status.split("VmHWM:")[1].split()[0]) / 1024, answers


async def healthz(port: int) -> float:
    """Return the seconds until a new connection has its answer; without one, those that were waited."""
    began = time.monotonic()
    status = await exchange(port, b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    return time.monotonic() - began if status == "200" else PATIENCE_SECONDS


def attack(name: str, target: Target, seconds: float, results: "SimpleQueue[Counter[str]]") -> None:
    at_once, make = ATTACKS[name]
    once, answers = make(), Counter[str]()
    logging.disable()  # of what is sent to a closed connection

    async def over_and_over() -> None:
        while True:
            answers[await once(target)] += 1

    async def all_of_them() -> None:
        attackers = [asyncio.ensure_future(over_and_over()) for _ in range(at_once)]
        await (asyncio.wait(attackers, timeout=seconds) if attackers else asyncio.sleep(seconds))
        results.put(answers)
        os._exit(0)  # whatever is under way

    results.put(Counter())
    asyncio.run(all_of_them())


if __name__ == "__main__":
    main()
