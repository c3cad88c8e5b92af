"""What a reader that an attacker has taken over can do: compute, read the file it was given, and write its own folder."""

import errno
import sys
from functools import cache, partial

import pytest

from tests.support import hostile_reader
from worker.sandbox import client
from worker.sandbox.client import confined

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="confined by the Linux kernel"),
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Runs a function in a child of a server without torch, beside a service's files."""
    folder = tmp_path_factory.mktemp("service")
    places = hostile_reader.service(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "PRELOADED", hostile_reader.__name__)
        patch.setattr(client, "_server", cache(client._server.__wrapped__))
        places |= {"server": client._server().pid}
        run = partial(confined, room=folder / "scratch" / "job_1" / "room", seconds=60, check=lambda: None)
        yield lambda function, **arguments: run(function, {"places": places, **arguments}, memory_bytes=1 << 30)
        client._stop()


@pytest.mark.parametrize("name", hostile_reader.ATTEMPTS)
def test_it_is_refused(reader, name):
    ended = reader(hostile_reader.attempt, name=name)
    assert ended["outcome"] == "refused"
    if name in hostile_reader.SYSTEM_CALLS:  # before the kernel looked at its arguments
        assert ended["errno"] in (errno.EPERM, errno.ENOSYS)


@pytest.mark.parametrize("name", hostile_reader.HONEST)
def test_what_a_reader_needs_it_can_do(reader, name):
    assert reader(hostile_reader.honest, name=name) == {"outcome": "done", "how": ""}
