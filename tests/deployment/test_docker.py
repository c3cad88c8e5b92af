"""The images: both distributions are built from what .dockerignore lets through and the Dockerfile copies."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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


def test_the_extras_that_it_installs_exist():
    installed = re.findall(r"'(\.\S*)\[([\w,]+)\]'", DOCKERFILE)
    assert {folder for folder, _ in installed} == {".", "./server"}
    for folder, extras in installed:
        project = tomllib.loads((PROJECT / folder / "pyproject.toml").read_text())["project"]
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
