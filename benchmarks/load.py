"""Requests a second, time until an answer, and time until a job runs, on a database with a million jobs.

    python -m benchmarks.load [--jobs 1000000] [--models 100000] [--seconds 5] [--api-workers 2]

Real uvicorn workers on PostgreSQL, asked by wrk (Debian's package of that name), which shares the cores with them. Machines
differ, and one machine from day to day, by more than any change here: compare the ratios to a FastAPI application whose one
call answers a constant.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.dialects import postgresql

from aiao import Client
from demo_models.emoji.data import MODEL
from service.artifacts.repository import ArtifactRepository
from service.audits.repository import AuditRepository
from service.jobs.repository import JobRepository
from service.kit.database import Database
from service.kit.ids import new_id
from service.kit.repository import TenantRepository
from service.kit.schemas import Paging
from service.models.repository import ModelRepository
from service.processes.embedded import CONNECTION
from service.verifications.repository import VerificationRepository
from tests.support.databases import postgres_database
from tests.support.processes import System, private_redis, system, wait_for
from tests.support.storm import EMBEDDING

CONNECTIONS = 16
DISPATCHED = 20
WORKERS = 4
RUNS = 5

FILL = """
INSERT INTO jobs (id, tenant_id, kind, subject_id, state, attempt, rung_at, cancel_requested, created_at, finished_at)
SELECT 'job_' || lpad(n::text, 26, '0'), '{tenant}', (ARRAY['embed','verify','audit'])[1 + n % 3], 'x',
       CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'succeeded' END, 1, now(), false, now(), now()
FROM generate_series(1, {jobs}) n;
INSERT INTO artifacts (id, tenant_id, filename, sha256, size, kind, storage_key, created_at)
SELECT 'art_' || lpad(n::text, 26, '0'), '{tenant}', 'model.zip', md5(n::text) || md5(n::text), 1, 'archive', 'a' || n, now()
FROM generate_series(1, {models}) n;
INSERT INTO models (id, tenant_id, name, status, artifact_id, options, job_id, created_at)
SELECT 'mdl_' || lpad(n::text, 26, '0'), '{tenant}', 'model', CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'ready' END,
       'art_' || lpad(n::text, 26, '0'), '{{}}', 'job_' || lpad(n::text, 26, '0'), now()
FROM generate_series(1, {models}) n;
INSERT INTO owner_keys (id, tenant_id, model_id, commitment, created_at)
SELECT 'key_' || lpad(n::text, 26, '0'), '{tenant}', 'mdl_' || lpad(n::text, 26, '0'), 'sha256:' || md5(n::text), now()
FROM generate_series(1, {models}) n;
INSERT INTO verifications (id, tenant_id, model_id, artifact_id, suspect_name, options, verdict, job_id, created_at)
SELECT 'ver_' || lpad(n::text, 26, '0'), '{tenant}', 'mdl_' || lpad(n::text, 26, '0'), 'art_' || lpad(n::text, 26, '0'),
       'a.zip', '{{}}', CASE WHEN n % 1000 = 0 THEN 'match' ELSE 'no-match' END, 'job_' || lpad(n::text, 26, '0'), now()
FROM generate_series(1, {models}) n;
INSERT INTO audits (id, tenant_id, model_id, preset, options, results, job_id, created_at)
SELECT 'aud_' || lpad(n::text, 26, '0'), '{tenant}', 'mdl_' || lpad(n::text, 26, '0'), 'quick', '{{}}', '{{}}',
       'job_' || lpad(n::text, 26, '0'), now()
FROM generate_series(1, {models}) n;
"""

SUBMIT = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("POST", "/v1/verifications", nil, '{"model_id": "%s", "artifact_id": "%s"}')
end
wrk.headers["Content-Type"] = "application/json"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--api-workers", type=int, default=2)
    chosen = parser.parse_args()
    with crowded(chosen.jobs, chosen.models) as (running, token, url):
        print(f"{chosen.jobs:,} jobs, {chosen.models:,} models; {chosen.api_workers} API processes, {CONNECTIONS} connections")
        plans(url)
        headers = {"Authorization": f"Bearer {token}"}
        serve(running, "benchmarks.load:constant", chosen.api_workers)
        reference = wrk(running, "/readyz", {}, chosen.seconds)
        print(f"a FastAPI application that answers a constant: {reference}")
        serve(running, "service.app:create_app", chosen.api_workers)
        middle = f"{chosen.jobs // 2:026}"
        for name, path in {
            "poll a job": f"/v1/jobs/job_{middle}",
            "list jobs": "/v1/jobs?limit=50",
            "list failed jobs": "/v1/jobs?state=failed&limit=50",
            "list models": "/v1/models?limit=50",
        }.items():
            assert httpx.get(running.url + path, headers=headers).status_code == 200
            answers = wrk(running, path, headers, chosen.seconds)
            print(f"{name}: {answers}; {answers.rate / reference.rate:.2f} of the constant's")
        script = SUBMIT % (f"mdl_{1:026}", f"art_{1:026}")
        answers = wrk(running, "/", headers, chosen.seconds, script)
        print(f"submit a suspect: {answers}; {answers.rate / reference.rate:.2f} of the constant's")
    dispatch()


def constant() -> FastAPI:
    """What the machine and the framework can do."""
    app = FastAPI()

    @app.get("/readyz")
    def answer() -> dict[str, str]:
        return {"state": "running"}

    return app


def serve(running: System, factory: str, processes: int) -> None:
    """That application instead of the one before."""
    running.processes["api"].terminate()
    running.processes["api"].wait()
    port = running.settings["AIAO_PORT"]
    server = ("uvicorn", "--factory", factory, "--http", CONNECTION, "--no-access-log")
    running.start("api", *server, "--port", port, "--workers", str(processes))
    wait_for(lambda: httpx.get(f"{running.url}/readyz", timeout=30).is_success, "the API is not ready")


@contextmanager
def crowded(jobs: int, models: int) -> Iterator[tuple[System, str, str]]:
    """The API on a full database, a token, and the database's URL."""
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres_database() as url,
        private_redis() as broker,
        system(Path(folder), database_url=url, broker_url=broker, AIAO_QUEUE="nobody", AIAO_MAX_UNFINISHED_JOBS="0") as running,
    ):
        token = running.token("crowded")
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            tenant = connection.execute("SELECT id FROM tenants").fetchone()
            assert tenant
            for statement in FILL.format(tenant=tenant[0], jobs=jobs, models=models).split(";\n")[:-1]:
                connection.execute(statement)
            connection.execute("VACUUM ANALYZE")
        yield running, token, url


def plans(url: str) -> None:
    """How PostgreSQL finds the page of each list: by which index."""
    lists: list[tuple[type[TenantRepository], dict[str, str]]] = [
        (JobRepository, {}), (JobRepository, {"state": "running"}), (JobRepository, {"kind": "audit"}), (ModelRepository, {}),
        (ModelRepository, {"status": "failed"}), (VerificationRepository, {}), (VerificationRepository, {"verdict": "match"}),
        (VerificationRepository, {"model_id": f"mdl_{7:026}"}), (AuditRepository, {"model_id": f"mdl_{7:026}"}),
        (ArtifactRepository, {}), (ArtifactRepository, {"sha256": "0" * 64}),
    ]  # fmt: skip
    database = Database(url)
    with database.session() as session:
        tenant = session.scalar(text("SELECT id FROM tenants"))
        for repository, filters in lists:
            query = repository(session, tenant).query(Paging(50, None), **filters)
            sql = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
            plan = "\n".join(session.scalars(text(f"EXPLAIN {sql}")))
            scans = re.findall(r"(Index(?: Only)? Scan(?: Backward)?|Bitmap Index Scan|Seq Scan)(?: using| on) (\w+)", plan)
            print(f"list of {repository.noun}s {filters or ''}: {'; '.join(' '.join(scan) for scan in scans)}")
            assert "Seq Scan" not in plan, plan
    database.dispose()


@dataclass(frozen=True)
class Answers:
    """Requests a second of each run; medians over the runs of the times until an answer, in ms; how many failed."""

    rates: list[float]
    half: float
    most: float
    refused: int

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def __str__(self) -> str:
        told = f"{self.rate:.0f} requests/s ({min(self.rates):.0f} to {max(self.rates):.0f})"
        return f"{told}, p50 {self.half:.0f} ms, p99 {self.most:.0f} ms" + (f", {self.refused} REFUSED" if self.refused else "")


def wrk(running: System, path: str, headers: dict[str, str], seconds: int, script: str = "") -> Answers:
    """Ask as fast as the answers come.

    The connections of a run are spread over the API's processes by chance: all of them may meet the same one.
    """
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s", "--latency"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        if script:
            file.write(script)
            file.flush()
            command += ["--script", file.name]
        for name, value in headers.items():
            command += ["--header", f"{name}: {value}"]
        command.append(running.url + path)
        told = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(RUNS)]
    rates = [float(rate) for rate in re.findall(r"Requests/sec:\s+([\d.]+)", "".join(told))]
    half, most = (statistics.median(milliseconds(run, percentile) for run in told) for percentile in (50, 99))
    refused = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", "".join(told)))
    return Answers(rates, half, most, refused)


def milliseconds(told: str, percentile: int) -> float:
    found = re.search(rf"\b{percentile}%\s+([\d.]+)(us|ms|s)\b", told)
    assert found, told
    return float(found[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[found[2]]


def dispatch() -> None:
    """From the answer 202 to the state running, with idle workers."""
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres_database() as url,
        private_redis() as broker,
        system(Path(folder), database_url=url, broker_url=broker, AIAO_QUEUE=new_id("load"), OMP_NUM_THREADS="1") as running,
        running.client() as client,
    ):
        for number in range(WORKERS):
            running.start_worker(f"worker-{number}")
        waits = [wait.total_seconds() for wait in dispatched(client)]
    quantiles = statistics.quantiles(waits, n=20)
    print(
        f"202 to running, {WORKERS} workers, {len(waits)} jobs: p50 {statistics.median(waits):.3f} s, p95 {quantiles[-1]:.3f} s"
    )


def dispatched(client: Client) -> Iterator[timedelta]:
    registration = client.models.register(MODEL, name="emoji", options=EMBEDDING)
    client.jobs.wait(registration)
    suspect = client.artifacts.get(registration.model.artifact_id)
    body = {"model_id": registration.model.id, "artifact_id": suspect.id}
    for number in range(WORKERS + DISPATCHED):
        job_id = client.transport.post("/v1/verifications", json=body).json()["job"]["id"]
        job = client.jobs.wait(job_id)
        if number >= WORKERS:  # the first one of each worker imports torch
            yield job.started_at - job.created_at


if __name__ == "__main__":
    main()
