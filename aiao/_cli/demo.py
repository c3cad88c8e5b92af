"""The whole story on the shipped emoji model: register, embed, publish, steal, verify, and an innocent model."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aiao._cli.display import err, follow, out, print_table, transfer
from aiao._cli.server import python_module
from aiao._client import key_files as keyfile
from aiao._client.api import Client
from aiao._client.config import load_config
from aiao._client.errors import ClientError

START_SECONDS = 90
INSTALL = "'aiao[embedded]'"
"""What brings all that the demo needs."""


@dataclass(frozen=True)
class Effort:
    """How much each part of the story computes."""

    embedding: dict[str, Any]
    theft_steps: int
    innocent_steps: int
    innocent_batch: int


FULL = Effort({}, theft_steps=800, innocent_steps=300, innocent_batch=32)
QUICK = Effort({"steps": 80, "batch_size": 8, "samples": 32, "layers": 16}, theft_steps=40, innocent_steps=40, innocent_batch=8)


def run_demo(folder: Path, steps: int | None, *, quick: bool) -> None:
    """Run it and write the reports to ``folder``. Raises :class:`ClientError` if a verdict is not the expected one."""
    command = python_module("service.processes.embedded", install=INSTALL)
    effort = QUICK if quick else FULL
    if steps:
        effort = replace(effort, embedding=effort.embedding | {"steps": steps})
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aiao-demo-") as temporary:
        scratch = Path(temporary)
        with _system(command, scratch) as client:
            rows = _story(client, scratch, folder, effort)
    out.print()
    print_table(["suspect", "verdict", "log10 p", "VS-rate", "RS-rate", "report"], rows)
    out.print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Open the reports in {folder.resolve()}")
    if [row[1] for row in rows] != ["match", "match", "no-match"]:
        raise ClientError("a verdict is not the expected one; please report this with the files in the folder")


def _story(client: Client, scratch: Path, folder: Path, effort: Effort) -> list[list[str]]:
    _say("1. The owner registers the model and receives a secret key.")
    with transfer("upload") as moved:
        registration = client.models.register(_model(), name="emoji", options=effort.embedding, progress=moved)
    key_file = scratch / "emoji.key.json"
    keyfile.save_secret(key_file, registration.secret_key or "", registration.model.id)
    _say("2. The service embeds the watermark.")
    with follow("embed") as show:
        client.jobs.wait(registration, progress=show)
    keyfile.complete(key_file, client.models.public_key)
    _say("3. The owner publishes the watermarked checkpoint.")
    marked = client.models.download(registration.model.id, scratch / "marked.zip")
    _say(f'4. A thief fine-tunes every weight of it on other images ("Animals & Nature"), {effort.theft_steps} steps.')
    stolen = scratch / "stolen"
    _run("demo_models.emoji.fine_tune", "--model", str(marked), "--out", str(stolen), "--steps", str(effort.theft_steps))
    _say("5. An innocent person trains a model of the same architecture on the same images.")
    innocent = scratch / "innocent"
    size = ("--steps", str(effort.innocent_steps), "--batch", str(effort.innocent_batch))
    _run("demo_models.emoji.train", "--out", str(innocent), *size, "--seed", "7")
    _say("6. The owner submits all three.")
    suspects = [("published", marked), ("stolen", stolen), ("innocent", innocent)]
    return [_verify(client, registration.model.id, name, path, folder) for name, path in suspects]


def _verify(client: Client, model_id: str, name: str, path: Path, folder: Path) -> list[str]:
    submission = client.verifications.create(model_id, path)
    with follow(name) as show:
        client.jobs.wait(submission, progress=show)
    report = folder / f"{name}.html"
    report.write_text(client.verifications.report_html(submission.verification.id), encoding="utf-8")
    (folder / f"{name}.json").write_text(client.verifications.report(submission.verification.id), encoding="utf-8")
    found = client.verifications.get(submission.verification.id)
    figures = [f"{value:.{digits}f}" for value, digits in ((found.log10_p, 1), (found.vs_rate, 3), (found.rs_rate, 3))]
    return [name, str(found.verdict), *figures, report.name]


def _model() -> Path:
    """The pipeline folder of the emoji model, which aiao-server brings."""
    found = find_spec("demo_models.emoji")
    if found is None or found.origin is None:
        raise ClientError("the demo's model is missing; install aiao-server again")
    return Path(found.origin).with_name("model")


def _say(sentence: str) -> None:
    err.print(f"\n{sentence}", style="bold")


def _run(module: str, *arguments: str) -> None:
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # the running system needs the cores too
    subprocess.run(python_module(module, *arguments, install=INSTALL), env=environment, check=True)  # noqa: S603


@contextmanager
def _system(command: list[str], scratch: Path) -> Iterator[Client]:
    """Run the embedded system with a data folder, a port and a configuration of its own."""
    config, log = scratch / "config.toml", scratch / "system.log"
    # Without the user's settings: the demo has no business in their database.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIAO_")} | {
        "AIAO_DATA_DIR": str(scratch / "data"),
        "AIAO_CONFIG_FILE": str(config),
        "AIAO_PORT": str(_free_port()),
    }
    with log.open("wb") as output:
        system = subprocess.Popen(command, env=environment, stdout=output, stderr=output)  # noqa: S603
    try:
        deadline = time.monotonic() + START_SECONDS
        while not config.exists():
            if system.poll() is not None or time.monotonic() > deadline:
                raise ClientError(f"the embedded system did not start:\n{log.read_text().strip()}")
            time.sleep(0.1)
        values = load_config(config)
        with Client(values.url, values.token) as client:
            yield client
    finally:
        system.terminate()
        system.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
