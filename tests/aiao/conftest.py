import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from aiao import Client
from aiao._cli.main import main
from service.context import Context
from service.kit.ids import new_id
from service.models.service import Checkpoint
from service.tables.jobs import Job
from tests.support import rows
from tests.support.processes import System

AIAO = str(Path(sys.executable).with_name("aiao"))


class Shell:
    """Somebody who types commands, in a folder and with an environment of their own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIAO_") and name != "COLUMNS"}
        self.folder = folder
        self.environment = kept | {"AIAO_CONFIG_FILE": str(folder / "config.toml"), "OMP_NUM_THREADS": "1"} | variables

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command without a terminal, as a script does."""
        return subprocess.Popen(
            [AIAO, *arguments], cwd=self.folder, env=self.environment, start_new_session=True, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def aiao(self, *arguments: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must have this exit status; whatever happens, nobody sees a traceback."""
        process = self.start(*arguments)
        out, err = process.communicate(stdin, timeout=120)
        assert process.returncode == status, f"exit status {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, status, out, err)

    def json(self, *arguments: str):
        """Run a command with --json and read what it printed."""
        return json.loads(self.aiao(*arguments, "--json").stdout)

    def error(self, *arguments: str, stdin: str = "") -> str:
        """The sentence of a command that is refused."""
        done = self.aiao(*arguments, status=2, stdin=stdin)
        assert not done.stdout
        sentence = done.stderr.splitlines()[-1]  # perhaps after what was left of a progress bar
        assert sentence.startswith("error: ")
        return sentence


def run(monkeypatch, *arguments: str) -> int:
    """Run a command in this process, which saves a second, and return its exit status."""
    monkeypatch.setattr("sys.argv", ["aiao", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


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
def user(api: System, token: str, tmp_path: Path) -> Shell:
    """A user of the API: the same tenant as ``client``."""
    return Shell(tmp_path, AIAO_URL=api.url, AIAO_TOKEN=token)


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
