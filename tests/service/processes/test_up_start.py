"""What `aiao up` refuses before it starts anything: missing packages, and a data folder that another process has."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.processes.embedded import WORKER_MODULES
from service.processes.folder_lock import LOCK_FILE, FolderInUse, FolderLock
from tests.support.places import PROJECT
from tests.support.processes import free_port

pytestmark = pytest.mark.process

UP = {
    "aiao": [str(Path(sys.executable).with_name("aiao")), "up"],
    "module": [sys.executable, "-m", "service.processes.embedded"],
}

HOLD = """
import sys, time
from pathlib import Path
from service.processes.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.tell("running", "http://127.0.0.1:1")
print("held", flush=True)
time.sleep(600)
"""


def up(folder: Path, command: list[str] = UP["module"], **variables: str) -> subprocess.CompletedProcess[str]:
    """Start the embedded system on ``folder``/data, which must end at once."""
    places = {"AIAO_DATA_DIR": str(folder / "data"), "AIAO_CONFIG_FILE": str(folder / "config.toml")}
    return subprocess.run(
        command, cwd=PROJECT, env=os.environ | places | {"AIAO_PORT": str(free_port())} | variables,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def hide(folder: Path, *modules: str) -> str:
    """A folder for PYTHONPATH with which a process cannot import these."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
""")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", UP.values(), ids=list(UP))
def test_without_torch_it_says_what_to_install_and_does_nothing(tmp_path, command):
    done = up(tmp_path, command, PYTHONPATH=hide(tmp_path / "hidden", "torch"))
    assert done.returncode == 2
    assert done.stderr == ("aiao: the worker cannot start without torch, not installed here; run: pip install 'aiao[torch]'\n")
    assert [path.name for path in tmp_path.iterdir()] == ["hidden"]


def test_everything_that_is_missing_is_named(tmp_path):
    done = up(tmp_path, PYTHONPATH=hide(tmp_path / "hidden", "torch", "peft", "PIL"))
    assert done.returncode == 2
    assert "without peft, PIL, torch, not installed here" in done.stderr


@pytest.mark.slow
def test_a_folder_that_is_merely_called_torch_is_not_torch(tmp_path):
    """Uninstalling leaves one where anything was added to it."""
    (tmp_path / "left" / "torch" / "__pycache__").mkdir(parents=True)
    script = (
        "import sys; from service.processes import embedded; sys.path[:] = sys.argv[1:]; sys.path_importer_cache.clear();"
        "print(embedded._is_installed('torch'), embedded._is_installed('json'))"
    )
    standard = str(Path(json.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "left"), standard], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.stdout == "False True\n", done.stderr


def test_every_package_of_the_extra_is_looked_for():
    extra = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["torch"]
    modules = {"pillow": "PIL"}
    names = [requirement.partition(">")[0].replace("-", "_") for requirement in extra]
    assert sorted(modules.get(name, name) for name in names) == sorted(WORKER_MODULES)


def test_a_second_start_during_the_first_says_so_and_changes_nothing(tmp_path):
    FolderLock(tmp_path / "data")
    content = (tmp_path / "data" / LOCK_FILE).read_text()
    done = up(tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"aiao: AIAO is already starting on the data folder {tmp_path}/data: process {os.getpid()}; "
        "it is not up yet, and will say where it listens\n"
    )
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["data", f"data/{LOCK_FILE}"]
    assert (tmp_path / "data" / LOCK_FILE).read_text() == content


def test_a_crash_gives_the_folder_free_and_what_it_wrote_counts_for_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(FolderInUse) as refused:
                FolderLock(tmp_path)
        finally:
            holder.send_signal(signal.SIGKILL)
    assert f"already running on the data folder {tmp_path}: process {holder.pid}, http://127.0.0.1:1;" in str(refused.value)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == holder.pid
    FolderLock(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text()) == {"state": "starting", "pid": os.getpid(), "url": ""}


def test_children_do_not_keep_the_folder(tmp_path):
    """What outlives a crash for a moment, as a worker does that hands its job back."""
    script = HOLD.replace("time.sleep(600)", "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)")
    done = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert done.stdout.readline() == "held\n"
    child = int(done.stdout.readline())
    try:
        assert done.wait(60) == 0
        FolderLock(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        done.stdout.close()


@pytest.mark.parametrize("content", ["", "not JSON", "[]", '{"state": "running"}'])
def test_a_lock_whose_holder_is_not_told_holds_all_the_same(tmp_path, content):
    FolderLock(tmp_path)
    (tmp_path / LOCK_FILE).write_text(content)
    with pytest.raises(FolderInUse, match=r"already running on the data folder .*: another process; use it, or stop it first"):
        FolderLock(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    done = up(tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"aiao: the data folder {tmp_path}/data cannot be used (File exists); name another one by AIAO_DATA_DIR\n"
    )
