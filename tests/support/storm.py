"""Jobs through a system whose parts are killed, cut off and starved: what is left at the end?"""

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from kombu import Connection

from aiao import Client, ClientError, Registration
from aiao_core.formats.digests import sha256_file
from aiao_core.key import OwnerKey, PublicKey
from service.context import Context
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.kit.queues import Fleet
from service.processes.garbage import GRACE_PERIOD, collect
from service.settings import Settings
from tests.support.faults import Postgres, Redis, Wire, full, small_disk
from tests.support.processes import System, stop, system, wait_for
from tests.support.small_model import EMBEDDING, make
from worker.scratch import remove_abandoned

OUTAGE_SECONDS = 4
PAUSE_SECONDS = 5
RABBITMQ_PORT = 5672
DISK_MEGABYTES = 700
QUEUES = "small:2050MiB large:64GiB"
"""Verifications go to the one, embeddings to the other; every worker takes both."""

FINAL = ("succeeded", "failed", "canceled")


@dataclass
class Storm:
    """A system with its servers and workers, and what was done to it."""

    system: System
    postgres: Postgres
    broker: Redis | None
    """None for the RabbitMQ that every test shares."""
    wires: dict[str, Wire]
    disk: Path | None
    workers: list[str]
    choice: random.Random
    done: dict[str, int] = field(default_factory=dict)

    def faults(self) -> dict[str, Callable[[], None]]:
        always: dict[str, Callable[[], None]] = {
            "kill a worker": self.kill_a_worker,
            "kill the API": self.kill_the_api,
            "kill the reaper": self.kill_the_reaper,
            "restart PostgreSQL": self.postgres.restart,
            "empty the broker": self.empty_the_broker,
            "cut the database off": lambda: self.cut("database"),
            "cut the broker off": lambda: self.cut("broker"),
            "expire the leases": self.expire_the_leases,
        }
        return always | ({"fill the disk": self.fill_the_disk} if self.disk else {})

    def rage(self, rounds: int) -> None:
        """Every fault ``rounds`` times, in random order, with pauses."""
        faults = self.faults()
        for _ in range(rounds):
            for name in self.choice.sample(list(faults), len(faults)):
                faults[name]()
                self.done[name] = self.done.get(name, 0) + 1
                time.sleep(PAUSE_SECONDS)

    def kill_a_worker(self) -> None:
        name = self.choice.choice(self.workers)
        stop(self.system.processes[name], signal.SIGKILL)
        self.system.start_worker(name)

    def kill_the_api(self) -> None:
        stop(self.system.processes["api"], signal.SIGKILL)
        self.system.start_api()

    def kill_the_reaper(self) -> None:
        stop(self.system.processes["reaper"], signal.SIGKILL)
        self.system.start_reaper()

    def empty_the_broker(self) -> None:
        if self.broker:
            self.broker.restart()
        else:
            with Connection(f"amqp://guest:guest@127.0.0.1:{RABBITMQ_PORT}//") as connection:
                for queue in self.queues:
                    connection.default_channel.queue_purge(queue)

    @property
    def queues(self) -> list[str]:
        return Fleet.parse(self.system.settings["AIAO_QUEUE"], QUEUES).names

    def cut(self, name: str) -> None:
        self.wires[name].cut()
        time.sleep(OUTAGE_SECONDS)
        self.wires[name].mend()

    def expire_the_leases(self) -> None:
        with psycopg.connect(self.postgres.url.replace("+psycopg", "")) as connection:
            connection.execute("UPDATE jobs SET lease_until = now() - interval '1 hour' WHERE state = 'running'")

    def fill_the_disk(self) -> None:
        assert self.disk
        with full(self.disk):
            time.sleep(OUTAGE_SECONDS)


@contextmanager
def brewing(folder: Path, *, rabbitmq: bool, workers: int, seed: int):
    """A storm about to break: everything is up."""
    with ExitStack() as stack:
        postgres = Postgres()
        stack.callback(postgres.remove)
        broker = None if rabbitmq else Redis()
        if broker:
            stack.callback(broker.stop)
        wires = {"database": Wire(postgres.port), "broker": Wire(broker.port if broker else RABBITMQ_PORT)}
        for wire in wires.values():
            stack.callback(wire.close)
        disk = stack.enter_context(small_disk(folder / "disk", DISK_MEGABYTES))
        port = wires["broker"].port
        running = stack.enter_context(
            system(
                folder / "disk",
                log_dir=folder,  # what went wrong is told also of a full disk
                database_url=postgres.url.replace(str(postgres.port), str(wires["database"].port)),
                broker_url=f"amqp://guest:guest@127.0.0.1:{port}//" if rabbitmq else f"redis://127.0.0.1:{port}/0",
                AIAO_QUEUE=new_id("storm"),
                AIAO_QUEUES=QUEUES,
                AIAO_MAX_ATTEMPTS="1000",
                AIAO_LEASE_SECONDS="15",
                AIAO_REAP_SECONDS="1",
                OMP_NUM_THREADS="1",
            )
        )
        names = [f"worker-{number}" for number in range(workers)]
        for name in names:
            running.start_worker(name)
        yield Storm(running, postgres, broker, wires, disk, names, random.Random(seed))


def weather(storm: Storm, *, jobs: int, rounds: int, patience: float) -> dict[str, Any]:
    """Send ``jobs`` jobs through the storm, one in ten an embedding, and check what is left. Returns what there was."""
    with storm.system.client("owner") as client:
        client.transport.post("/v1/webhooks", json={"url": "https://example.com/nobody"})
        first = client.models.register(make(storm.system.data_dir / "model"), name="first", options=EMBEDDING)
        client.jobs.wait(first)
        source = client.artifacts.get(first.model.artifact_id)
        marked = client.artifacts.upload(client.models.download(first.model.id, storm.system.data_dir / "marked.zip"))

        def submit() -> None:
            for number in range(jobs):
                if number % 10 == 0:
                    body = {"name": f"model {number}", "artifact_id": source.id, "options": EMBEDDING}
                    accepted[number] = insist(client, "/v1/models", body, f"job-{number}")
                else:
                    suspect = marked if number % 2 else source
                    body = {"model_id": first.model.id, "artifact_id": suspect.id}
                    accepted[number] = insist(client, "/v1/verifications", body, f"job-{number}")

        accepted: dict[int, dict[str, Any]] = {}
        submitting = threading.Thread(target=submit)
        submitting.start()
        start = time.monotonic()
        storm.rage(rounds)
        submitting.join()
        while not all(job.finished for job in client.jobs.list()):
            if time.monotonic() > start + patience:
                raise TimeoutError([job for job in client.jobs.list() if not job.finished])
            time.sleep(1)
        seconds = time.monotonic() - start
        attempts = check(storm, client, first, accepted)
    return {"jobs": len(accepted), "seconds": round(seconds), "attempts": attempts, "faults": storm.done}


def insist(client: Client, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    """Post until the answer comes; the key sees to it that it is done once."""
    while True:
        try:
            answer: dict[str, Any] = client.transport.post(path, json=body, idempotency_key=key).json()
            return answer
        except ClientError as error:
            if "Idempotency-Key was used" in str(error):
                raise
            time.sleep(0.5)


def check(storm: Storm, client: Client, first: Registration, accepted: dict[int, dict[str, Any]]) -> int:
    """One final state and one result for every job, every key, every object; returns how many attempts it took."""
    jobs = {job.id: job for job in client.jobs.list()}
    assert jobs.keys() == {first.job.id, *(answer["job"]["id"] for answer in accepted.values())}
    failed = [job for job in jobs.values() if job.state != "succeeded"]
    assert not failed, [(job, told(storm, job.id)) for job in failed]
    for number, answer in accepted.items():
        if "verification" in answer:
            verification = client.verifications.get(answer["verification"]["id"])
            assert verification.verdict == ("match" if number % 2 else "no-match")
            client.verifications.report(verification.id)
    ready = [first.model, *(client.models.get(answer["model"]["id"]) for answer in accepted.values() if "model" in answer)]
    secrets = {answer["model"]["id"]: answer["secret_key"] for answer in accepted.values() if "model" in answer}
    for model in ready:
        checkpoint = client.models.download(model.id, storm.system.data_dir / f"{model.id}.zip")
        assert sha256_file(checkpoint) == client.models.get(model.id).checkpoint.sha256
        checkpoint.unlink()
        # The secret of an answer that was lost on the way is shown to nobody; the service has it all the same.
        if secret := secrets.get(model.id) or (model.id == first.model.id and first.secret_key):
            assert OwnerKey.from_public(PublicKey.model_validate(client.models.public_key(model.id)), secret)
    with psycopg.connect(storm.postgres.url.replace("+psycopg", "")) as connection:
        bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM webhook_deliveries").fetchall()]
        keys = connection.execute("SELECT count(*) FROM owner_keys").fetchone()
        referred = connection.execute(
            "SELECT storage_key FROM artifacts UNION SELECT checkpoint_key FROM models WHERE checkpoint_key IS NOT NULL"
        ).fetchall()
    assert sorted(body["data"]["id"] for body in bodies) == sorted(jobs)  # one end each
    assert keys == (len(ready),)
    left_over(storm, {key for (key,) in referred})
    return sum(job.attempt for job in jobs.values())


def told(storm: Storm, job_id: str) -> list[str]:
    """What the workers' logs say of a job."""
    logs = [storm.system.log(name).splitlines() for name in storm.workers]
    return ["\n".join(log[at : at + 40]) for log in logs for at, line in enumerate(log) if job_id in line and "failed" in line]


def left_over(storm: Storm, referred: set[str]) -> None:
    """All that a row refers to is in storage, after the collection of garbage nothing else is, and no scratch folder stays."""
    settings = storm.system.settings
    names = {name.removeprefix("AIAO_").lower(): value for name, value in settings.items() if name.startswith("AIAO_")}
    context = Context.open(Settings(data_dir=storm.system.data_dir, **names))  # type: ignore[arg-type]
    try:
        collect(context, utc_now() + 2 * GRACE_PERIOD)
        assert {each.key for some in context.storage.list("") for each in some} == referred
        scratch = context.settings.scratch_dir
        # A job's end can be seen a moment before its folder goes.
        wait_for(lambda: remove_abandoned(scratch) or not list(scratch.iterdir()), "a scratch folder stays")
    finally:
        context.close()
