"""Start the real parts of the system for tests: Redis, PostgreSQL databases, API, worker, reaper."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import redis

from aiao import Client
from service.kit.database import Database
from service.processes.embedded import CONNECTION, redis_server
from service.tenants import tenant_named
from service.tokens.schemas import TokenIn
from service.tokens.service import issue
from tests.support.databases import sqlite_database
from tests.support.places import PROJECT

SERVER = ("uvicorn", "--factory", "service.app:create_app", "--http", CONNECTION)

PATIENCE = 60
"""Seconds until a part must be up. A limit against hanging, not a measurement."""


MAX_UNPACKED_BYTES = 64 << 20
"""To how much an archive may expand on the production system."""

TICKING = "tests.support.ticking"
"""A worker's application whose jobs only tick: it starts without torch, in a second."""

HURRY = "hurry"
"""While a file of this name is in the data folder, jobs do not wait between their ticks."""

PORTS = 1000
"""So many each process of a test run has for itself."""


def _ports() -> Iterator[int]:
    """Ports of this process of the test run, around and around.

    They lie below those that systems give to clients, so that none is taken before a slow server gets to listening at it.
    """
    first = 20000 + PORTS * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    started = os.getpid() % PORTS  # two runs at a time seldom meet
    return itertools.islice(itertools.cycle(range(first, first + PORTS)), started, None)


_PORTS = _ports()


def free_port() -> int:
    for port in itertools.islice(_PORTS, PORTS):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("all ports of this process of the test run are taken")


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until ``condition`` is true; an error in it counts as not yet."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception as latest:
            error = latest
        time.sleep(0.05)
    raise TimeoutError(f"{what} after {seconds} s") from error


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """End a process and everything in its group."""
    if process.poll() is None:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def private_redis() -> Iterator[str]:
    """A Redis of its own on a free port; the block gets its URL."""
    port = free_port()
    command = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        with redis.Redis(port=port) as connection:
            wait_for(connection.ping, "Redis does not answer")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(process)


@dataclass
class System:
    """The service as a company runs it: every part a process of its own, on servers that its environment names."""

    data_dir: Path
    settings: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    log_dir: Path | None = None
    """Where logs go, if not into the data folder."""

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "AIAO_DATA_DIR": str(self.data_dir), "PYTHONUNBUFFERED": "1", **self.settings}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['AIAO_PORT']}"

    def run(self, *command: str) -> str:
        """Run a Python module of the project to its end and return what it printed."""
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=PROJECT, env=self.environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=PROJECT, env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.processes[name]

    def start_api(self) -> None:
        port = self.settings["AIAO_PORT"]
        self.start("api", *SERVER, "--port", port, "--timeout-graceful-shutdown", "1")
        wait_for(lambda: httpx.get(f"{self.url}/readyz", timeout=5).is_success, f"the API is not ready, see {self.data_dir}")

    def start_worker(self, name: str = "worker", queues: str = "", app: str = "worker.app") -> subprocess.Popen[bytes]:
        """A worker of all queues, or of these."""
        options = (
            "--concurrency",
            "1",
            "--loglevel",
            "INFO",
            "--without-gossip",
            "--without-mingle",
            "--hostname",
            f"{name}@%h",
        )
        chosen = ("--queues", queues) if queues else ()
        return self.start(name, "celery", "--app", app, "worker", *chosen, *options)

    def start_reaper(self) -> None:
        self.start("reaper", "service.processes.reaper")

    def token(self, tenant: str = "default") -> str:
        """A fresh token of ``tenant``, as `aiao admin tokens issue` issues them."""
        with _opened(self.settings["AIAO_DATABASE_URL"]) as database, database.session() as session:
            return issue(session, tenant_named(session, tenant).id, TokenIn(name="of a test", scopes={"admin"}))[1]

    def client(self, tenant: str = "default") -> Client:
        return Client(self.url, self.token(tenant))

    def change_job(self, job_id: str, assignment: str) -> None:
        """What time, or an older version, would do to a job; on PostgreSQL."""
        with psycopg.connect(self.settings["AIAO_DATABASE_URL"].replace("+psycopg", "")) as connection:
            connection.execute(f"UPDATE jobs SET {assignment} WHERE id = %s", [job_id])

    def log(self, name: str) -> str:
        return self._log(name).read_text()

    def _log(self, name: str) -> Path:
        return (self.log_dir or self.data_dir) / f"{name}.log"

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            stop(process)


@contextmanager
def system(
    data_dir: Path,
    *,
    database_url: str = "",
    broker_url: str,
    log_dir: Path | None = None,
    reaper: bool = True,
    **settings: str,
) -> Iterator[System]:
    """API and reaper on a migrated database, without a worker yet; patient settings are shortened for tests."""
    quick = {"AIAO_LEASE_SECONDS": "3", "AIAO_HEARTBEAT_SECONDS": "0.5", "AIAO_REAP_SECONDS": "0.5"}
    database_url = database_url or sqlite_database(data_dir / "aiao.sqlite")
    places = {"AIAO_DATABASE_URL": database_url, "AIAO_BROKER_URL": broker_url, "AIAO_PORT": str(free_port())}
    data_dir.mkdir(parents=True, exist_ok=True)
    running = System(data_dir, quick | places | settings, log_dir=log_dir)
    try:
        with _opened(database_url) as database:
            database.migrate()
        running.start_api()
        if reaper:
            running.start_reaper()
        yield running
    finally:
        running.stop()


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.dispose()
