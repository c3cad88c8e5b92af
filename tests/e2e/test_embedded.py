"""`aiao up` and the command line, as a user meets them: one command, no set-up, nothing left behind."""

import base64
import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiao._client.config import load_config
from tests.support.inherited import Asked
from tests.support.places import PROJECT
from tests.support.processes import free_port, wait_for
from tests.support.shell import AIAO, Shell
from tests.support.small_model import EMBEDDING

SECRETS = {
    "AIAO_FORMER_KEY_ENCRYPTION_KEYS": base64.b64encode(bytes(32)).decode(),
    "AWS_SECRET_ACCESS_KEY": "storage-of-the-user",
    "HF_TOKEN": "hf_of-the-user",
}


class Up(Shell):
    """A running `aiao up` with a data folder and a configuration file of its own, and its user."""

    def __init__(self, folder: Path) -> None:
        # The data folder is also a mark by which its processes are found.
        self.asked = Asked(folder / "asked")
        super().__init__(folder, NO_COLOR="1", AIAO_HEARTBEAT_SECONDS="0.5", **SECRETS, **self.asked.variables)
        self.config = folder / "config.toml"
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def up(self) -> None:
        command = [AIAO, "up", "--port", str(free_port()), "--data-dir", str(self.folder / "data")]
        with (self.folder / "output.txt").open("wb") as output:
            self.running = subprocess.Popen(
                command, cwd=PROJECT, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        wait_for(lambda: self.running.poll() is not None or "Stop: Ctrl-C" in self.output, "aiao up says nothing")

    def interrupt(self) -> int:
        """Ctrl-C, and the exit status."""
        self.running.send_signal(signal.SIGINT)
        return self.running.wait(60)

    def processes(self) -> list[str]:
        """Command lines of all processes that know this data folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue  # gone meanwhile, or not ours
            if f"{self.folder}/data".encode() in known:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@pytest.fixture(scope="module")
def up(tmp_path_factory) -> Iterator[Up]:
    user = Up(tmp_path_factory.mktemp("up"))
    user.up()
    yield user
    if user.running.poll() is None:
        user.interrupt()


@pytest.fixture(scope="module")
def model_id(up, source) -> str:
    options = [argument for name, value in EMBEDDING.items() for argument in ("--option", f"{name}={value}")]
    return up.json("models", "register", str(source), "--name", "small", *options)["id"]


def test_no_part_passes_a_secret_on(up):
    """The private Redis does not get one at all."""
    parts = {"service.processes.embedded": 1, "uvicorn": 1, "-m worker": 2, "processes.reaper": 1, "processes.courier": 1}
    told = up.asked.answers(parts)
    redis = next(entry for entry in Path("/proc").glob("[0-9]*") if f"{up.folder}/data/redis.sock" in command_of(entry))
    environments = [*told.values(), (redis / "environ").read_text()]
    assert [secret for secret in SECRETS.values() for environment in environments if secret in environment] == []
    assert all(str(up.folder) in environment for environment in told.values())


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:  # gone meanwhile
        return ""


def test_up_says_where_it_listens_and_how_to_use_it(up):
    config = load_config(up.config)
    assert f"AIAO is listening on {config.url}" in up.output
    assert "aiao models register" in up.output
    assert stat.S_IMODE(up.config.stat().st_mode) == 0o600
    assert config.token not in up.output
    vault_key = up.folder / "data" / "key-encryption-key"
    assert stat.S_IMODE(vault_key.stat().st_mode) == 0o600
    assert any("redis-server" in process for process in up.processes())


def test_a_second_up_on_the_same_port_says_so(up):
    port = load_config(up.config).url.rpartition(":")[2]
    done = up.process("up", "--port", port, "--data-dir", str(up.folder / "other"), status=1)
    assert f"port {port} of 127.0.0.1 cannot be used" in done.stderr


@pytest.mark.slow
def test_a_second_up_on_the_same_folder_leaves_the_first_alone(up):
    """Another port, as the refusal above advises, does not help: socket and configuration are the first one's."""
    files = [up.config, up.folder / "data" / "up.lock", up.folder / "data" / "redis.sock"]

    def state() -> list[tuple[int, int]]:
        return [(found.st_ino, found.st_mtime_ns) for found in (path.stat() for path in files)]

    before, url = state(), load_config(up.config).url
    done = up.process("up", "--port", str(free_port()), "--data-dir", str(up.folder / "data"), status=1)
    assert done.stderr == (
        f"aiao: AIAO is already running on the data folder {up.folder}/data: process {up.running.pid}, {url}; "
        "use it, or stop it first\n"
    )
    assert state() == before
    up.process("models", "list")


def test_register_saves_a_complete_key_file(up, model_id):
    key_file = up.folder / "small.key.json"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    shown = up.json("models", "show", model_id)
    assert up.json("key", "check", str(key_file)) == {"valid": True, "commitment": shown["commitment"]}
    assert shown["status"] == "ready"


def test_verify_exits_with_its_verdict(up, source, model_id):
    up.aiao("models", "download", model_id, "--to", "marked.zip")
    report = up.json("verify", "--model", model_id, "marked.zip")
    assert report["verdict"] == "match"

    repeated = up.json("verify", "--offline", "--key", "small.key.json", "--source", str(source), "marked.zip")
    same = ("verdict", "decoys", "subpaths", "seed", "suspect_weights", "source_weights")
    assert {name: repeated[name] for name in same} == {name: report[name] for name in same}
    assert [way["test"] for way in repeated["ways"]] == [way["test"] for way in report["ways"]]

    innocent = up.aiao("verify", "--model", model_id, str(source), status=1)
    assert "NO MATCH" in innocent.stdout

    (up.folder / "text.safetensors").write_text("no weights")
    broken = up.aiao("verify", "--model", model_id, "text.safetensors", status=2)
    assert "a short text" in broken.stderr


def test_verify_and_report_for_people(up, model_id):
    done = up.process("verify", "--model", model_id, "--report", "report.html", "marked.zip")
    assert "MATCH" in done.stdout
    assert "log10 p " in done.stdout
    assert "aiao.report" not in done.stdout
    assert (up.folder / "report.html").read_text().startswith("<!doctype html>")
    verification = re.search(r"ver_\w+", done.stdout).group()
    shown = up.json("report", verification)
    assert shown["format"] == "aiao.report"
    up.aiao("report", verification, "--to", "again.json")
    assert json.loads((up.folder / "again.json").read_text()) == shown


def test_jobs_are_listed_and_watched(up, model_id):
    embed = next(job for job in up.json("jobs", "list") if job["kind"] == "embed")
    assert embed["subject_id"] == model_id
    watched = up.aiao("jobs", "watch", embed["id"])
    assert f"{embed['id']} has succeeded: /v1/models/{model_id}" in watched.stdout
    again = up.aiao("jobs", "cancel", embed["id"])
    assert "is succeeded" in again.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_the_next_start_knows_everything_and_goes_on_with_the_embedding(up, source, model_id):
    """From its last checkpoint."""
    token = load_config(up.config).token
    # So many steps that no machine ends it in the seconds for which a stopping worker is waited for.
    started = up.json(
        "models", "register", str(source), "--name", "second", "--no-wait", "--option", "steps=100000",
        "--option", "batch_size=8", "--option", "samples=8", "--option", "probe_steps=1",
        "--option", "checkpoint_every=5", "--option", "layers=12",
    )  # fmt: skip
    job_id = started["job_id"]

    def steps() -> int:
        job = next(job for job in up.json("jobs", "list") if job["id"] == job_id)
        return job["progress"]["step"] if job["progress"] and job["progress"]["stage"] == "embedding" else 0

    wait_for(lambda: steps() >= 10, "the embedding does not get going", 120)
    before = steps()
    assert len(up.processes()) > 3
    assert up.interrupt() == 0
    assert "AIAO has stopped." in up.output
    assert up.processes() == []

    up.up()
    assert load_config(up.config).token == token
    assert [model["id"] for model in up.json("models", "list")] == [started["id"], model_id]
    seen = [steps()]  # of the first attempt still, until the second has made a step
    wait_for(lambda: seen.append(steps()) or seen[-1] > seen[0], "the embedding does not go on", 180)
    assert min(step for step in seen if step) >= before - before % 5
    up.aiao("jobs", "cancel", job_id)


@pytest.mark.slow
def test_up_outlives_the_death_of_a_part(up):
    """A worker that dies is started again."""
    worker = next(
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if b"\0-m\0worker\0" in (entry / "cmdline").read_bytes()
        and f"{up.folder}/data".encode() in (entry / "environ").read_bytes()
    )
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: "the worker died" in up.output, "nobody notices")
    wait_for(lambda: sum("-m worker " in process for process in up.processes()) >= 2, "the worker does not come back")
