import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import NoReturn

# As the worker does, and before torch is imported: API, worker and tests share two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # `make test` runs more processes than there are cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from aiao import Client
from aiao._client.documents import Registration
from service.context import Context
from service.kit import telemetry
from service.kit.credentials import Credentials
from service.settings import Settings
from tests.support import small_model, stores
from tests.support.collector import Collector, collector
from tests.support.databases import postgres_database
from tests.support.hub import Hub, hub
from tests.support.processes import MAX_UNPACKED_BYTES, System, free_port, private_redis, system

# A shell starts what it runs in the background with Ctrl-C ignored; the processes that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: a red CI must be a change of this project, and a new example is found on purpose.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


STARTS_PROCESSES = {"redis_url", "apis", "bucket", "production", "kms", "gcs", "azure"}
"""Fixtures, of which every other one that starts a process is made."""

OF_A_MARK = {"run_folder", "tiny_key", "old_marked", "owned", "tested"}
"""Fixtures of a key or a mark in a model, on which every other one is made: tests with these compute for a second or more."""

SIMPLEST = "unconditional"
"""The family that stands for all others in `make check`."""

REPRESENTATIVE = {SIMPLEST, "SD", "FLUX"}
"""Families that stand for the others in `make test`: a UNet, one with a text, and a transformer of a flow."""

LONGEST = ("e2e", "worker", "false_accusations", "benchmarks", "aiao_core")
"""Folders, longest files first."""


def pytest_xdist_auto_num_workers() -> int:
    """Start one process more than there are cores: one of them often waits for what it has started."""
    return min(4, (os.cpu_count() or 1) + 1)


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they use, and keep each file in one process of a run, where its fixtures are made once.

    All tests of the production system are in one process too.

    The longest files come first: what runs last should be short, or one process ends long after the others.
    """
    for item in items:
        databases = _databases(item)
        if STARTS_PROCESSES & set(item.fixturenames) or "postgresql" in databases or "e2e" in item.path.parts:
            item.add_marker("process")
        if "sqlite" in databases and item.get_closest_marker("dialect") is None:
            item.add_marker("slow")
        if _families(item) - REPRESENTATIVE:
            item.add_marker("slow")
        if OF_A_MARK & set(item.fixturenames) or _families(item) - {SIMPLEST}:
            item.add_marker("long")
        if item.get_closest_marker("xdist_group") is None:
            group = "production" if "production" in item.fixturenames else item.location[0]
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: next((place for place, name in enumerate(LONGEST) if name in item.path.parts), len(LONGEST)))


def _databases(item: pytest.Item) -> set[object]:
    """The kinds of database on which this run of the test is."""
    return {_parameters(item).get("api"), _parameters(item).get("database_url")}


def _families(item: pytest.Item) -> set[str]:
    """The families of models of which this run of the test is."""
    from tests.support.families import (
        CONFIGURATIONS,  # with torch and diffusers, which the first process of a run can do without
    )

    return {value for value in _parameters(item).values() if isinstance(value, str)} & set(CONFIGURATIONS)


def _parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


@pytest.fixture(autouse=True)
def no_process(request, monkeypatch) -> None:
    """`make check` runs the tests that start no process: one that does must be marked so."""
    if request.node.get_closest_marker("process") is None:

        def refuse(*_: object, **__: object) -> NoReturn:
            pytest.fail("this test starts a process: mark it with @pytest.mark.process")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A folder that all processes of a run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with private_redis() as url:
        yield url


@pytest.fixture(scope="session")
def bucket(tmp_path_factory) -> Iterator[stores.Store]:
    """An S3 bucket."""
    with stores.s3(tmp_path_factory.mktemp("bucket")) as store:
        yield store


@pytest.fixture(scope="session")
def apis(tmp_path_factory, redis_url) -> Iterator[Callable[[str], System]]:
    """The API on a database of this kind, without a worker: jobs stay queued. It starts when it is first asked for."""
    with ExitStack() as running:

        @cache
        def on(kind: str) -> System:
            folder, settings = tmp_path_factory.mktemp(f"api-{kind}"), {"AIAO_QUEUE": f"nobody-{kind}"}
            url = running.enter_context(postgres_database()) if kind == "postgresql" else ""
            settings["AIAO_MAX_UPLOAD_BYTES"] = str(8 << 20)
            return running.enter_context(system(folder, database_url=url, broker_url=redis_url, **settings))

        yield on


@pytest.fixture(scope="session", params=["postgresql", "sqlite"])
def api(request, apis) -> System:
    """The API on each database. Both go on until the end, for files of tests change between them."""
    return apis(request.param)


@pytest.fixture(scope="session")
def backstage(api: System) -> Iterator[Context]:
    """The database, storage and keys behind the API, to do what a worker would do."""
    settings = Settings(
        data_dir=api.data_dir,
        database_url=api.settings["AIAO_DATABASE_URL"],
        broker_url=api.settings["AIAO_BROKER_URL"],
        queue=api.settings["AIAO_QUEUE"],
    )
    context = Context.open(settings)
    yield context
    context.close()


@pytest.fixture(scope="session")
def our_hub(tmp_path_factory) -> Iterator[Hub]:
    """The Hugging Face hub of the production system's worker."""
    with hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def our_collector() -> Iterator[Collector]:
    """Where the production system sends its traces."""
    with collector() as running:
        yield running


@pytest.fixture
def sent(our_collector, monkeypatch) -> Iterator[Callable[[], Collector]]:
    """This process traces too; the call sends what it has so far. Ask for it before a database."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", our_collector.url)
    for name in ("_provider", "_tracer"):
        monkeypatch.setattr(telemetry, name, getattr(telemetry, name))  # put back at the end
    telemetry.configure("tests", Credentials())

    def send() -> Collector:
        telemetry._provider.force_flush()
        return our_collector

    yield send
    telemetry.close()


@pytest.fixture(scope="session")
def production(tmp_path_factory, our_hub, our_collector) -> Iterator[System]:
    """API, reaper and worker on PostgreSQL and Redis."""
    with (
        postgres_database() as database,
        private_redis() as broker,
        system(
            tmp_path_factory.mktemp("production"),
            database_url=database,
            broker_url=broker,
            AIAO_MAX_UNPACKED_BYTES=str(MAX_UNPACKED_BYTES),
            AIAO_LOG_FORMAT="json",
            AIAO_METRICS_PORT=str(free_port()),
            HF_ENDPOINT=our_hub.url,
            OTEL_EXPORTER_OTLP_ENDPOINT=our_collector.url,
            OTEL_BSP_SCHEDULE_DELAY="100",
        ) as running,
    ):
        running.start_worker()
        yield running


@pytest.fixture(scope="session")
def owner(production: System) -> Iterator[Client]:
    with production.client("owner") as client:
        yield client


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A small model's pipeline, as its owner trained it."""
    return small_model.make(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="session")
def registered(owner: Client, source: Path) -> Registration:
    """The small model with its watermark embedded, on the production system."""
    registration = owner.models.register(source, name="small", options=small_model.EMBEDDING)
    owner.jobs.wait(registration)
    return registration


@pytest.fixture(scope="session")
def marked(owner: Client, registered: Registration, tmp_path_factory) -> Path:
    """The watermarked checkpoint as .zip."""
    return owner.models.download(registered.model.id, tmp_path_factory.mktemp("marked") / "marked.zip")
