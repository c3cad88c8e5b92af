"""The two wheels, installed outside the checkout, in a folder whose files have the names of our modules."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from diffusers import DDPMPipeline

from aiao_core import __version__
from tests.support.places import PROJECT
from tests.support.processes import free_port, wait_for
from tests.support.tiny_models import MARKING, make_tiny_model

pytestmark = pytest.mark.process

PACKAGES = {"aiao": ["aiao", "aiao_core"], "aiao_server": ["migrations", "service", "worker"]}
TRAPS = ["aiao_core/__init__.py", "client/__init__.py", "service/__init__.py", "worker.py"]
SUSPECTS = ["published", "stolen", "innocent"]
SPRUNG = "a file of the user was imported"


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


@dataclass(frozen=True)
class Installed:
    """An environment with our wheels, and the folder in which a user works."""

    environment: Path
    folder: Path
    variables: dict[str, str]

    def run(self, *command: str, seconds: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the user's folder."""
        program = self.environment / "bin" / command[0]
        return run(program, *command[1:], cwd=self.folder, env=self.variables | variables, timeout=seconds)

    def done(self, *command: str, seconds: float = 120) -> str:
        """Run a program that must succeed, and return what it printed."""
        ended = self.run(*command, seconds=seconds)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def install(self, *what: str) -> None:
        """Install from the package index, in the versions that the project is tested with."""
        pip = [sys.executable, "-m", "pip", "--python", self.environment / "bin" / "python", "install", "--quiet"]
        ended = run(*pip, "--no-compile", "--constraint", PROJECT / "constraints.txt", *what)
        assert ended.returncode == 0, ended.stderr

    @property
    def site_packages(self) -> Path:
        return next(self.environment.glob("lib/python*/site-packages"))

    @contextmanager
    def up(self) -> Iterator[None]:
        """``aiao up`` while the block lasts."""
        log = self.folder.parent / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.environment / "bin" / "aiao", "up"], cwd=self.folder, env=self.variables, stdout=output, stderr=output
            )
        try:
            wait_for(lambda: "Next: aiao models register" in log.read_text(), log.read_text, 90)
            yield
        finally:
            process.terminate()
            assert process.wait(60) == 0
        logs = "".join(file.read_text() for file in (self.folder.parent / "data" / "logs").glob("*.log"))
        assert " ready." in logs  # the worker's words
        assert SPRUNG not in logs


def fresh(folder: Path, environment: Path) -> Installed:
    """A user's folder with files that raise when they are imported, and settings of its own."""
    for trap in TRAPS:
        (folder / "work" / trap).parent.mkdir(parents=True, exist_ok=True)
        (folder / "work" / trap).write_text(f"raise RuntimeError({SPRUNG!r})\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIAO_", "PYTHON"))}
    places = {"AIAO_DATA_DIR": str(folder / "data"), "AIAO_CONFIG_FILE": str(folder / "config.toml")}
    return Installed(environment, folder / "work", inherited | places | {"AIAO_PORT": str(free_port())})


def borrowing(folder: Path, *wheels: Path) -> Installed:
    """These wheels in an environment that takes what they depend on from the one that runs the tests.

    Where that one is told of by a path file, Python does not look at its own path files: the checkout stays unknown.
    """
    environment = folder / "environment"
    venv.create(environment)
    installed = fresh(folder, environment)
    (installed.site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    installed.install("--no-index", "--no-deps", *map(str, wheels))
    return installed


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Both distributions, each as an sdist and as the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    for project in (PROJECT, PROJECT / "server"):
        ended = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def wheel(dist: Path, name: str) -> Path:
    return dist / f"{name}-{__version__}-py3-none-any.whl"


def metadata(dist: Path, name: str) -> Message:
    with zipfile.ZipFile(wheel(dist, name)) as archive:
        return HeaderParser().parsestr(archive.read(f"{name}-{__version__}.dist-info/METADATA").decode())


@pytest.fixture(scope="module")
def both(dist, tmp_path_factory) -> Installed:
    """Client and application."""
    return borrowing(tmp_path_factory.mktemp("both"), *(wheel(dist, name) for name in PACKAGES))


@pytest.fixture(scope="module")
def client_alone(dist, tmp_path_factory) -> Installed:
    return borrowing(tmp_path_factory.mktemp("alone"), wheel(dist, "aiao"))


def test_both_distributions_have_one_version_an_sdist_and_a_wheel(dist):
    kinds = ("-py3-none-any.whl", ".tar.gz")
    assert sorted(file.name for file in dist.iterdir()) == sorted(
        f"{name}-{__version__}{kind}" for name in PACKAGES for kind in kinds
    )
    assert metadata(dist, "aiao_server").get_all("Requires-Dist").count(f"aiao=={__version__}") == 1


def test_the_client_alone_depends_on_ten_packages_at_the_most(dist):
    needed = [each for each in metadata(dist, "aiao").get_all("Requires-Dist") if "extra ==" not in each]
    assert 0 < len(needed) <= 10, needed


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_holds_every_file_of_its_packages(dist, name):
    with zipfile.ZipFile(wheel(dist, name)) as archive:
        held = {file for file in archive.namelist() if ".dist-info/" not in file and not file.startswith("demo_models/")}
    assert held == {
        file.relative_to(PROJECT).as_posix()
        for package in PACKAGES[name]
        for file in (PROJECT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_server_brings_what_the_demo_needs_with_its_attribution_and_without_pictures(dist):
    with zipfile.ZipFile(wheel(dist, "aiao_server")) as archive:
        held = {file for file in archive.namelist() if file.startswith("demo_models/")}
    assert {"demo_models/emoji/twemoji32.npz", "demo_models/emoji/ATTRIBUTION.md"} <= held
    assert not [
        file
        for file in held
        if file.endswith(".png") or not file.startswith(("demo_models/emoji/", "demo_models/__", "demo_models/training.py"))
    ]


@pytest.mark.parametrize(
    "command", [["up"], ["admin", "tokens", "issue", "studio"], ["demo", "--quick"]], ids=lambda each: each[0]
)
def test_without_the_server_a_command_says_what_to_install(client_alone, command):
    ended = client_alone.run("aiao", *command)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"error: this command needs aiao-server, not installed here; run: pip install \S+\n", ended.stderr)


@pytest.mark.parametrize("command", [["aiao"], ["python", "-m", "aiao"]], ids=["aiao", "python -m aiao"])
def test_the_command_line_is_there_as_a_program_and_as_a_module(client_alone, command):
    assert "Watermark a diffusion model" in client_alone.done(*command, "--help")
    assert client_alone.done(*command, "--version") == f"{__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "service.admin"],
        ["-m", "celery", "--app", "worker.app", "report"],
        ["-m", "uvicorn", "--factory", "service.app:create_app"],
    ],
    ids=["service", "celery", "uvicorn"],
)
def test_the_users_files_would_be_imported_in_the_ordinary_way(both, command):
    """The other tests of this file would notice."""
    assert SPRUNG in both.run("python", *command).stderr


def run_everything(installed: Installed) -> None:
    """Start the system, register a tiny model, verify its marked checkpoint, issue a token; stop the system."""
    tiny = make_tiny_model(5)
    DDPMPipeline(tiny.denoiser, tiny.schedule.scheduler).save_pretrained(installed.folder / "tiny")
    embedding = MARKING.model_copy(update={"samples": 64}).model_dump(exclude_defaults=True)
    options = [f"--option={name}={value}" for name, value in embedding.items()]
    with installed.up():
        installed.done("aiao", "models", "register", "tiny", "--name", "tiny", *options, seconds=300)
        model = json.loads(installed.done("aiao", "models", "list", "--json"))[0]["id"]
        installed.done("aiao", "models", "download", model, "--to", "marked.zip")
        installed.done("aiao", "verify", "marked.zip", "--model", model, "--report", "report.json", seconds=300)
        assert json.loads((installed.folder / "report.json").read_text())["verdict"] == "match"
        token = installed.done("aiao", "admin", "tokens", "issue", "studio").strip()
        url = f"http://127.0.0.1:{installed.variables['AIAO_PORT']}"
        of_studio = installed.run("aiao", "models", "list", "--json", AIAO_URL=url, AIAO_TOKEN=token)
        assert json.loads(of_studio.stdout) == [], of_studio.stderr


@pytest.mark.slow
def test_the_wheels_run_the_whole_system_in_a_folder_with_our_names(both):
    run_everything(both)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fresh_installs_run_everything(dist, tmp_path):
    """From the package index, part by part: each says what is missing, and the whole runs everything."""
    client, server = (f"{name.replace('_', '-')} @ {wheel(dist, name).as_uri()}" for name in PACKAGES)
    installed = fresh(tmp_path, tmp_path / "environment")
    venv.create(installed.environment)

    installed.install(client)
    assert "Watermark a diffusion model" in installed.done("aiao", "--help")
    size = sum(file.stat().st_size for file in installed.site_packages.rglob("*") if file.is_file())
    print(f"\npip install aiao: {len([*installed.site_packages.glob('*.dist-info')])} packages, {size / 1e6:.0f} MB")
    assert size < 300e6

    installed.install(server)
    ended = installed.run("aiao", "up")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"aiao: the worker cannot start without .*torch.*; run: pip install 'aiao\[torch\]'\n", ended.stderr)

    installed.install(client.replace("aiao @", "aiao[torch] @"))
    run_everything(installed)
    print(installed.done("aiao", "demo", "--quick", seconds=1800))
    verdicts = [json.loads((installed.folder / "demo-output" / f"{name}.json").read_text())["verdict"] for name in SUSPECTS]
    assert verdicts == ["match", "match", "no-match"]
