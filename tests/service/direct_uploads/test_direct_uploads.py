"""Direct uploads, at an S3 server that verifies signatures."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from service.artifacts.service import object_name
from service.context import Context
from service.direct_uploads.schemas import DirectUploadIn
from service.direct_uploads.service import PART_BYTES, begun
from service.kit.bucket import Bucket
from service.kit.credentials import Credentials
from service.kit.database import utc_now
from service.kit.errors import NotReady
from service.kit.storage import Storage
from service.processes.garbage import collect
from service.settings import Settings
from service.tables.direct_uploads import DirectUpload
from service.tables.tokens import Tenant
from tests.support import rows, uploads
from tests.support.calls import callers, post, problem, send
from tests.support.databases import postgres_database
from tests.support.processes import System, free_port, system

LIMIT = 256 << 20


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def api(request, tmp_path_factory, redis_url, bucket) -> Iterator[System]:
    """The API on each database, its storage a folder of a bucket."""
    with (
        postgres_database() if request.param == "postgresql" else nullcontext("") as url,
        system(
            tmp_path_factory.mktemp(f"direct-{request.param}"),
            database_url=url,
            broker_url=redis_url,
            reaper=False,
            AIAO_QUEUE=f"nobody-direct-{request.param}",
            AIAO_STORAGE_URL=f"{bucket.url}/the company/{request.param}",
            AIAO_MAX_UPLOAD_BYTES=str(LIMIT),
            **bucket.environment,
        ) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def backstage(api, bucket) -> Iterator[Context]:
    names = ("database_url", "broker_url", "queue", "storage_url")
    with bucket.known():
        settings = Settings(data_dir=api.data_dir, **{name: api.settings[f"AIAO_{name.upper()}"] for name in names})
        context = Context.open(settings)
    yield context
    context.close()


@pytest.fixture(scope="module")
def caller(api, backstage):
    with callers(api, backstage) as call:
        yield call


@pytest.fixture(scope="module")
def http(caller) -> httpx.Client:
    return caller()


@pytest.fixture(scope="module")
def stranger(caller) -> httpx.Client:
    return caller()


@pytest.fixture
def nothing_left(api, backstage) -> Iterator[None]:
    """After the test the bucket has no more objects or unfinished ones than before, and the service's log no error."""
    before, logged = in_bucket(backstage), len(api.log("api"))
    yield
    assert in_bucket(backstage) == before
    assert "Traceback" not in api.log("api")[logged:]


def in_bucket(backstage: Context) -> set[str]:
    objects = {each.key for some in backstage.storage.list("artifacts") for each in some}
    return objects | {
        multipart_id for _, multipart_id in backstage.bucket.unfinished("artifacts", utc_now() + timedelta(days=1))
    }


def weights(size: int = 300_000) -> bytes:
    """A TAR archive of this size that nobody has uploaded yet."""
    return uploads.tar_of({"weights": os.urandom(1000)}).ljust(size, b"\0")


def begin(http: httpx.Client, content: bytes, **more: object) -> dict:
    body = {"filename": "weights.tar", "size": len(content)} | more
    return post(http, "/v1/direct-uploads", body).raise_for_status().json()


def parts(http: httpx.Client, upload: dict, **query: int) -> dict:
    answer = http.get(f"/v1/direct-uploads/{upload['id']}/parts", params=query).raise_for_status()
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def put(content: bytes, part: dict) -> str:
    """Send a part as any client of S3 does; returns its ETag."""
    start = (part["number"] - 1) * PART_BYTES
    return httpx.put(part["url"], content=content[start : start + part["size"]]).raise_for_status().headers["etag"]


def put_all(http: httpx.Client, upload: dict, content: bytes) -> list[dict]:
    return [{"number": part["number"], "etag": put(content, part)} for part in parts(http, upload)["items"]]


def complete(http: httpx.Client, upload: dict, named: list[dict], **headers: str) -> httpx.Response:
    return post(http, f"/v1/direct-uploads/{upload['id']}/complete", {"parts": named}, **headers)


def shown(http: httpx.Client, upload: dict) -> dict:
    return http.get(f"/v1/direct-uploads/{upload['id']}").raise_for_status().json()


@pytest.mark.dialect
def test_a_file_goes_to_the_bucket_in_parts_and_becomes_an_artifact(http, backstage):
    content = weights(2 * PART_BYTES + 1000)
    upload = begin(http, content, sha256=hashlib.sha256(content).hexdigest())
    assert (upload["part_bytes"], upload["parts"]) == (PART_BYTES, 3)
    listed = parts(http, upload)
    assert [(part["number"], part["size"], part["etag"]) for part in listed["items"]] == [
        (1, PART_BYTES, None), (2, PART_BYTES, None), (3, 1000, None)
    ]  # fmt: skip
    named = [{"number": part["number"], "etag": put(content, part)} for part in listed["items"]]
    artifact = complete(http, upload, named).raise_for_status().json()
    assert (artifact["sha256"], artifact["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (artifact["kind"], artifact["filename"]) == ("archive", "weights.tar")
    assert http.get(f"/v1/artifacts/{artifact['id']}").json() == artifact
    assert shown(http, upload)["artifact_id"] == artifact["id"]
    assert b"".join(backstage.storage.stream(object_name(upload["id"]))) == content
    acts = [(act["action"], act["subject_id"]) for act in http.get("/v1/activity").json()["items"]]
    assert acts[:2] == [("artifact.upload", artifact["id"]), ("upload.create", upload["id"])]


def test_a_url_takes_its_part_alone_and_of_its_length_alone(http):
    content = weights(PART_BYTES + 1000)
    listed = parts(http, begin(http, content))["items"]
    short, long, other = content[:999], content[:1001], listed[1]["url"].replace("partNumber=2", "partNumber=1")
    for url, body in ((listed[1]["url"], short), (listed[1]["url"], long), (other, content[:1000])):
        assert httpx.put(url, content=body).status_code == 403
    assert httpx.get(listed[1]["url"]).status_code == 403
    assert httpx.delete(listed[1]["url"]).status_code == 403
    put(content, listed[1])


def test_parts_are_listed_page_by_page_with_those_that_are_there(http):
    content = weights(2 * PART_BYTES + 1000)
    upload = begin(http, content)
    page = parts(http, upload, limit=2)
    assert ([part["number"] for part in page["items"]], page["next_after"]) == ([1, 2], 2)
    etag = put(content, page["items"][1])
    page = parts(http, upload, after=1, limit=1)
    assert ([part["etag"] for part in page["items"]], page["next_after"]) == ([etag.strip('"')], 2)
    page = parts(http, upload, after=2, limit=1)
    assert ([part["number"] for part in page["items"]], page["next_after"]) == ([3], None)
    assert parts(http, upload, after=3) == {"items": [], "next_after": None}


def test_a_very_large_file_has_no_more_parts_than_s3_lists_at_once(backstage):
    request = DirectUploadIn(filename="a", size=20_000_000_001)
    with (
        begun(backstage, rows.caller(rows.tenant(backstage.database)), request) as store,
        backstage.database.session() as session,
    ):
        upload = store(session)
    sizes = [upload.size_of(number) for number in range(1, upload.parts + 1)]
    assert (len(sizes), sum(sizes)) == (1000, request.size)


def test_missing_wrong_and_repeated_parts_are_named_and_can_be_mended(http):
    content = weights(2 * PART_BYTES + 1000)
    upload = begin(http, content)
    first, second, third = parts(http, upload)["items"]
    named = [{"number": 1, "etag": put(content, first)}]
    detail = problem(complete(http, upload, named), 422, "invalid-parts")
    assert "2 of the parts (2, 3) are not in the bucket" in detail
    named += [{"number": 2, "etag": put(content, second)}, {"number": 3, "etag": put(content, third)}]
    assert "1 to 3" in problem(complete(http, upload, named[:2]), 422, "invalid-parts")
    assert "twice" in problem(complete(http, upload, [*named, named[0]]), 422, "invalid-parts")
    wrong = [named[0], named[1] | {"etag": "0" * 32}, named[2]]
    assert "1 of the parts (2) are there with another ETag" in problem(complete(http, upload, wrong), 422, "invalid-parts")
    assert complete(http, upload, named).status_code == 201


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("case", ["no known kind", "another digest"])
def test_another_content_than_announced_or_known_is_refused_and_forgotten(http, case):
    content, more = (b"\1" * 160, {}) if case == "no known kind" else (weights(), {"sha256": "0" * 64})
    upload = begin(http, content, **more)
    detail = problem(complete(http, upload, put_all(http, upload, content)), 422, "invalid-artifact")
    assert ("pack a diffusers folder" if case == "no known kind" else hashlib.sha256(content).hexdigest()) in detail
    assert http.get(f"/v1/direct-uploads/{upload['id']}").status_code == 404


@pytest.mark.usefixtures("nothing_left")
def test_an_upload_that_is_given_up_is_aborted_in_the_bucket(http):
    content = weights()
    upload = begin(http, content)
    (part,) = parts(http, upload)["items"]
    named = [{"number": 1, "etag": put(content, part)}]
    http.delete(f"/v1/direct-uploads/{upload['id']}").raise_for_status()
    assert httpx.put(part["url"], content=content).status_code == 404
    problem(complete(http, upload, named), 404, "not-found")


def test_an_artifact_outlives_its_upload(http):
    content = weights()
    upload = begin(http, content)
    artifact = complete(http, upload, put_all(http, upload, content)).json()
    assert complete(http, upload, [{"number": 1, "etag": "any"}]).json() == artifact
    http.delete(f"/v1/direct-uploads/{upload['id']}").raise_for_status()
    assert http.get(f"/v1/artifacts/{artifact['id']}").json() == artifact


def test_what_is_complete_cannot_be_changed(http, backstage):
    content = weights()
    upload = begin(http, content)
    (part,) = parts(http, upload)["items"]
    named = [{"number": 1, "etag": put(content, part)}]
    complete(http, upload, named).raise_for_status()
    assert httpx.put(part["url"], content=bytes(len(content))).status_code == 404
    assert b"".join(backstage.storage.stream(object_name(upload["id"]))) == content
    assert upload["id"] in problem(http.get(f"/v1/direct-uploads/{upload['id']}/parts"), 410, "gone")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.dialect
def test_an_upload_expires_and_is_collected(http, backstage):
    content = weights()
    upload = begin(http, content)
    named = put_all(http, upload, content)
    expire(backstage, upload)
    for answer in (complete(http, upload, named), http.get(f"/v1/direct-uploads/{upload['id']}/parts")):
        problem(answer, 410, "gone")
    assert collect(backstage) == 1
    assert http.get(f"/v1/direct-uploads/{upload['id']}").status_code == 404


def expire(backstage: Context, upload: dict) -> None:
    with backstage.database.session() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(sa.update(DirectUpload).where(DirectUpload.id == upload["id"]).values(expires_at=past))


def test_asking_for_parts_keeps_an_upload_alive(http, backstage):
    upload = begin(http, weights())
    soon = utc_now() + timedelta(minutes=1)
    with backstage.database.session() as session:
        session.execute(sa.update(DirectUpload).where(DirectUpload.id == upload["id"]).values(expires_at=soon))
    parts(http, upload)
    assert shown(http, upload)["expires_at"] > (soon + timedelta(hours=23)).isoformat()


@pytest.mark.dialect
def test_garbage_is_what_the_bucket_began_a_day_ago_and_no_upload_goes_on_with(http, backstage):
    content, later = weights(), utc_now() + timedelta(days=1, hours=1)
    with backstage.database.session() as session:  # the uploads of other tests must not expire in this one
        session.execute(sa.update(DirectUpload).values(expires_at=later + timedelta(days=1)))
    upload = begin(http, content)
    with backstage.database.session() as session:
        session.execute(sa.update(DirectUpload).values(expires_at=later + timedelta(days=1)))
    collect(backstage, later)
    before = in_bucket(backstage)
    for key in ("artifacts/stray", "marked/stray", "training/stray"):  # as obstore does
        backstage.bucket.begin(key)
    assert collect(backstage) == 0
    assert collect(backstage, later) == 3
    assert in_bucket(backstage) == before
    complete(http, upload, put_all(http, upload, content)).raise_for_status()


def test_an_object_that_is_being_read_is_no_garbage(http, backstage):
    """S3 dates an object by the beginning of its multipart upload, which may be days ago."""
    content = weights()
    upload = begin(http, content)
    put_all(http, upload, content)
    key = object_name(upload["id"])
    with backstage.database.session() as session:
        multipart_id = session.get(DirectUpload, upload["id"]).multipart_id
        session.execute(sa.update(DirectUpload).values(expires_at=utc_now() + timedelta(days=9)))
    backstage.bucket.complete(key, multipart_id, backstage.bucket.parts(key, multipart_id))
    collect(backstage, utc_now() + timedelta(days=2))
    assert b"".join(backstage.storage.stream(key)) == content


def test_a_call_that_broke_off_after_it_had_joined_the_parts_can_be_repeated(http, backstage):
    content = weights()
    upload = begin(http, content)
    named, key = put_all(http, upload, content), object_name(upload["id"])
    with backstage.database.session() as session:
        multipart_id = session.get(DirectUpload, upload["id"]).multipart_id
    backstage.bucket.complete(key, multipart_id, backstage.bucket.parts(key, multipart_id))
    artifact = complete(http, upload, named).raise_for_status().json()
    assert artifact["sha256"] == hashlib.sha256(content).hexdigest()


def test_what_somebody_deleted_in_the_bucket_is_gone(http, backstage):
    content = weights()
    upload = begin(http, content)
    named = put_all(http, upload, content)
    with backstage.database.session() as session:
        backstage.bucket.abort(object_name(upload["id"]), session.get(DirectUpload, upload["id"]).multipart_id)
    for answer in (complete(http, upload, named), http.get(f"/v1/direct-uploads/{upload['id']}/parts")):
        assert "begin it again" in problem(answer, 410, "gone")


@pytest.mark.dialect
def test_of_many_calls_that_complete_an_upload_at_once_one_makes_the_artifact(http):
    content = weights(PART_BYTES + 1)
    upload = begin(http, content)
    named = put_all(http, upload, content)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(complete(http, upload, named))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    listed = http.get("/v1/artifacts", params={"sha256": hashlib.sha256(content).hexdigest()}).json()["items"]
    assert len(listed) == 1


def test_the_same_file_by_another_way_shares_its_object(http, backstage):
    content = weights()
    one = send(http, content).raise_for_status().json()["id"]
    before = in_bucket(backstage)
    upload = begin(http, content)
    other = complete(http, upload, put_all(http, upload, content)).raise_for_status().json()["id"]
    assert other != one
    assert in_bucket(backstage) == before


def test_a_repeated_call_does_nothing_twice(http, backstage):
    content, key = weights(), {"Idempotency-Key": os.urandom(8).hex()}
    body = {"filename": "weights.tar", "size": len(content)}
    first = post(http, "/v1/direct-uploads", body, **key)
    before = in_bucket(backstage)
    again = post(http, "/v1/direct-uploads", body, **key)
    assert (again.json(), again.headers["location"]) == (first.json(), f"/v1/direct-uploads/{first.json()['id']}")
    assert again.headers["idempotent-replayed"] == "true"
    assert in_bucket(backstage) == before
    problem(post(http, "/v1/direct-uploads", body | {"size": 1}, **key), 422, "idempotency-key-reused")
    assert in_bucket(backstage) == before
    named, other = put_all(http, first.json(), content), {"Idempotency-Key": os.urandom(8).hex()}
    artifact = complete(http, first.json(), named, **other)
    again = complete(http, first.json(), named, **other)
    assert (again.json(), again.headers["idempotent-replayed"]) == (artifact.json(), "true")
    problem(complete(http, first.json(), [{"number": 9, "etag": ""}], **other), 422, "idempotency-key-reused")


@pytest.mark.usefixtures("nothing_left")
def test_an_upload_is_a_tenants_own(http, stranger):
    content = weights()
    upload = begin(http, content)
    named, path = put_all(http, upload, content), f"/v1/direct-uploads/{upload['id']}"
    for answer in (
        stranger.get(path), stranger.get(f"{path}/parts"), complete(stranger, upload, named), stranger.delete(path),
    ):  # fmt: skip
        problem(answer, 404, "not-found")
    assert shown(http, upload)["artifact_id"] is None
    http.delete(path).raise_for_status()


@pytest.mark.usefixtures("nothing_left")
def test_a_quota_is_kept(caller, backstage):
    http, content = caller(), weights(20_000)
    with backstage.database.session() as session:
        newest = sa.select(Tenant.id).order_by(Tenant.id.desc()).limit(1).scalar_subquery()
        session.execute(sa.update(Tenant).where(Tenant.id == newest).values(quota_bytes=30_000))
    upload = begin(http, content)
    body = {"filename": "a", "size": 10_001}
    assert "delete artifacts" in problem(post(http, "/v1/direct-uploads", body), 403, "quota-exceeded")
    problem(send(http, weights(20_480)), 403, "quota-exceeded")
    http.delete(f"/v1/direct-uploads/{upload['id']}").raise_for_status()
    http.delete(f"/v1/direct-uploads/{begin(http, content)['id']}").raise_for_status()
    digest = hashlib.sha256(content).hexdigest()
    kept = send(http, content).raise_for_status().json()["id"]
    again = begin(http, content, sha256=digest)
    for size in (len(content), len(content) + 1):  # of its own length one at a time, of another length none
        body = {"filename": "a", "size": size, "sha256": digest}
        problem(post(http, "/v1/direct-uploads", body), 403, "quota-exceeded")
    http.delete(f"/v1/direct-uploads/{again['id']}").raise_for_status()
    http.delete(f"/v1/artifacts/{kept}").raise_for_status()


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"size": LIMIT + 1}, 413, "upload-too-large"),
        ({"size": 0}, 422, "invalid-request"),
        ({"size": -1}, 422, "invalid-request"),
        ({"size": "much"}, 422, "invalid-request"),
        ({"filename": "a\0b"}, 422, "invalid-request"),
        ({"sha256": "0"}, 422, "invalid-request"),
        ({"part_bytes": 1}, 422, "invalid-request"),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_a_request_that_cannot_be_begins_no_upload(http, body, status, slug):
    problem(post(http, "/v1/direct-uploads", {"filename": "a", "size": 10} | body), status, slug)


@pytest.mark.parametrize("named", [[], [{"number": 0, "etag": "a"}], [{"number": 1001, "etag": "a"}], [{"number": 1}]])
def test_parts_that_cannot_be_are_refused(http, named):
    problem(complete(http, begin(http, weights()), named), 422, "invalid-request")


def test_no_secret_of_the_bucket_is_in_an_answer_or_a_log(api, http, bucket):
    content = weights()
    upload = begin(http, content)
    listed = http.get(f"/v1/direct-uploads/{upload['id']}/parts")
    (part,) = listed.json()["items"]
    problem(complete(http, upload, [{"number": 1, "etag": "a"}]), 422, "invalid-parts")
    complete(http, upload, [{"number": 1, "etag": put(content, part)}]).raise_for_status()
    secret, signature = bucket.environment["AWS_SECRET_ACCESS_KEY"], parse_qs(urlsplit(part["url"]).query)["X-Amz-Signature"][0]
    assert secret not in listed.text + api.log("api")
    assert signature not in api.log("api")


@pytest.mark.slow
def test_a_large_file_takes_no_memory_of_the_service(api, http):
    small, large = weights(), weights(LIMIT - 1)
    for content in (small, large):
        before = resident(api)
        upload = begin(http, content)
        named = put_all(http, upload, content)
        complete(http, upload, named).raise_for_status()
    assert resident(api) - before < LIMIT >> 2


def resident(api: System) -> int:
    """The largest resident size so far of the API process, in bytes."""
    status = Path(f"/proc/{api.processes['api'].pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def test_a_storage_that_does_not_answer_is_named(bucket):
    with bucket.known(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        away = Bucket.of(Storage(f"{bucket.url}/a", Credentials()), "", Credentials())
    with pytest.raises(NotReady, match="the storage does not answer"):
        away.begin("artifacts/a")


def test_a_storage_that_refuses_the_service_is_named_without_the_key(bucket, caplog):
    with bucket.known(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
        refused = Bucket.of(Storage(f"{bucket.url}/a", Credentials()), "", Credentials())
    with pytest.raises(NotReady, match=r"refuses the service \(SignatureDoesNotMatch") as caught:
        refused.begin("artifacts/a")
    assert "CreateMultipartUpload" in caplog.text
    assert "another-secret" not in caplog.text + str(caught.value)


def test_clients_may_reach_the_bucket_at_another_address(bucket):
    with bucket.known():
        storage = Storage(f"{bucket.url}/a", Credentials())
        inside, outside = (Bucket.of(storage, place, Credentials()) for place in ("", "https://files.example.com"))
        assert Bucket.of(storage, "none", Credentials()) is None
    multipart_id = outside.begin("artifacts/b")  # at the address of the service
    assert outside.sign("artifacts/b", multipart_id, 1, 10).startswith("https://files.example.com/aiao/a/artifacts/b?")
    assert inside.sign("artifacts/b", multipart_id, 1, 10).startswith(f"{bucket.environment['AWS_ENDPOINT_URL']}/aiao/a/")
    outside.abort("artifacts/b", multipart_id)
