"""Secrets: every process takes them from files or variables, and nothing that it starts inherits them."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.settings import SECRET_NAMES
from tests.support import small_model
from tests.support.databases import postgres_database
from tests.support.inherited import Asked
from tests.support.places import PROJECT
from tests.support.processes import TICKING, System, free_port, private_redis

KEY, FORMER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
OF_NO_USE = {"HF_TOKEN": "hf_of-the-operator", "AIAO_TOKEN": "aiao_of-the-operator", "vault_token": "hvs.in-small-letters"}
LISTED = """
import subprocess
from service.admin import app

app(["tenants", "list"], standalone_mode=False)
subprocess.run(["env"])
"""
"""The operator's command line, and then a program that it starts."""


@dataclass
class Served(System):
    """A system whose secrets are given in one of two ways."""

    secrets: dict[str, str] = field(default_factory=dict)
    asked: Asked | None = None

    @property
    def environment(self) -> dict[str, str]:
        given = super().environment | OF_NO_USE | self.asked.variables
        if "AIAO_SECRETS_DIR" in given:
            return {name: value for name, value in given.items() if name not in self.secrets}
        return given | self.secrets

    def leaks(self, environment: str) -> list[str]:
        """The names of the secrets whose values are in it."""
        return [name for name, value in (self.secrets | OF_NO_USE).items() if value in environment]


@pytest.fixture(scope="module", params=[pytest.param("variables", marks=pytest.mark.slow), "files"])
def served(request, tmp_path_factory, bucket) -> Iterator[Served]:
    """API, reaper, courier and a worker on PostgreSQL, Redis and S3."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    with postgres_database() as database, private_redis() as broker:
        of_store = {name: bucket.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        secrets = {
            "AIAO_DATABASE_URL": database, "AIAO_BROKER_URL": broker,
            "AIAO_KEY_ENCRYPTION_KEY": KEY, "AIAO_FORMER_KEY_ENCRYPTION_KEYS": FORMER, **of_store,
        }  # fmt: skip
        settings = bucket.environment | {"AIAO_STORAGE_URL": bucket.url, "AIAO_PORT": str(free_port())}
        if request.param == "files":
            # As Kubernetes does it: each name is a link to a file in a folder that is a link too.
            (folder / "secrets" / "..today").mkdir(parents=True)
            (folder / "secrets" / "..data").symlink_to("..today")
            for name, value in secrets.items():
                (folder / "secrets" / "..today" / name).write_text(value + "\n")
                (folder / "secrets" / name).symlink_to(f"..data/{name}")
            settings["AIAO_SECRETS_DIR"] = str(folder / "secrets")
        running = Served(folder, settings | {"AIAO_DATABASE_URL": database}, secrets=secrets, asked=Asked(folder / "asked"))
        try:
            running.start_api()
            running.start_reaper()
            running.start("courier", "service.processes.courier")
            running.start_worker(app=TICKING)
            yield running
        finally:
            running.stop()


def test_a_system_works_with_its_secrets(served, tmp_path):
    with served.client() as client:
        registration = client.models.register(small_model.make(tmp_path / "model"), name="small", options=small_model.EMBEDDING)
        client.jobs.wait(registration)
        assert client.models.get(registration.model.id).status == "ready"
    assert not (served.data_dir / "key-encryption-key").exists()
    assert not (served.data_dir / "storage").exists()


def test_nothing_that_a_process_starts_inherits_a_secret(served):
    told = served.asked.answers({"uvicorn": 1, "reaper": 1, "courier": 1, "celery": 2})  # Celery's second runs the jobs
    assert {command: served.leaks(environment) for command, environment in told.items()} == {command: [] for command in told}
    assert all(served.settings["AIAO_STORAGE_URL"] in environment for environment in told.values())


def test_the_operators_command_line_takes_them_in_the_same_way(served):
    done = subprocess.run([sys.executable, "-c", LISTED], cwd=PROJECT, env=served.environment, capture_output=True, text=True)
    assert "default" in done.stdout.splitlines()[0], done.stderr
    assert "AIAO_STORAGE_URL" in done.stdout
    assert served.leaks(done.stdout) == []


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc")
@pytest.mark.skipif(os.getuid() != 0, reason="only root reads it: the processes hide")
def test_secrets_in_files_were_never_in_an_environment(served):
    if "AIAO_SECRETS_DIR" not in served.settings:
        pytest.skip("of files")
    first = [environment for number in served.processes.values() if (environment := first_environment(number.pid))]
    assert len(first) == 4
    assert {name for environment in first for name in served.leaks(environment)} <= set(OF_NO_USE)


def first_environment(number: int) -> str:
    return Path(f"/proc/{number}/environ").read_text()


@pytest.mark.parametrize("wrong", ["an empty file", "a folder", "no folder of secrets", "a link out"])
def test_a_secret_that_cannot_be_read_ends_the_start(tmp_path, wrong):
    """Or the process would go on with a database of its own, or make another key."""
    folder, environment = tmp_path / "secrets", {name: value for name, value in os.environ.items() if name not in SECRET_NAMES}
    match wrong:
        case "an empty file":
            folder.mkdir()
            (folder / "AIAO_DATABASE_URL").write_text("\n")
        case "a folder":
            (folder / "AIAO_DATABASE_URL").mkdir(parents=True)
        case "a link out":
            folder.mkdir()
            (tmp_path / "url").write_text("sqlite:///elsewhere")
            (folder / "AIAO_DATABASE_URL").symlink_to(tmp_path / "url")
    environment |= {"AIAO_DATA_DIR": str(tmp_path / "data"), "AIAO_SECRETS_DIR": str(folder)}
    command = [sys.executable, "-m", "service.admin", "migrate"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
