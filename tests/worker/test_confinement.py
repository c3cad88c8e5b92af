"""What a confined child may not do, and what its end does to the worker."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import children
from tests.support.processes import wait_for
from worker import confinement
from worker.confinement import ChildEnded, confined

pytestmark = pytest.mark.process

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="confined by the Linux kernel")


@pytest.fixture(scope="module", autouse=True)
def light() -> Iterator[None]:
    """A server without torch, which starts at once: what these children do needs none. The real one serves in other files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confinement, "PRELOADED", children.__name__)
        patch.setattr(confinement, "_server", cache(confinement._server.__wrapped__))
        yield
        confinement._stop()


def run(function, *, seconds=300.0, memory_bytes=0, check=lambda: None, **arguments):
    return confined(function, arguments, seconds=seconds, memory_bytes=memory_bytes, check=check)


@LINUX
def test_a_child_has_no_network_and_starts_no_program():
    refused = dict.fromkeys(("internet", "unix", "program", "subprocess"), "PermissionError")
    assert run(children.calls) == refused | {"second numbers": "refused", "file": "done"}


def test_a_child_answers():
    assert run(children.add, one=2, other=3) == {"sum": 5}


@LINUX
def test_a_child_that_takes_too_much_memory_ends_alone():
    with pytest.raises(ChildEnded, match="ran out of memory"):
        run(children.fill_the_memory, memory_bytes=1 << 28)
    assert run(children.add, one=1, other=1) == {"sum": 2}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (children.crash, r"crashed \(SIGSEGV\)"),
        (children.be_killed, "ran out of memory"),
        (children.fail, "worker's log"),
        (children.leave, "worker's log"),
    ],
)
def test_a_child_that_ends_without_an_answer_is_told_of_in_words(function, words):
    with pytest.raises(ChildEnded, match=words):
        run(function)


def test_a_full_disk_is_not_the_childs_fault():
    with pytest.raises(OSError, match="no room") as caught:
        run(children.fill_the_disk, file="/dev/full")
    assert caught.value.errno == errno.ENOSPC


def gone(file: Path) -> bool:
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    def an_hour_later_once_it_sleeps() -> float:
        return time.monotonic() + (3600 if (tmp_path / "pid").exists() else 0)

    monkeypatch.setattr(confinement, "time", SimpleNamespace(monotonic=an_hour_later_once_it_sleeps))
    with pytest.raises(ChildEnded, match="more than 10 seconds"):
        run(children.sleep, file=str(tmp_path / "pid"), seconds=10)
    wait_for(lambda: gone(tmp_path / "pid"), "the child is still there")


def test_whoever_waits_may_stop_the_child(tmp_path):
    def check() -> None:
        if (tmp_path / "pid").exists():
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(children.sleep, file=str(tmp_path / "pid"), check=check)
    wait_for(lambda: gone(tmp_path / "pid"), "the child is still there")


@pytest.mark.parametrize("content", ["", "no JSON", "[1]", "[" * 100_000, "9" * (2 << 20)])
def test_an_answer_that_is_no_json_object_is_none(content):
    with pytest.raises(ChildEnded, match="no answer"):
        run(children.answer, content=content)


def test_a_child_does_not_speak_for_its_server():
    with pytest.raises(ChildEnded, match="worker's log"):
        run(children.write_a_line)
    assert run(children.add, one=1, other=1) == {"sum": 2}


def test_a_child_does_not_know_the_workers_environment(monkeypatch):
    monkeypatch.setenv("AIAO_KEY_ENCRYPTION_KEY", "secret")
    assert not [name for name in run(children.environment) if name.startswith("AIAO")]


def test_the_server_ends_with_its_worker():
    run(children.add, one=1, other=1)
    server = confinement._server()
    server.stdin.close()
    assert server.wait(30) == 0
    confinement._server.cache_clear()
