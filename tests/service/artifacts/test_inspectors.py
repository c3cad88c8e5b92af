"""Uploads are looked at in another process, which a hostile file can keep busy, fill or end without harm to the API."""

import asyncio
import io
import os
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from service.artifacts import service
from service.artifacts.inspectors import Inspectors
from service.kit.credentials import Credentials
from service.kit.errors import InvalidArtifact, NotReady
from service.kit.storage import Storage
from tests.support import uploads
from tests.support.calls import files, problem, send
from tests.support.processes import wait_for

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")]

SMALL = Inspectors(1, cpu_seconds=1, memory_bytes=64 << 20)


def slow() -> bytes:
    """A TAR archive whose sparse file has 16 million numbers, which ``tarfile`` reads one by one."""
    entry, content = tarfile.TarInfo("a"), b"16000000\n" + b"1\n" * (16 << 20)
    entry.size = len(content)
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def large() -> bytes:
    """A small ZIP archive whose configuration is packed for a dictionary of 1.5 GiB."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("unet/config.json", b'{"sample_size": 8}')
    return target.getvalue().replace(struct.pack("<BI", 93, 8 << 20), struct.pack("<BI", 93, 1536 << 20))


@pytest.fixture
def inspectors(monkeypatch) -> Iterator[Inspectors]:
    monkeypatch.setattr(service, "INSPECTORS", SMALL)
    yield SMALL
    process = SMALL._places.get_nowait()  # it is free again, whatever happened
    SMALL._places.put(process)
    assert process is None or process.poll() is None


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage((tmp_path / "storage").as_uri(), Credentials())


def received(storage: Storage, content: bytes) -> service.ReceivedFile:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return asyncio.run(service.receive(storage, chunks(), filename="a.zip", expected_sha256=None, max_bytes=1 << 30))


@pytest.mark.parametrize(
    ("content", "reason"), [(slow, "more than 1 seconds of computing"), (large, "more than 64 MiB of memory")]
)
def test_a_file_that_takes_too_much_is_refused_in_words_and_nothing_is_left(inspectors, storage, tmp_path, content, reason):
    with pytest.raises(InvalidArtifact, match=reason):
        received(storage, content())
    assert not files(tmp_path / "storage")
    assert received(storage, uploads.MODEL_ZIP).kind == "archive"


def test_the_event_loop_goes_on_meanwhile(inspectors):
    async def turns_meanwhile() -> int:
        asked = asyncio.ensure_future(inspectors.ask("upload", partial(io.BytesIO, slow()), len(slow()), ""))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert isinstance(asked.exception(), InvalidArtifact)
        return turns

    assert asyncio.run(turns_meanwhile()) > 10


def test_an_inspector_stays_for_the_next_file(inspectors, storage):
    received(storage, uploads.MODEL_ZIP)
    first = inspectors._places.queue[0]
    received(storage, uploads.safetensors())
    assert inspectors._places.queue == [first]


def test_one_that_was_killed_while_it_waited_is_replaced(inspectors, storage):
    received(storage, uploads.MODEL_ZIP)
    process = inspectors._places.queue[0]
    process.kill()
    process.wait()
    assert received(storage, uploads.MODEL_ZIP).kind == "archive"


def test_one_that_is_killed_at_work_is_not_the_files_fault(inspectors, storage, tmp_path):
    """Where a container runs out of memory, the kernel kills an inspector before the API."""
    received(storage, uploads.MODEL_ZIP)
    process = inspectors._places.queue[0]

    class Killing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            process.send_signal(signal.SIGKILL)
            return super().read(size)

    asked = inspectors.ask("upload", partial(Killing, uploads.MODEL_ZIP), len(uploads.MODEL_ZIP), "")
    with pytest.raises(NotReady, match="was killed; try again"):
        asyncio.run(asked)
    assert received(storage, uploads.MODEL_ZIP).kind == "archive"


def test_a_fault_of_its_own_is_an_internal_error_that_cannot_write_what_it_likes(inspectors, storage):
    asked = inspectors.ask("\x1b[2J", partial(io.BytesIO, b"GGUF"), 4, "")
    with pytest.raises(RuntimeError, match="KeyError") as caught:
        asyncio.run(asked)
    assert str(caught.value).isprintable()
    assert received(storage, uploads.MODEL_ZIP).kind == "archive"


def test_it_knows_no_secret_and_goes_first_when_memory_is_short(inspectors, storage, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    inspectors._places.get_nowait()
    inspectors._places.put(None)  # a new one
    received(storage, uploads.MODEL_ZIP)
    folder = Path("/proc", str(inspectors._places.queue[0].pid))
    assert b"hidden" not in (folder / "environ").read_bytes()
    assert (folder / "oom_score_adj").read_text().strip() == "1000"


def test_it_ends_with_the_api(tmp_path):
    script = (
        "import io, asyncio, os; from service.artifacts.inspectors import INSPECTORS\n"
        "asyncio.run(INSPECTORS.ask('upload', lambda: io.BytesIO(b'GGUF'), 4, ''))\n"
        "print(next(p.pid for p in INSPECTORS._places.queue if p), flush=True); os.kill(os.getpid(), 9)"
    )
    pid = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip()
    wait_for(lambda: not Path("/proc", pid).exists(), "the inspector is there without the API")


def test_callers_that_can_do_without_an_answer_do_not_wait_for_one(inspectors):
    taken = inspectors._places.get_nowait()
    try:
        assert inspectors.ask_if_free("denoiser", partial(io.BytesIO, uploads.MODEL_ZIP), len(uploads.MODEL_ZIP)) is None
    finally:
        inspectors._places.put(taken)


@pytest.mark.dialect
def test_over_http_a_file_that_takes_too_much_is_refused_and_the_api_goes_on(api, http):
    before = files(api.data_dir / "storage")
    detail = problem(send(http, large()), 422, "invalid-artifact")
    assert "more than 384 MiB of memory" in detail
    assert "pack the folder again" in detail
    assert files(api.data_dir / "storage") == before
    assert send(http, uploads.zip_of({"model_index.json": os.urandom(9)})).status_code == 201
