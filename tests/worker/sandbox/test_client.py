"""What a confined child may not do, and what its end does to the worker."""

import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import children
from tests.support.processes import wait_for
from worker.sandbox import client
from worker.sandbox.client import ChildEnded, confined

pytestmark = pytest.mark.process

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="confined by the Linux kernel")


@pytest.fixture(scope="module", autouse=True)
def light() -> Iterator[None]:
    """A server without torch, which starts at once: what these children do needs none. The real one serves in other files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "PRELOADED", children.__name__)
        patch.setattr(client, "_server", cache(client._server.__wrapped__))
        yield
        client._stop()


@pytest.fixture
def run(tmp_path):
    def run(function, *, seconds=300.0, memory_bytes=0, check=lambda: None, room=tmp_path, **arguments):
        return confined(function, arguments, room=room, seconds=seconds, memory_bytes=memory_bytes, check=check)

    return run


def test_a_child_answers(run):
    assert run(children.add, one=2, other=3) == {"sum": 5}


@LINUX
def test_a_child_that_takes_too_much_memory_ends_alone(run):
    with pytest.raises(ChildEnded, match="ran out of memory"):
        run(children.fill_the_memory, memory_bytes=1 << 28)
    assert run(children.add, one=1, other=1) == {"sum": 2}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (children.crash, r"crashed \(SIGSEGV\)"),
        (children.fail, "worker's log"),
        (children.leave, "worker's log"),
    ],
)
def test_a_child_that_ends_without_an_answer_is_told_of_in_words(run, function, words):
    with pytest.raises(ChildEnded, match=words):
        run(function)


def kill_the_child(server: int) -> None:
    """Kill the last of the processes that each wait for the next, as the kernel does when memory is short."""
    process = server
    while children_of_it := Path(f"/proc/{process}/task/{process}/children").read_text().split():
        process = int(children_of_it[0])
    os.kill(process, signal.SIGKILL)


@LINUX
def test_a_child_that_the_kernel_kills_ran_out_of_memory(run, tmp_path):
    def check() -> None:
        if (tmp_path / "locked").exists():
            kill_the_child(client._server().pid)

    with pytest.raises(ChildEnded, match="ran out of memory"):
        run(children.sleep, file=str(tmp_path / "locked"), check=check)


def test_a_full_disk_is_not_the_childs_fault(run):
    with pytest.raises(OSError, match="no room") as caught:
        run(children.fill_the_disk, file="/dev/full", room=Path("/dev"))
    assert caught.value.errno == errno.ENOSPC


def gone(file: Path) -> bool:
    """Return whether the process that locked ``file`` has ended."""
    with file.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_child_that_takes_too_long_is_ended(run, tmp_path, monkeypatch):
    def an_hour_later_once_it_sleeps() -> float:
        return time.monotonic() + (3600 if (tmp_path / "locked").exists() else 0)

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=an_hour_later_once_it_sleeps))
    with pytest.raises(ChildEnded, match="more than 10 seconds"):
        run(children.sleep, file=str(tmp_path / "locked"), seconds=10)
    wait_for(lambda: gone(tmp_path / "locked"), "the child is still there")


def test_whoever_waits_may_stop_the_child(run, tmp_path):
    def check() -> None:
        if (tmp_path / "locked").exists():
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(children.sleep, file=str(tmp_path / "locked"), check=check)
    wait_for(lambda: gone(tmp_path / "locked"), "the child is still there")


@pytest.mark.parametrize("content", ["", "no JSON", "[1]", "[" * 100_000, "9" * (2 << 20)])
def test_an_answer_that_is_no_json_object_is_none(run, content):
    with pytest.raises(ChildEnded, match="no answer"):
        run(children.answer, content=content)


def test_a_child_does_not_speak_for_its_server(run):
    with pytest.raises(ChildEnded, match="worker's log"):
        run(children.write_a_line)
    assert run(children.add, one=1, other=1) == {"sum": 2}


def test_a_child_does_not_know_the_workers_environment(run, monkeypatch):
    monkeypatch.setenv("AIAO_KEY_ENCRYPTION_KEY", "secret")
    assert not [name for name in run(children.environment) if name.startswith("AIAO")]


def test_the_server_ends_with_its_worker(run):
    run(children.add, one=1, other=1)
    server = client._server()
    server.stdin.close()
    assert server.wait(30) == 0
    client._server.cache_clear()


@LINUX
def test_a_child_cannot_erase_the_log_that_it_writes_to(run, capfd):
    print("an earlier line", file=sys.stderr, flush=True)
    run(children.erase_the_log)
    with pytest.raises(ChildEnded, match="worker's log"):
        run(children.fail)
    said = capfd.readouterr().err
    assert "an earlier line" in said
    assert "ValueError: a mistake" in said
    assert "\x1b" not in said
