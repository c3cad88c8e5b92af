"""Large files, which go to the bucket of the service if they can."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from aiao import ApiError, Client
from aiao._client import direct_upload
from aiao._client.artifacts import DIRECT_BYTES
from service.direct_uploads.service import PART_BYTES
from tests.support import uploads
from tests.support.faults import Wire
from tests.support.http_server import Handler, serving
from tests.support.processes import System, free_port, stop, system, wait_for

SIZE = DIRECT_BYTES + 1000
PARTS = -(-SIZE // PART_BYTES)


@pytest.fixture(scope="module")
def start(tmp_path_factory, redis_url, bucket) -> Callable[..., AbstractContextManager[System]]:
    """Starts a system whose storage is the bucket, which clients reach at an address of their own."""

    def start(name: str, endpoint: str) -> AbstractContextManager[System]:
        places = {"AIAO_STORAGE_URL": f"{bucket.url}/{name}", "AIAO_DIRECT_UPLOAD_ENDPOINT": endpoint}
        queue = {"AIAO_QUEUE": f"nobody-{name}"}
        return system(
            tmp_path_factory.mktemp(name), broker_url=redis_url, reaper=False, **places, **queue, **bucket.environment
        )

    return start


@pytest.fixture(scope="module")
def wire(bucket) -> Iterator[Wire]:
    """Between the clients and the bucket."""
    wire = Wire(int(bucket.environment["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def running(start, wire) -> Iterator[System]:
    with start("sdk", f"http://127.0.0.1:{wire.port}") as running:
        yield running


@pytest.fixture(scope="module")
def client(running) -> Iterator[Client]:
    with running.client() as client:
        yield client


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large.tar"
    path.write_bytes(uploads.tar_of({"a": tmp_path.name.encode()}).ljust(SIZE, b"\0"))
    return path


def calls(running: System, path: str) -> int:
    """How many calls for a path the API's log has."""
    return len(re.findall(f" {re.escape(path)} ", running.log("api")))


def test_a_large_file_goes_to_the_bucket(running, client, large):
    moved = []
    artifact = client.artifacts.upload(large, progress=lambda done, total: moved.append((done, total)))
    assert (artifact.filename, artifact.size, artifact.kind) == ("large.tar", SIZE, "archive")
    assert artifact.sha256 == sha256(large.read_bytes()).hexdigest()
    assert moved == [(min(SIZE, number * PART_BYTES), SIZE) for number in range(1, PARTS + 1)]
    complete = "/v1/direct-uploads/{direct_upload_id}/complete"
    wait_for(lambda: calls(running, complete), "the log, which follows the answer, does not name the call")
    assert calls(running, complete) == 1
    assert calls(running, "/v1/uploads") == 0


def test_a_large_file_of_no_known_kind_is_refused_once(running, client, tmp_path):
    (tmp_path / "noise.bin").write_bytes(b"\1" * SIZE)
    with pytest.raises(ApiError, match="pack a diffusers folder"):
        client.artifacts.upload(tmp_path / "noise.bin")
    assert calls(running, "/v1/uploads") == 0


@pytest.mark.slow
def test_an_upload_goes_on_after_the_way_to_the_bucket_was_cut(client, wire, large):
    moved = []

    def cut(done: int, _total: int) -> None:
        moved.append(done)
        if len(moved) == 2:
            wire.cut()
            threading.Timer(3, wire.mend).start()

    artifact = client.artifacts.upload(large, progress=cut)
    assert artifact.sha256 == sha256(large.read_bytes()).hexdigest()
    assert len(moved) == PARTS


@pytest.mark.slow
def test_while_the_bucket_refuses_a_part_it_gets_no_other(start, bucket, large, monkeypatch):
    """One of 20 GB that is full would be sent all that is left of the file, over and over."""
    monkeypatch.setattr(direct_upload, "AT_ONCE", 1)
    sent, refused = [], 6

    class Gate(Handler):
        def do_PUT(self) -> None:
            nonlocal refused
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append(int(parse_qs(urlsplit(self.path).query)["partNumber"][0]))
            if len(sent) > 1 and refused:
                refused -= 1
                self.send_response(503)
            else:
                answer = httpx.put(bucket.environment["AWS_ENDPOINT_URL"] + self.path, content=body, headers=dict(self.headers))
                self.send_response(answer.status_code)
                self.send_header("ETag", answer.headers["ETag"])
            self.end_headers()

    with serving(Gate) as port, start("refused", f"http://127.0.0.1:{port}") as running, running.client() as client:
        artifact = client.artifacts.upload(large)
    assert artifact.sha256 == sha256(large.read_bytes()).hexdigest()
    assert set(sent) == set(range(1, PARTS + 1))
    assert sent.count(PARTS) == 1, "the last part was sent while the second was refused"


@pytest.mark.slow
def test_an_upload_goes_on_after_the_api_was_killed(running, client, large):
    moved = []

    def kill(done: int, _total: int) -> None:
        moved.append(done)
        if len(moved) == PARTS:
            stop(running.processes["api"], signal.SIGKILL)
            threading.Timer(2, running.start_api).start()

    artifact = client.artifacts.upload(large, progress=kill)
    assert artifact.sha256 == sha256(large.read_bytes()).hexdigest()
    assert len(moved) == PARTS


@pytest.mark.slow
def test_where_the_bucket_cannot_be_reached_the_file_goes_through_the_service(start, large):
    with start("unreachable", f"http://127.0.0.1:{free_port()}") as running, running.client() as client:
        artifact = client.artifacts.upload(large)
        assert artifact.sha256 == sha256(large.read_bytes()).hexdigest()
        assert calls(running, "/v1/uploads") == 1
        assert calls(running, "/v1/direct-uploads/{direct_upload_id}") == 1  # it was given up
