"""The images: both distributions are built from what .dockerignore lets through and the Dockerfile copies."""

import asyncio
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from service.processes.embedded import CONNECTION
from tests.support.places import PROJECT

DOCKERFILE = (PROJECT / "docker" / "Dockerfile").read_text()


def copy(name: str, source: Path, target: Path) -> None:
    """Copy a file or a folder from one root to another."""
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    if (source / name).is_dir():
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source / name, target / name)


@pytest.mark.process
def test_both_distributions_are_built_from_what_is_copied(tmp_path):
    for rule in (PROJECT / ".dockerignore").read_text().split():
        if rule.startswith("!"):
            copy(rule[1:], PROJECT, tmp_path / "context")
    for names in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in names.split():
            copy(name, tmp_path / "context", tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--wheel-dir", tmp_path, ".", "./server"], cwd=tmp_path / "source", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sizes = {file.name.partition("-")[0]: file.stat().st_size for file in tmp_path.glob("*.whl")}
    assert sizes.keys() == {"aiao", "aiao_server"}
    assert sizes["aiao_server"] > 5_000_000  # the demo's model and images are in it


def test_no_container_takes_code_from_its_working_folder():
    run = DOCKERFILE.split(" AS run\n")[1].split("\nFROM ")[0]
    assert "PYTHONSAFEPATH=1" in run
    assert re.findall(r"^WORKDIR (.+)$", run, re.MULTILINE) == ["/"]  # uvicorn and Celery look there all the same
    places = [PROJECT / "docker-compose.yml", *(PROJECT / "kubernetes").glob("*.yaml")]
    assert [place for place in places if re.search("workingDir|working_dir|PYTHONSAFEPATH|PYTHONPATH", place.read_text())] == []
    units = re.findall(r"```ini\n(.+?)```", (PROJECT / "docs" / "operations.md").read_text(), re.DOTALL)
    assert units
    assert [unit for unit in units if "WorkingDirectory=/\n" not in unit or "PYTHONSAFEPATH=1" not in unit] == []


def test_everything_from_an_index_is_installed_by_its_hash():
    installs = re.findall(r"pip install (.+)", DOCKERFILE)
    assert len(installs) >= 7
    assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []
    assert [line for line in installs if "--no-deps" not in line] == []
    assert len(re.findall(r"--no-index /wheels/\*\.whl && pip check", DOCKERFILE)) == 3  # for what is missing


IMAGE = r"[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?"
"""With a tag for people, and with a digest once `docker/pin-images` has asked the registry."""


def images() -> list[str]:
    """The images of others."""
    compose = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"].values()
    named = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    return named + [
        service["image"] for service in compose if "build" not in service and not service["image"].startswith("aiao-")
    ]


def test_no_image_of_others_is_the_latest():
    assert [image for image in images() if not re.fullmatch(IMAGE, image) or ":latest" in image] == []
    assert {line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("FROM")} <= {
        "${PYTHON_IMAGE}", "build", "run", "worker"
    }  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize("answer", ["sha256:" + 32 * "ab", "nothing", ""])
def test_the_script_pins_every_image_to_what_the_registry_says_or_changes_nothing(tmp_path, answer):
    shutil.copytree(PROJECT / "docker", tmp_path / "docker")
    shutil.copy(PROJECT / "docker-compose.yml", tmp_path)
    before = [(tmp_path / name).read_text() for name in ("docker-compose.yml", "docker/Dockerfile")]
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "skopeo").write_text(f"#!/bin/sh\necho '{answer}'\n[ -n '{answer}' ]\n")
    (tools / "skopeo").chmod(0o755)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    done = subprocess.run(
        [tmp_path / "docker" / "pin-images"], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    after = [(tmp_path / name).read_text() for name in ("docker-compose.yml", "docker/Dockerfile")]
    if answer.startswith("sha256"):
        assert done.returncode == 0, done.stderr
        assert sum(text.count(f"@{answer}") for text in after) == len(set(images()))
        assert [text.replace(f"@{answer}", "") for text in after] == [re.sub("@sha256:[0-9a-f]+", "", text) for text in before]
    else:
        assert done.returncode != 0
        assert after == before


def test_the_api_starts_with_limits_of_its_connections():
    assert f'"service.app:create_app", "--http", "{CONNECTION}"' in DOCKERFILE
    module, _, name = CONNECTION.partition(":")
    assert issubclass(getattr(importlib.import_module(module), name), asyncio.Protocol)


def test_the_extras_that_it_installs_exist():
    installed = re.findall(r'"(\./?\w*)\[([\w,]+)\]"', (PROJECT / "docker" / "lock.py").read_text())
    assert {folder for folder, _ in installed} == {".", "./server"}
    for folder, extras in installed:
        project = tomllib.loads((PROJECT / folder / "pyproject.toml").read_text())["project"]
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
