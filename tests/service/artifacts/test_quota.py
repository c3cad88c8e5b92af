"""A tenant keeps as many bytes as its quota, by every way in, from the first byte of an upload on."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
import sqlalchemy as sa

from service.artifacts import quota
from service.artifacts.repository import ArtifactRepository
from service.auth.callers import digest
from service.direct_uploads.service import LIFETIME
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.tables.direct_uploads import DirectUpload
from service.tables.tokens import Tenant, Token
from service.tables.uploads import Upload
from tests.support import uploads
from tests.support.calls import TUS, append, begin, files, problem, send
from tests.support.processes import wait_for

pytestmark = pytest.mark.dialect


def fresh(size: int = 1000) -> bytes:
    """A model that nobody has uploaded yet."""
    return uploads.zip_of({"model_index.json": os.urandom(size)})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def chunked(*pieces: bytes) -> Iterator[bytes]:
    """A body whose length is not announced."""
    yield from pieces


def tenant_of(backstage, http: httpx.Client) -> str:
    secret = http.headers["authorization"].removeprefix("Bearer ")
    with backstage.database.session() as session:
        return session.scalars(sa.select(Token).where(Token.sha256 == digest(secret))).one().tenant_id


def used(backstage, http: httpx.Client) -> int:
    with backstage.database.session() as session:
        return ArtifactRepository(session, tenant_of(backstage, http)).bytes_used()


def set_quota(backstage, http: httpx.Client, more: int | None) -> None:
    """Let the tenant keep ``more`` bytes than it has."""
    limit = None if more is None else used(backstage, http) + more
    with backstage.database.session() as session:
        session.execute(sa.update(Tenant).where(Tenant.id == tenant_of(backstage, http)).values(quota_bytes=limit))


def listed(http: httpx.Client) -> list[dict]:
    return http.get("/v1/artifacts", params={"limit": 200}).raise_for_status().json()["items"]


def refused(answer: httpx.Response) -> bool:
    return "delete artifacts" in problem(answer, 403, "quota-exceeded")


def begin_answer(http: httpx.Client, length: int, **more: str) -> httpx.Response:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        begin(http, length, **more)
    return caught.value.response


class Stalled:
    """A client that sends the header of an upload and a part of its body, and then waits."""

    def __init__(self, api, http: httpx.Client, header: str, query: str = "") -> None:
        self._connection = socket.create_connection(("127.0.0.1", int(api.settings["AIAO_PORT"])), timeout=30)
        lines = (f"POST /v1/artifacts?filename=a.zip{query} HTTP/1.1", "Host: test", "Connection: close", header)
        token = f"Authorization: {http.headers['authorization']}"
        self._connection.sendall("\r\n".join([*lines, token, "", ""]).encode())

    def send(self, content: bytes) -> None:
        self._connection.sendall(content)

    def answer(self) -> bytes:
        return b"".join(iter(lambda: self._connection.recv(1 << 16), b""))

    def close(self) -> None:
        self._connection.close()


def test_a_quota_is_kept_by_every_way_in(caller, backstage):
    http = caller()
    send(http, fresh(100)).raise_for_status()
    set_quota(backstage, http, 4000)
    send(http, fresh(2000)).raise_for_status()
    before = listed(http)
    assert refused(send(http, fresh(3000)))
    assert refused(send(http, chunked(fresh(3000))))
    assert listed(http) == before
    upload_id = begin(http, 1500)
    assert refused(begin_answer(http, 1500))
    http.delete(f"/v1/uploads/{upload_id}", headers=TUS).raise_for_status()
    content = fresh(1000)
    append(http, begin(http, len(content)), content).raise_for_status()
    set_quota(backstage, http, None)
    send(http, fresh(9000)).raise_for_status()


def test_content_that_is_there_already_takes_nothing_of_the_quota(caller, backstage):
    http, content = caller(), fresh(2000)
    send(http, content).raise_for_status()
    set_quota(backstage, http, 10)
    send(http, content, "again.zip", sha256=sha256(content)).raise_for_status()
    append(http, begin(http, len(content), sha256=sha256(content)), content).raise_for_status()
    assert refused(send(http, content, "again.zip"))  # all that is known of it is that it is large


@pytest.mark.parametrize("more", [1, 100_000])
def test_a_digest_that_one_has_opens_no_upload_of_another_length(caller, backstage, more):
    http, content = caller(), fresh(2000)
    send(http, content).raise_for_status()
    set_quota(backstage, http, 10)
    large = content + bytes(more)
    assert refused(send(http, large, sha256=sha256(content)))
    assert refused(begin_answer(http, len(large), sha256=sha256(content)))
    assert refused(send(http, chunked(content), sha256=sha256(content)))  # it announces no length


def test_a_stream_with_a_false_digest_is_as_long_as_it_announced_at_most(api, caller, backstage):
    http, content = caller(), fresh(2000)
    send(http, content).raise_for_status()
    set_quota(backstage, http, 10)
    before = files(api.data_dir / "storage")
    other = fresh(2000)
    assert len(other) == len(content)
    problem(send(http, other, sha256=sha256(content)), 422, "invalid-artifact")
    upload_id = begin(http, len(content), sha256=sha256(content))
    problem(append(http, upload_id, other + b"1"), 413, "upload-too-large")
    problem(append(http, upload_id, other), 422, "invalid-artifact")
    assert files(api.data_dir / "storage") == before
    assert used(backstage, http) == len(content)


def test_a_digest_opens_one_upload_at_a_time(api, caller, backstage):
    """Each could hold as many bytes, of whatever content."""
    http, content = caller(), fresh(2000)
    send(http, content).raise_for_status()
    set_quota(backstage, http, 10)
    upload_id = begin(http, len(content), sha256=sha256(content))
    assert refused(begin_answer(http, len(content), sha256=sha256(content)))
    assert refused(send(http, content, sha256=sha256(content)))
    http.delete(f"/v1/uploads/{upload_id}", headers=TUS).raise_for_status()
    with closing(Stalled(api, http, f"Content-Length: {len(content)}", f"&sha256={sha256(content)}")) as stalled:
        wait_for(lambda: held(backstage, http), "nothing is held")
        assert refused(begin_answer(http, len(content), sha256=sha256(content)))
        stalled.send(content)
        assert b" 201 " in stalled.answer()
    begin(http, len(content), sha256=sha256(content))


def held(backstage, http: httpx.Client) -> list[int]:
    """The announced lengths of the tenant's uploads under way."""
    with backstage.database.session() as session:
        mine = Upload.tenant_id == tenant_of(backstage, http), Upload.artifact_id.is_(None)
        return list(session.scalars(sa.select(Upload.length).where(*mine)))


def test_two_uploads_side_by_side_that_fit_alone_do_not_both_come_in(api, caller, backstage):
    http = caller()
    set_quota(backstage, http, 4000)
    content = fresh(2500)
    with closing(Stalled(api, http, f"Content-Length: {len(content)}")) as first:
        first.send(content[:100])
        wait_for(lambda: held(backstage, http) == [len(content)], "nothing is held")
        assert refused(send(http, fresh(2500)))
        assert refused(send(http, chunked(fresh(2500))))
        assert refused(begin_answer(http, 2500))
        first.send(content[100:])
        assert b" 201 " in first.answer()
    assert [each["sha256"] for each in listed(http)] == [sha256(content)]
    assert held(backstage, http) == []


def test_of_many_uploads_at_once_as_many_come_in_as_fit(caller, backstage):
    http = caller()
    contents = [fresh(1000) for _ in range(8)]
    set_quota(backstage, http, 3 * len(contents[0]))
    answers: list[int] = []

    def upload(content: bytes, number: int) -> None:
        body = content if number % 2 else chunked(content)
        answers.append(send(http, body).status_code)

    threads = [threading.Thread(target=upload, args=(content, number)) for number, content in enumerate(contents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) <= {201, 403}
    assert 1 <= answers.count(201) <= 3
    assert used(backstage, http) == answers.count(201) * len(contents[0])


def test_a_body_without_a_length_is_stopped_where_the_quota_ends(api, caller, backstage):
    http = caller()
    set_quota(backstage, http, 300_000)
    before = files(api.data_dir / "storage")
    with closing(Stalled(api, http, "Transfer-Encoding: chunked")) as endless:
        piece = os.urandom(1 << 16)
        for _ in range(5):  # no chunk says that it is the last one
            endless.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        assert b"quota-exceeded" in endless.answer()
    wait_for(lambda: held(backstage, http) == [], "bytes stay held")
    assert files(api.data_dir / "storage") == before


def test_a_body_without_a_length_holds_what_came_and_leaves_the_rest(api, caller, backstage):
    http = caller()
    step, small = quota.STEP_BYTES, fresh(1000)
    set_quota(backstage, http, step + 4000)
    with closing(Stalled(api, http, "Transfer-Encoding: chunked")) as stalled:
        stalled.send(b"3e8\r\n" + bytes(1000) + b"\r\n")
        wait_for(lambda: held(backstage, http) == [step], "nothing is held")
        send(http, small).raise_for_status()
        assert refused(send(http, fresh(4000)))
    wait_for(lambda: held(backstage, http) == [], "bytes stay held")


def test_an_interrupted_upload_gives_its_bytes_back(api, caller, backstage):
    http = caller()
    set_quota(backstage, http, 4000)
    with closing(Stalled(api, http, "Content-Length: 4000")) as leaving:
        leaving.send(b"PK")
        wait_for(lambda: held(backstage, http) == [4000], "nothing is held")
    wait_for(lambda: held(backstage, http) == [], "bytes stay held")
    send(http, fresh(2000)).raise_for_status()


def test_direct_uploads_count_and_those_of_stored_content_once(caller, backstage):
    http, content = caller(), fresh(2000)
    send(http, content).raise_for_status()
    kept, tenant_id = used(backstage, http), tenant_of(backstage, http)
    sizes = ((None, 500), (sha256(content), len(content)), (sha256(content), len(content)), (sha256(content), 700))
    now = utc_now()
    with backstage.database.session() as session:
        session.add_all(
            DirectUpload(
                id=new_id("mpu"), tenant_id=tenant_id, filename="a", sha256=announced, size=size, part_bytes=size,
                multipart_id="none", created_at=now, expires_at=now + LIFETIME,
            )
            for announced, size in sizes
        )  # fmt: skip
    assert used(backstage, http) == kept + 500 + len(content) + 700


def test_a_tenant_without_a_quota_costs_no_row(api, caller, backstage):
    http, content = caller(), fresh()
    with closing(Stalled(api, http, f"Content-Length: {len(content)}")) as stalled:
        stalled.send(content[:100])
        send(http, fresh()).raise_for_status()
        assert held(backstage, http) == []
        stalled.send(content[100:])
        assert b" 201 " in stalled.answer()
