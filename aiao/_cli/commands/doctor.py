"""``aiao doctor``: what this machine can do, and what it lacks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

import httpx
import typer

from aiao._cli.display import out, print_table
from aiao._cli.server import python_module
from aiao._client.config import config_file, load_config
from aiao._client.errors import ClientError
from aiao_core import __version__
from aiao_core.errors import printable
from aiao_core.formats.archives import has_slow_tar_headers

TORCH = ("accelerate", "diffusers", "gguf", "huggingface_hub", "peft", "PIL", "safetensors", "torch", "transformers")
"""Modules of the extra ``torch``."""

PATIENCE = 60
"""Seconds for the server's part, and a twelfth of them for an answer of the service."""

Row = tuple[str, str, str]
"""What was looked at; ``ok``, ``fix``, or ``-`` for something that is good to have; and what was found, or what to do."""


def doctor() -> None:
    """Say what this machine can do, and what to do about what it lacks. Exit status 1 if something is to be fixed."""
    rows = [_python(), _torch(), *_server(), *_service()]
    print_table(["part", "state", ""], [[printable(cell) for cell in row] for row in rows])
    if any(state == "fix" for _, state, _ in rows):
        raise typer.Exit(1)
    out.print("Nothing is to be fixed.")


def _python() -> Row:
    version = ".".join(map(str, sys.version_info[:3]))
    if has_slow_tar_headers():
        words = "a TAR archive can stop this Python for minutes (CVE-2024-6232); install 3.11.10, 3.12.6 or newer"
        return "Python", "fix", f"{version}: {words}"
    return "Python", "ok", f"{version} at {sys.executable}"


def _torch() -> Row:
    missing = [name for name in TORCH if not _is_installed(name)]
    if "torch" in missing:
        return "torch", "-", "not installed: the library, offline tests and workers need it; run: pip install 'aiao[torch]'"
    if missing:
        return "torch", "fix", f"{', '.join(missing)} not installed; run: pip install 'aiao[torch]'"
    return "torch", "ok", f"{metadata.version('torch')}, and all of the extra"


def _is_installed(module: str) -> bool:
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None  # a folder of that name, as an uninstall leaves, has no origin


def _server() -> Iterator[Row]:
    """Say what aiao-server finds: it looks in a process of its own."""
    try:
        command = python_module("worker.doctor", install="aiao-server")
    except ClientError:
        yield "aiao-server", "-", "not installed: aiao up, aiao admin and aiao demo need it; run: pip install aiao-server"
        return
    installed = _server_version()
    if installed != __version__:
        yield "aiao-server", "fix", f"{installed}, but aiao is {__version__}; run: pip install aiao-server=={__version__}"
    else:
        yield "aiao-server", "ok", installed
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)  # noqa: S603
        yield from ((str(part), str(state), str(words)) for part, state, words in json.loads(done.stdout))
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield "aiao-server", "fix", f"it cannot look at this machine ({last}); run: pip install --force-reinstall aiao-server"
    except (subprocess.TimeoutExpired, ValueError):
        yield "aiao-server", "fix", "it said nothing of this machine; try again when the machine has less to do"


def _server_version() -> str:
    try:
        return metadata.version("aiao-server")
    except metadata.PackageNotFoundError:  # a checkout on Python's path
        return __version__


def _service() -> Iterator[Row]:
    try:
        config = load_config()
    except ClientError as error:
        yield "service", "-" if not config_file().exists() else "fix", str(error)
        return
    try:
        with httpx.Client(base_url=config.url, timeout=PATIENCE / 12) as http:
            ready = http.get("/readyz")
            known = http.get("/v1/jobs", params={"limit": 1}, headers={"Authorization": f"Bearer {config.token}"})
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        yield "service", "fix", f"{config.url} does not answer ({type(error).__name__}); start it: aiao up, or set AIAO_URL"
        return
    for part, answer, good in (("service", ready, config.url), ("token", known, "taken")):
        yield (part, "ok", good) if answer.is_success else (part, "fix", f"{config.url}: {_detail(answer)}")


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])[:200]
    except (ValueError, KeyError, TypeError):
        return f"it answers {answer.status_code}, so it is perhaps not AIAO; set AIAO_URL"
