"""The compose file: valid, and every setting and module that it names is there."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
import redis
import yaml
from sqlalchemy import make_url

from service.processes.embedded import redis_server
from service.settings import SECRET_NAMES, Settings
from service.vault.vault import Vault
from tests.support.places import PROJECT
from tests.support.processes import stop, wait_for

COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("aiao-")}


@pytest.mark.process
def test_it_is_valid():
    done = configuration(AIAO_SECRETS="/of-a-test")
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_without_its_secrets_nothing_starts(tmp_path):
    done = configuration()
    assert done.returncode != 0
    assert "run docker/make-secrets first" in done.stderr


def configuration(**variables: str) -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of the file, with these variables alone."""
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed")
    known = {name: value for name, value in os.environ.items() if name not in SECRET_NAMES | {"AIAO_SECRETS"}}
    with NamedTemporaryFile() as nothing:  # in place of a developer's own .env
        command = [tool, "--env-file", nothing.name, "config"]
        return subprocess.run(command, cwd=PROJECT, env=known | variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of secrets that the script makes in a checkout."""
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / "docker").mkdir()
    shutil.copy(PROJECT / "docker" / "make-secrets", checkout / "docker")
    subprocess.run([checkout / "docker" / "make-secrets"], check=True, capture_output=True)
    return checkout / "docker" / "secrets"


@pytest.mark.process
def test_the_script_makes_every_secret_that_the_file_names(made):
    files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert {Path(file).name for file in files.values()} == {file.name for file in made.iterdir()} == files.keys()
    assert (made.parent.parent / ".env").read_text() == f"AIAO_SECRETS={made}\n"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()} == {0o444}  # for the user of the container


@pytest.mark.process
def test_the_secrets_are_random_and_fit_each_other(made, tmp_path_factory, monkeypatch):
    for name in SECRET_NAMES:
        monkeypatch.delenv(name, raising=False)
    password = (made / "POSTGRES_PASSWORD").read_text().strip()
    settings = Settings(secrets_dir=made)
    assert make_url(settings.database_url).password == password
    assert (made / "REDIS_CONFIGURATION").read_text() == f"requirepass {make_url(settings.broker_url).password}\n"
    Vault.open(settings.key_encryption_key, settings.former_key_encryption_keys, made, settings.credentials)
    another = tmp_path_factory.mktemp("another")
    subprocess.run([made.parent / "make-secrets", another], check=True, capture_output=True)
    same = {file.name for file in made.iterdir() if file.read_bytes() == (another / file.name).read_bytes()}
    assert same == {"AWS_ACCESS_KEY_ID"}  # a name


@pytest.mark.process
def test_the_script_keeps_what_is_there(made):
    before = {file: file.read_bytes() for file in made.iterdir()}
    subprocess.run([made.parent / "make-secrets"], check=True, capture_output=True)
    assert {file: file.read_bytes() for file in made.iterdir()} == before
    assert (made.parent.parent / ".env").read_text().count("AIAO_SECRETS") == 1


@pytest.mark.process
def test_redis_takes_the_password_that_the_script_makes(made, tmp_path):
    path = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", ""]
    process = subprocess.Popen(
        [redis_server(), str(made / "REDIS_CONFIGURATION"), *options], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        password = make_url(Settings(secrets_dir=made).broker_url).password
        with (
            redis.Redis(unix_socket_path=str(path), password=password) as known,
            redis.Redis(unix_socket_path=str(path)) as other,
        ):
            wait_for(known.ping, "Redis does not answer")
            with pytest.raises(redis.AuthenticationError):
                other.ping()
    finally:
        stop(process)


def test_no_secret_is_in_a_containers_environment():
    text = (PROJECT / "docker-compose.yml").read_text()
    for service in SERVICES.values():
        named = service.get("environment", {}).keys()
        assert not {name for name in named if name in SECRET_NAMES or name.endswith(("PASSWORD", "_KEY"))}
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
    assert not re.search(r"\$\{[^}]*(PASSWORD|SECRET_KEY|ACCESS_KEY)", text)


def test_no_two_services_share_a_volume():
    volumes = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    volumes.remove("./kubernetes/Caddyfile")  # the proxy reads it
    assert sorted(volumes) == sorted(COMPOSE["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_it_names_settings_that_exist(name):
    named = {variable for variable in OURS[name]["environment"] if variable.startswith("AIAO_")}
    assert named <= {f"AIAO_{field.upper()}" for field in Settings.model_fields}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_write_nowhere_but_their_volume_and_have_no_rights(name):
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    places = [mount.split(":")[0] for mount in service["tmpfs"]] + [mount.split(":")[1] for mount in service.get("volumes", ())]
    assert sorted(places) == ["/data", "/tmp"]


@pytest.mark.parametrize("name", [name for name in OURS if OURS[name].get("command", [""])[:2] == ["python", "-m"]])
def test_its_modules_exist(name):
    assert importlib.util.find_spec(OURS[name]["command"][2])


def test_only_the_proxy_is_reachable_and_only_from_this_machine():
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "proxy": ["127.0.0.1:8377:8377"]
    }


def test_the_proxy_reaches_the_api_and_nothing_behind_it():
    assert SERVICES["proxy"]["networks"] == ["outside"]
    assert {name for name, service in SERVICES.items() if "outside" in service.get("networks", [])} == {
        "api", "proxy", "worker", "worker-gpu", "courier"
    }  # fmt: skip


def test_images_are_built_from_stages_that_exist():
    stages = {line.split()[-1] for line in (PROJECT / "docker/Dockerfile").read_text().splitlines() if line.startswith("FROM")}
    assert {service["build"]["target"] for service in OURS.values() if "build" in service} <= stages


@pytest.mark.parametrize("name", [name for name in OURS if "worker" in name])
def test_a_worker_takes_the_one_queue_that_there_is_unless_the_operator_says_otherwise(name):
    assert OURS[name]["environment"]["AIAO_QUEUES"] == "${AIAO_QUEUES:-}"
    assert re.search(r"--concurrency 1 --queues \$\{\w+:-aiao\} ", OURS[name]["command"])
    assert Settings().fleet.names == ["aiao"]
