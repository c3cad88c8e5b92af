"""What the images install: every package with hashes, in the versions that are tested, and none is missing."""

import re
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.places import PROJECT

IMAGES = {"api": ("api",), "worker-cpu": ("api", "worker", "torch-cpu"), "worker-cuda": ("api", "worker", "cuda")}
OURS = {"aiao", "aiao-server"}
ON_THE_IMAGES = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux", "platform_system": "Linux"}


def pinned(text: str) -> dict[str, str]:
    """The versions by name."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


LOCKS = {file.stem: file.read_text() for file in sorted((PROJECT / "docker").glob("*.lock"))}
CONSTRAINTS = pinned((PROJECT / "constraints.txt").read_text())


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes(name):
    blocks = re.split(r"\n(?=[^\s#])", re.sub(r"^#.*\n", "", LOCKS[name], flags=re.MULTILINE).strip())
    assert len(blocks) == len(pinned(LOCKS[name])) > 0
    assert [block for block in blocks if not re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", block)] == []


@pytest.mark.parametrize("name", sorted(LOCKS.keys() - {"cuda"}))
def test_the_versions_are_those_that_are_tested(name):
    """But for setuptools, which pip does not list, and the label of torch's build for processors."""
    versions = {package: version.partition("+")[0] for package, version in pinned(LOCKS[name]).items()}
    assert {package: CONSTRAINTS.get(package) for package in versions.keys() - {"setuptools"}} == {
        package: version for package, version in versions.items() if package != "setuptools"
    }


def test_torch_for_cuda_is_the_version_that_is_tested():
    assert pinned(LOCKS["cuda"])["torch"] == CONSTRAINTS["torch"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_gets_all_that_ours_need(image):
    installed = set().union(*(pinned(LOCKS[name]) for name in IMAGES[image]))
    extras = {"aiao": {"torch"} if "worker" in image else set(), "aiao-server": {"aws", "telemetry"}}
    assert needed(extras) - OURS <= installed


def needed(extras: dict[str, set[str]]) -> set[str]:
    """The names of all packages that these of ours need, as the installed ones say, on the images."""
    found: set[tuple[str, str]] = set()
    ahead = [(name, extra) for name, chosen in extras.items() for extra in {"", *chosen}]
    while ahead:
        name, extra = place = ahead.pop()
        if place in found:
            continue
        found.add(place)
        try:
            requires = distribution(name).requires or ()
        except Exception:  # only on another platform than this one
            continue
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate(ON_THE_IMAGES | {"extra": extra}):
                name = canonicalize_name(requirement.name)
                if name not in OURS:
                    ahead += [(name, each) for each in {"", *requirement.extras}]
    return {name for name, _ in found}


def test_the_dockerfile_installs_these_files_in_each_image():
    text = (PROJECT / "docker" / "Dockerfile").read_text()
    for image, names in IMAGES.items():
        stage = text.split(f"AS build-{image}\n")[1].split("\nFROM ")[0]
        assert tuple(re.findall(r"--requirement docker/([\w-]+)\.lock", stage)) == names


def test_constraints_are_above_the_floors():
    """As pip says, which has installed both."""
    for name in OURS:
        for requirement in map(Requirement, distribution(name).requires or ()):
            version = CONSTRAINTS.get(canonicalize_name(requirement.name))
            assert version is None or requirement.specifier.contains(version), requirement
