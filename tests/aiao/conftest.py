import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from aiao import Client
from service.context import Context
from service.kit.ids import new_id
from service.models.service import Checkpoint
from service.tables.jobs import Job
from tests.support import rows
from tests.support.processes import System
from tests.support.shell import Shell


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, and no service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIAO_CONFIG_FILE", str(tmp_path / "config.toml"))
    for name in ("AIAO_URL", "AIAO_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A user for whom no service runs."""
    return Shell(tmp_path)


@pytest.fixture
def token(backstage: Context) -> str:
    """A token of a new tenant, who has nothing yet."""
    return rows.token(backstage.database)


@pytest.fixture
def client(api: System, token: str) -> Iterator[Client]:
    with Client(api.url, token) as client:
        yield client


@pytest.fixture
def user(api: System, token: str, client: Client, tmp_path: Path) -> Iterator[Shell]:
    """A user of the API: the same tenant as ``client``."""
    shell = Shell(tmp_path, AIAO_URL=api.url, AIAO_TOKEN=token)
    yield shell
    shell.end(client)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the API takes for a pipeline folder; only a worker would look inside."""
    folder = tmp_path / "my model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def suspect(tmp_path: Path) -> Path:
    """What the API takes for a suspect."""
    path = tmp_path / "suspect.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("unet/config.json", "{}")
    return path


@pytest.fixture
def change(backstage: Context) -> Callable[..., None]:
    """Sets columns of a job, as a worker or the reaper would."""

    def change(job_id: str, **values: object) -> None:
        with backstage.database.session() as session:
            job = session.get(Job, job_id)
            for name, value in values.items():
                setattr(job, name, value)

    return change


@pytest.fixture
def publish(backstage: Context, tmp_path: Path) -> Callable[..., None]:
    """Finishes an embedding with these bytes as the watermarked checkpoint."""

    def publish(model_id: str, secret: str, content: bytes = b"checkpoint" * 100_000) -> str:
        file = tmp_path / new_id("chk")
        file.write_bytes(content)
        key = f"checkpoints/{model_id}.zip"
        backstage.storage.put(key, file)
        checkpoint = Checkpoint(object_name=key, sha256=sha256(content).hexdigest(), size=len(content))
        rows.finish_embedding(backstage, model_id, secret, checkpoint)
        return key

    return publish
