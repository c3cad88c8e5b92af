import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.tables.artifacts import Artifact
from tests.aiao_core.formats.test_identify import BAD, GOOD
from tests.support import uploads
from tests.support.calls import count, files, problem, send
from tests.support.processes import wait_for

pytestmark = pytest.mark.dialect

LIMIT = 8 << 20
"""What the fixture ``api`` sets as AIAO_MAX_UPLOAD_BYTES."""


@pytest.fixture
def nothing_left(api, backstage) -> Iterator[None]:
    """After the test there is not one object, file or row more than before, and no error of the service in its log."""

    def all_there_is() -> tuple[object, ...]:
        return files(api.data_dir / "storage"), count(backstage, "artifacts")

    before, logged = all_there_is(), len(api.log("api"))
    yield
    assert all_there_is() == before
    assert "Traceback" not in api.log("api")[logged:]


@pytest.mark.parametrize("name", GOOD)
def test_an_upload_is_answered_with_its_digest_size_and_kind(http, backstage, name):
    content, kind = GOOD[name]
    answer = send(http, content, name)
    assert answer.status_code == 201
    body = answer.json()
    digest = hashlib.sha256(content).hexdigest()
    assert (body["filename"], body["sha256"], body["size"], body["kind"]) == (name, digest, len(content), kind)
    assert http.get(f"/v1/artifacts/{body['id']}").json() == body
    with backstage.database.session() as session:
        key = session.scalars(sa.select(Artifact.object_name).where(Artifact.id == body["id"])).one()
    assert b"".join(backstage.storage.stream(key)) == content


def test_an_upload_may_come_in_chunks_of_unknown_length(http):
    content = uploads.tar_of({"weights": os.urandom(3 << 20)})
    pieces = (content[place : place + 100_000] for place in range(0, len(content), 100_000))
    assert send(http, pieces).json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_an_upload_of_exactly_the_limit_is_taken(http):
    content = uploads.tar_of({"weights": b""}).ljust(LIMIT, b"\0")
    assert send(http, content).json()["size"] == LIMIT


def test_an_upload_with_the_digest_it_announces_is_taken(http):
    assert send(http, uploads.MODEL_ZIP, sha256=hashlib.sha256(uploads.MODEL_ZIP).hexdigest()).status_code == 201


@pytest.mark.parametrize("filename", ["../../etc/passwd", "ünïcode 🙂.zip", "a" * 200])
def test_a_filename_is_a_word_and_no_path(api, http, nothing_left_but_one, filename):
    answer = send(http, uploads.zip_of({"name": filename.encode()}), filename)
    assert answer.json()["filename"] == filename


@pytest.fixture
def nothing_left_but_one(api) -> Iterator[None]:
    before = files(api.data_dir)
    yield
    new = {path for path in files(api.data_dir) - before if path.suffix not in (".log", ".sqlite-wal", ".sqlite-shm")}
    assert {path.parent for path in new} == {api.data_dir / "storage" / "artifacts"}
    assert len(new) == 1


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_refused_in_words_and_nothing_is_left(http, name):
    content, reason = (BAD | {"nothing": (b"", "empty")})[name]
    assert reason in problem(send(http, content, name), 422, "invalid-artifact")


@pytest.mark.usefixtures("nothing_left")
def test_an_upload_with_another_digest_than_announced_is_refused(http):
    detail = problem(send(http, uploads.MODEL_ZIP, sha256="0" * 64), 422, "invalid-artifact")
    assert hashlib.sha256(uploads.MODEL_ZIP).hexdigest() in detail


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "query", [{}, {"filename": ""}, {"filename": "a" * 201}, {"filename": "a\0"}, {"filename": "a", "sha256": "0"}]
)
def test_a_malformed_query_is_named(http, query):
    assert "query" in problem(http.post("/v1/artifacts", params=query, content=uploads.MODEL_ZIP), 422, "invalid-request")


@pytest.mark.usefixtures("nothing_left")
def test_a_large_upload_is_refused_by_the_length_it_announces(api, http):
    """Before its body is sent: only the header goes out."""
    with raw_upload(api, http, f"Content-Length: {LIMIT + 1}\r\n") as connection:
        answer = answer_on(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"upload-too-large" in answer
    assert str(LIMIT).encode() in answer


@pytest.mark.usefixtures("nothing_left")
def test_a_large_upload_in_chunks_is_refused_as_soon_as_it_is_too_large(api, http):
    with raw_upload(api, http, "Transfer-Encoding: chunked\r\n") as connection:
        connection.sendall(b"%x\r\n" % (LIMIT + 1) + bytes(LIMIT + 1) + b"\r\n")
        answer = answer_on(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"upload-too-large" in answer


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "length", [f"Content-Length: {8 << 20}\r\n", "Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"]
)
def test_of_an_upload_that_breaks_off_nothing_is_left(api, http, length):
    half = uploads.MODEL_ZIP + bytes(7 << 20)  # so much is collected before it is written
    with raw_upload(api, http, length) as connection:
        connection.sendall((b"%x\r\n" % len(half) if "chunked" in length else b"") + half)
        wait_for(lambda: begun(api), "the upload did not begin")
    wait_for(lambda: not begun(api), "the broken upload is still there")


def begun(api) -> set[Path]:
    """Objects that are being written."""
    return {file for file in files(api.data_dir / "storage") if "#" in file.name}


def answer_on(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"}") and (piece := connection.recv(65536)):
        answer += piece
    return answer


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("form", ["length", "chunked"])
def test_a_client_that_sends_on_still_hears_that_its_upload_is_too_large(http, form):
    content = bytes(8 * LIMIT)
    pieces = (content[place : place + (1 << 20)] for place in range(0, len(content), 1 << 20))
    problem(send(http, content if form == "length" else pieces), 413, "upload-too-large")


@pytest.mark.usefixtures("nothing_left")
def test_of_an_upload_that_is_reset_nothing_is_left(api, http):
    with raw_upload(api, http, f"Content-Length: {LIMIT}\r\n") as connection:
        connection.sendall(bytes(7 << 20))
        wait_for(lambda: begun(api), "the upload did not begin")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_for(lambda: not begun(api), "the broken upload is still there")


def raw_upload(api, http: httpx.Client, length: str) -> socket.socket:
    """A connection on which the header of an upload was sent."""
    connection = socket.create_connection(("127.0.0.1", int(api.settings["AIAO_PORT"])), timeout=30)
    connection.sendall(
        f"POST /v1/artifacts?filename=a.zip HTTP/1.1\r\nHost: test\r\nAuthorization: {http.headers['authorization']}\r\n"
        f"{length}\r\n".encode()
    )
    return connection
