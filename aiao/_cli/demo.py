"""The whole story on the shipped emoji model: register, embed, publish, steal, verify, and an innocent model."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiao._cli.display import err, follow, out, print_table, transfer
from aiao._client import key_files as keyfile
from aiao._client.api import Client
from aiao._client.config import load_config
from aiao._client.errors import ClientError

PROJECT = Path(__file__).parent.parent
MODEL = PROJECT / "demo_models" / "emoji" / "model"
START_SECONDS = 90


def run_demo(folder: Path, steps: int | None) -> None:
    """Run it and write the reports to ``folder``. Raises :class:`ClientError` if a verdict is not the expected one."""
    if not MODEL.is_dir():
        raise ClientError("the demo needs the examples folder; run it from a checkout of the project, by: make demo")
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aiao-demo-") as temporary:
        scratch = Path(temporary)
        with _system(scratch) as client:
            rows = _story(client, scratch, folder, steps)
    out.print()
    print_table(["suspect", "verdict", "log10 p", "VS-rate", "RS-rate", "report"], rows)
    out.print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Open the reports in {folder.resolve()}")
    if [row[1] for row in rows] != ["match", "match", "no-match"]:
        raise ClientError("a verdict is not the expected one; please report this with the files in the folder")


def _story(client: Client, scratch: Path, folder: Path, steps: int | None) -> list[list[str]]:
    _say("1. The owner registers the model and receives a secret key.")
    with transfer("upload") as moved:
        options = {"steps": steps} if steps else None
        registration = client.models.register(MODEL, name="emoji", options=options, progress=moved)
    key_file = scratch / "emoji.key.json"
    keyfile.save_secret(key_file, registration.secret_key or "", registration.model.id)
    _say("2. The service embeds the watermark.")
    with follow("embed") as show:
        registration.job.wait(progress=show)
    keyfile.complete(key_file, client)
    _say("3. The owner publishes the watermarked checkpoint.")
    marked = client.models.download(registration.model.id, scratch / "marked.zip")
    _say('4. A thief fine-tunes every weight of it on other images ("Animals & Nature"), 800 steps.')
    stolen = scratch / "stolen"
    _run("demo_models.emoji.fine_tune", "--model", str(marked), "--out", str(stolen))
    _say("5. An innocent person trains a model of the same architecture on the same images.")
    innocent = scratch / "innocent"
    _run("demo_models.emoji.train", "--out", str(innocent), "--steps", "300", "--batch", "32", "--seed", "7")
    _say("6. The owner submits all three.")
    suspects = [("published", marked), ("stolen", stolen), ("innocent", innocent)]
    return [_verify(client, registration.model.id, name, path, folder) for name, path in suspects]


def _verify(client: Client, model_id: str, name: str, path: Path, folder: Path) -> list[str]:
    submission = client.verifications.create(model_id, path)
    with follow(name) as show:
        submission.job.wait(progress=show)
    report = folder / f"{name}.html"
    report.write_text(client.verifications.report_html(submission.verification.id), encoding="utf-8")
    (folder / f"{name}.json").write_text(client.verifications.report(submission.verification.id), encoding="utf-8")
    found = client.verifications.get(submission.verification.id)
    figures = [f"{value:.{digits}f}" for value, digits in ((found.log10_p, 1), (found.vs_rate, 3), (found.rs_rate, 3))]
    return [name, str(found.verdict), *figures, report.name]


def _say(sentence: str) -> None:
    err.print(f"\n{sentence}", style="bold")


def _run(module: str, *arguments: str) -> None:
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # the running system needs the cores too
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=PROJECT, env=environment, check=True)  # noqa: S603


@contextmanager
def _system(scratch: Path) -> Iterator[Client]:
    """The embedded system with a data folder, a port and a configuration of its own."""
    config, log = scratch / "config.toml", scratch / "system.log"
    environment = os.environ | {
        "AIAO_DATA_DIR": str(scratch / "data"),
        "AIAO_CONFIG_FILE": str(config),
        "AIAO_PORT": str(_free_port()),
    }
    with log.open("wb") as output:
        system = subprocess.Popen(
            [sys.executable, "-m", "service.processes.embedded"], cwd=PROJECT, env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not config.exists():
            if system.poll() is not None or time.monotonic() > deadline:
                raise ClientError(f"the embedded system did not start:\n{log.read_text()}")
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
