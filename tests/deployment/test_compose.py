"""The compose file: valid, and every setting and module that it names is there."""

import importlib.util
import re
import shutil
import subprocess

import pytest
import yaml

from service.settings import Settings
from tests.support.places import PROJECT

SERVICES = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("aiao-")}


@pytest.mark.process
def test_it_is_valid():
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed")
    subprocess.run([tool, "config", "--quiet"], cwd=PROJECT, check=True, capture_output=True)


@pytest.mark.parametrize("name", OURS)
def test_it_names_settings_that_exist(name):
    named = {variable for variable in OURS[name]["environment"] if variable.startswith("AIAO_")}
    assert named <= {f"AIAO_{field.upper()}" for field in Settings.model_fields}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_write_nowhere_but_their_volume_and_have_no_rights(name):
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["volumes"] == ["data:/data"]


@pytest.mark.parametrize("name", [name for name in OURS if OURS[name].get("command", [""])[:2] == ["python", "-m"]])
def test_its_modules_exist(name):
    assert importlib.util.find_spec(OURS[name]["command"][2])


def test_only_the_api_is_reachable_and_only_from_this_machine():
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "api": ["127.0.0.1:8377:8377"]
    }


def test_images_are_built_from_stages_that_exist():
    stages = {line.split()[-1] for line in (PROJECT / "docker/Dockerfile").read_text().splitlines() if line.startswith("FROM")}
    assert {service["build"]["target"] for service in OURS.values() if "build" in service} <= stages


@pytest.mark.parametrize("name", [name for name in OURS if "worker" in name])
def test_a_worker_takes_the_one_queue_that_there_is_unless_the_operator_says_otherwise(name):
    assert OURS[name]["environment"]["AIAO_QUEUES"] == "${AIAO_QUEUES:-}"
    assert re.search(r"--concurrency 1 --queues \$\{\w+:-aiao\} ", OURS[name]["command"])
    assert Settings().fleet.names == ["aiao"]
