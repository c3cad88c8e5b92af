"""Resumable uploads, by the official client of tus and by hand."""

import asyncio
import base64
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import pairwise

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

from service.kit.database import utc_now
from service.processes.garbage import collect
from service.tables.uploads import Upload
from service.uploads import service
from service.uploads.schemas import Metadata
from tests.support import rows, uploads
from tests.support.calls import TUS, append, begin, count, files, problem, send
from tests.support.processes import wait_for

pytestmark = pytest.mark.dialect

LIMIT = 8 << 20
"""What the fixture ``api`` sets as AIAO_MAX_UPLOAD_BYTES."""


def weights(size: int = 300_000) -> bytes:
    """A TAR archive that nobody has uploaded yet."""
    return uploads.tar_of({"weights": os.urandom(size)})


def where(http: httpx.Client, upload_id: str) -> tuple[int, str | None]:
    """How much is there, and what came of it."""
    answer = http.head(f"/v1/uploads/{upload_id}", headers=TUS).raise_for_status()
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"]), answer.headers.get("aiao-artifact")


def digest(http: httpx.Client, artifact_id: str) -> str:
    return http.get(f"/v1/artifacts/{artifact_id}").raise_for_status().json()["sha256"]


@pytest.fixture
def no_part_left(api, backstage) -> Iterator[None]:
    """After the test no part of its own is in storage or in the database, and no error of the service is in its log."""
    logged, parts, rows = len(api.log("api")), files(api.data_dir / "storage" / "uploads"), count(backstage, "upload_parts")
    yield
    assert files(api.data_dir / "storage" / "uploads") == parts
    assert count(backstage, "upload_parts") == rows
    assert "Traceback" not in api.log("api")[logged:]


@pytest.fixture
def official(api, http, tmp_path):
    """Uploads content by the official client; returns what it made and the last request's answer."""

    def upload(content: bytes, **options):
        (tmp_path / "weights.tar").write_bytes(content)
        client = TusClient(f"{api.url}/v1/uploads", headers={"Authorization": http.headers["authorization"]})
        options = {"metadata": {"filename": "weights.tar"}} | options
        uploader = client.uploader(str(tmp_path / "weights.tar"), **options)
        uploader.upload()
        return uploader.request.response_headers["aiao-artifact"]

    return upload


@pytest.mark.usefixtures("no_part_left")
@pytest.mark.parametrize("options", [{}, {"chunk_size": 70_000}, {"chunk_size": 70_000, "upload_checksum": True}])
def test_the_official_client_uploads_a_file(http, official, options):
    content = weights()
    assert digest(http, official(content, **options)) == hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("no_part_left")
def test_the_official_client_goes_on_where_it_stopped(api, http, tmp_path):
    content = weights()
    (tmp_path / "weights.tar").write_bytes(content)
    client = TusClient(f"{api.url}/v1/uploads", headers={"Authorization": http.headers["authorization"]})
    first = client.uploader(str(tmp_path / "weights.tar"), chunk_size=100_000, metadata={"filename": "weights.tar"})
    first.upload_chunk()
    second = client.uploader(str(tmp_path / "weights.tar"), url=first.url)
    assert second.offset == 100_000
    second.upload()
    artifact_id = second.request.response_headers["aiao-artifact"]
    assert digest(http, artifact_id) == hashlib.sha256(content).hexdigest()


def test_the_official_client_hears_what_is_wrong(official, http):
    with pytest.raises(TusUploadFailed) as failed:
        official(b"this is no model" * 10)
    assert b"invalid-artifact" in failed.value.response_content
    with pytest.raises(TusCommunicationError) as refused:
        official(weights(), metadata={})
    assert b"filename" in refused.value.response_content


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(1, 9999), max_size=6, unique=True))
def test_however_a_file_is_cut_it_comes_out_whole(http, cuts):
    content = uploads.tar_of({"a": bytes(9000)})[:10_000].ljust(10_000, b"\0")
    places = [0, *sorted(cuts), len(content)]
    upload_id = begin(http, len(content), sha256=hashlib.sha256(content).hexdigest())
    for start, end in pairwise(places):
        answer = append(http, upload_id, content[start:end], start).raise_for_status()
        assert int(answer.headers["upload-offset"]) == end
        assert answer.headers["tus-resumable"] == "1.0.0"
    assert where(http, upload_id) == (len(content), answer.headers["aiao-artifact"])
    artifact = http.get(f"/v1/artifacts/{answer.headers['aiao-artifact']}").json()
    assert (artifact["sha256"], artifact["kind"]) == (hashlib.sha256(content).hexdigest(), "archive")


def broken_off(api, http, upload_id: str, content: bytes, *headers: str) -> None:
    """Send the header of a request for all of a file, a part of its body, and then nothing."""
    with socket.create_connection(("127.0.0.1", int(api.settings["AIAO_PORT"])), timeout=30) as connection:
        lines = (
            f"PATCH /v1/uploads/{upload_id} HTTP/1.1", "Host: test", f"Authorization: {http.headers['authorization']}",
            "Tus-Resumable: 1.0.0", "Upload-Offset: 0", "Content-Type: application/offset+octet-stream",
            f"Content-Length: {len(content) + 1000}", *headers,
        )  # fmt: skip
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        wait_for(lambda: files(api.data_dir / "storage" / "uploads" / upload_id), "nothing came in")


READ_AHEAD = 512 << 10
"""Bytes of a body that uvicorn has read and the service has not may be lost when the client goes: 64 KiB and one read more."""


def test_what_came_of_a_request_that_broke_off_is_kept(api, http):
    content, sent = weights(1_300_000), 1_000_000
    upload_id = begin(http, len(content))
    broken_off(api, http, upload_id, content[:sent])
    wait_for(lambda: where(http, upload_id)[0], "the bytes that came in are not there")
    kept, _ = where(http, upload_id)
    assert sent - READ_AHEAD <= kept <= sent
    answer = append(http, upload_id, content[kept:], kept).raise_for_status()
    assert digest(http, answer.headers["aiao-artifact"]) == hashlib.sha256(content).hexdigest()


def test_every_byte_that_the_service_was_handed_is_kept(context, tenant):
    async def broken_off() -> AsyncIterator[bytes]:
        for chunk in (b"a" * 150_000, b"b" * 50_000):
            yield chunk
        raise ClientDisconnect

    with context.database.session() as session:
        upload = service.create(session, rows.caller(tenant), Metadata(filename="weights.tar"), 300_000)
    assert asyncio.run(service.append(context, upload, broken_off(), None)) == 200_000
    assert service.find(context, tenant, upload.id).offset == 200_000
    (part,) = files(context.settings.data_dir / "storage" / "uploads" / upload.id)
    assert part.read_bytes() == b"a" * 150_000 + b"b" * 50_000


@pytest.mark.usefixtures("no_part_left")
def test_of_a_request_with_a_checksum_that_broke_off_nothing_is_kept(api, http):
    content = weights()
    upload_id = begin(http, len(content))
    announced = base64.b64encode(hashlib.sha256(content[:200_000]).digest()).decode()
    broken_off(api, http, upload_id, content[:200_000], f"Upload-Checksum: sha256 {announced}")
    wait_for(lambda: not files(api.data_dir / "storage" / "uploads" / upload_id), "the bytes are still there")
    assert where(http, upload_id) == (0, None)


@pytest.mark.usefixtures("no_part_left")
@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_bytes_with_another_checksum_are_refused_and_may_be_sent_again(http, algorithm):
    content = weights()
    upload_id = begin(http, len(content))
    announced = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
    damaged = bytes([content[0] ^ 1]) + content[1:]
    problem(append(http, upload_id, damaged, **{"Upload-Checksum": f"{algorithm} {announced}"}), 460, "checksum-mismatch")
    assert where(http, upload_id) == (0, None)
    append(http, upload_id, content, **{"Upload-Checksum": f"{algorithm} {announced}"}).raise_for_status()


def test_of_two_requests_that_append_at_once_one_wins(http):
    content = weights(2 << 20)
    upload_id = begin(http, len(content), sha256=hashlib.sha256(content).hexdigest())
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(append(http, upload_id, content))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [204, 409, 409, 409]
    assert where(http, upload_id)[0] == len(content)


def test_the_last_request_may_be_repeated(http, backstage):
    """Its answer, which names the artifact, may have been lost."""
    content = weights()
    upload_id = begin(http, len(content))
    first = append(http, upload_id, content).raise_for_status()
    before = count(backstage, "artifacts")
    second = append(http, upload_id, b"", len(content)).raise_for_status()
    assert second.headers["aiao-artifact"] == first.headers["aiao-artifact"]
    assert count(backstage, "artifacts") == before


def test_an_upload_whose_part_was_lost_fails_and_says_no_more(api, http):
    content = weights()
    upload_id = begin(http, len(content))
    append(http, upload_id, content[:1000]).raise_for_status()
    (part,) = files(api.data_dir / "storage" / "uploads" / upload_id)
    part.unlink()
    problem(append(http, upload_id, content[1000:], 1000), 500, "internal-server-error")
    http.delete(f"/v1/uploads/{upload_id}", headers=TUS).raise_for_status()
    assert not files(api.data_dir / "storage" / "uploads" / upload_id)


@pytest.mark.usefixtures("no_part_left")
def test_another_file_than_announced_is_refused_and_forgotten(http):
    content = weights()
    upload_id = begin(http, len(content), sha256="0" * 64)
    assert hashlib.sha256(content).hexdigest() in problem(append(http, upload_id, content), 422, "invalid-artifact")
    assert http.head(f"/v1/uploads/{upload_id}", headers=TUS).status_code == 404


@pytest.mark.usefixtures("no_part_left")
def test_more_bytes_than_announced_are_refused(http):
    content = weights()
    upload_id = begin(http, 1000)
    assert "1000" in problem(append(http, upload_id, content), 413, "upload-too-large")
    assert where(http, upload_id) == (0, None)


def test_an_offset_that_is_not_where_the_upload_stands_is_refused(http):
    upload_id = begin(http, 1000)
    assert "0 bytes of" in problem(append(http, upload_id, b"a", 5), 409, "conflict")


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"Tus-Resumable": "0.2.2"}, 412, "unsupported-tus-version"),
        ({"Content-Type": "application/json"}, 415, "unsupported-media-type"),
        ({"Upload-Checksum": "md5 YQ=="}, 400, "bad-request"),
        ({"Upload-Checksum": "sha1"}, 400, "bad-request"),
        ({"Upload-Offset": "-1"}, 422, "invalid-request"),
        ({"Upload-Offset": "first"}, 422, "invalid-request"),
    ],
)
def test_a_header_that_cannot_be_used_is_named(http, headers, status, slug):
    upload_id = begin(http, 1000)
    answer = append(http, upload_id, b"a", **headers)
    assert next(iter(headers)).lower() in problem(answer, status, slug).lower()
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert where(http, upload_id) == (0, None)


@pytest.mark.parametrize("metadata", ["", "filename", "filename !", "name YQ==", "filename YQ==,sha256 YQ==", "filename gA=="])
def test_metadata_that_cannot_be_read_begin_no_upload(http, backstage, metadata):
    before = count(backstage, "uploads")
    answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": "10", "Upload-Metadata": metadata})
    assert "Upload-Metadata" in problem(answer, 400, "bad-request")
    assert count(backstage, "uploads") == before


@pytest.mark.parametrize(("length", "status"), [("0", 422), ("-1", 422), ("much", 422), (str(LIMIT + 1), 413)])
def test_a_length_that_cannot_be_begins_no_upload(http, length, status):
    answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": length, "Upload-Metadata": "filename YQ=="})
    assert answer.status_code == status


def test_the_server_says_what_it_can_without_a_token(api):
    answer = httpx.options(f"{api.url}/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-extension"] == "creation,checksum,expiration,termination"
    assert int(answer.headers["tus-max-size"]) == LIMIT


@pytest.mark.usefixtures("no_part_left")
def test_an_upload_that_is_given_up_is_gone(http):
    upload_id = begin(http, 1000)
    append(http, upload_id, b"a" * 500).raise_for_status()
    http.delete(f"/v1/uploads/{upload_id}", headers=TUS).raise_for_status()
    assert http.head(f"/v1/uploads/{upload_id}", headers=TUS).status_code == 404
    problem(append(http, upload_id, b"a", 500), 404, "not-found")


@pytest.mark.usefixtures("no_part_left")
def test_an_upload_expires_and_is_collected(http, backstage):
    upload_id = begin(http, 1000)
    append(http, upload_id, b"a" * 500).raise_for_status()
    with backstage.database.session() as session:
        session.execute(sa.update(Upload).where(Upload.id == upload_id).values(expires_at=utc_now() - timedelta(seconds=1)))
    problem(append(http, upload_id, b"a", 500), 410, "gone")
    assert collect(backstage) == 1
    assert http.head(f"/v1/uploads/{upload_id}", headers=TUS).status_code == 404


def test_an_upload_is_a_tenants_own(http, stranger):
    upload_id = begin(http, 1000)
    for answer in (append(stranger, upload_id, b"a"), stranger.delete(f"/v1/uploads/{upload_id}", headers=TUS)):
        problem(answer, 404, "not-found")
    assert where(http, upload_id) == (0, None)


def test_the_same_file_by_another_way_shares_its_object(api, http):
    content = weights()
    one = send(http, content).json()["id"]
    before = files(api.data_dir / "storage" / "artifacts")
    upload_id = begin(http, len(content))
    other = append(http, upload_id, content).raise_for_status().headers["aiao-artifact"]
    assert other != one
    assert files(api.data_dir / "storage" / "artifacts") == before


def test_a_folder_takes_no_direct_uploads_and_says_what_does(http, owned):
    answers = [
        http.post("/v1/direct-uploads", json={"filename": "a", "size": 10}),
        http.get(f"/v1/direct-uploads/{owned.direct_upload_id}/parts"),
        http.post(f"/v1/direct-uploads/{owned.direct_upload_id}/complete", json={"parts": [{"number": 1, "etag": "a"}]}),
    ]
    for answer in answers:
        assert "POST /v1/uploads" in problem(answer, 409, "no-direct-uploads")
