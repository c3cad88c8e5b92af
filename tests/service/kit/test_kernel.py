"""Secrets in a process's memory and environment are not there for others of the same user."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.places import PROJECT

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc"),
    pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root reads everything"),
]

USER = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.getuid() == 0 else ()
"""Root without what root may do more than others."""

OPENED = "from service.context import Context; from service.settings import Settings; Context.open(Settings())"
STARTS = {
    "nothing": "pass",
    "context": OPENED,
    "worker": "import worker.app",
}
STAYS = "; print('started', flush=True); input()"


@contextmanager
def started(code: str, tmp_path) -> Iterator[int]:
    """The number of a process that has run ``code`` and waits."""
    environment = os.environ | {"AIAO_DATA_DIR": str(tmp_path)}
    with subprocess.Popen(
        [*USER, sys.executable, "-c", code + STAYS], cwd=PROJECT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"started\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize("name", STARTS)
def test_another_process_of_the_user_cannot_read_a_services_environment(name, tmp_path):
    with started(STARTS[name], tmp_path) as pid:
        read = subprocess.run([*USER, "cat", f"/proc/{pid}/environ"], capture_output=True, text=True, check=False)
    assert (read.returncode == 0) == (name == "nothing"), read.stderr
    assert (str(tmp_path) in read.stdout) == (name == "nothing")
