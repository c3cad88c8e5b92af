"""Whatever process comes first, data folder and database are their user's alone."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.context import Context
from service.settings import Settings
from tests.support.places import PROJECT
from tests.support.processes import free_port, stop, wait_for

API = ("uvicorn", "--factory", "service.app:create_app", "--port")


@pytest.fixture(autouse=True)
def as_usual():
    """The mask of most systems, under which everybody may read new files; other tests' processes have another already."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Of all files and folders that others than their owner may use."""
    every = [folder, *folder.rglob("*")]
    return {str(path): path.lstat().st_mode & 0o777 for path in every if path.lstat().st_mode & 0o077 and not path.is_socket()}


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    [
        ("service.admin", "migrate"),
        ("service.admin", "rotate-kek"),
        ("alembic", "upgrade", "head"),
        ("service.processes.reaper",),
        ("service.processes.courier",),
        API,
    ],
)
def test_whatever_comes_first_its_files_are_private(tmp_path, redis_url, command):
    data = tmp_path / "new" / "data"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIAO_")}
    environment |= {"AIAO_DATA_DIR": str(data), "AIAO_BROKER_URL": redis_url}
    port = str(free_port())
    if command is API:
        command = (*API, port)
    if command[0] == "alembic":
        data.mkdir(parents=True, mode=0o700)  # which it does not make
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True,
            umask=0o022,
        )  # fmt: skip
        try:
            if command[0] in ("service.admin", "alembic"):
                process.wait(60)
            elif command[0] == "uvicorn":
                wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30), "the API does not answer")
            wait_for((data / "aiao.sqlite").exists, "nothing was made")
        finally:
            stop(process)
    assert (data / "aiao.sqlite").exists(), (tmp_path / "log").read_text()
    assert modes(data) == {}


@pytest.mark.process
def test_a_workers_files_are_private(tmp_path):
    print_it = "import os; import worker.app; print(oct(os.umask(0)))"
    environment = os.environ | {"AIAO_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", print_it]
    done = subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True, umask=0o022)
    assert done.stdout.strip() == "0o77"


def test_what_an_earlier_version_left_open_is_closed_to_others_and_the_folder_stays_as_it_is(tmp_path):
    data = tmp_path / "data"
    for folder in (data, data / "storage", data / "scratch"):
        folder.mkdir()
    (data / "aiao.sqlite").touch()
    (data / "of the operator").touch()
    data.chmod(0o1777)
    assert modes(data).keys() >= {str(data / "aiao.sqlite"), str(data / "storage")}
    Context.open(Settings(data_dir=data)).close()
    assert data.stat().st_mode & 0o7777 == 0o1777
    assert (data / "of the operator").stat().st_mode & 0o777 == 0o644
    assert (data / "aiao.sqlite").stat().st_mode & 0o777 == 0o640
    assert (data / "storage").stat().st_mode & 0o777 == (data / "scratch").stat().st_mode & 0o777 == 0o750
