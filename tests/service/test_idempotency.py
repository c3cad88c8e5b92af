from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.kit.ids import new_id
from tests.support import uploads
from tests.support.calls import count, files, make_ready, post, problem, register, send, upload

pytestmark = pytest.mark.dialect


def twice(call: Callable[[], httpx.Response]) -> tuple[httpx.Response, httpx.Response]:
    first, second = call(), call()
    assert first.is_success
    assert first.status_code == second.status_code
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["content-type"] == first.headers["content-type"]
    return first, second


def test_a_repeated_registration_gets_the_same_answer_without_the_secret(http, backstage):
    body, key = {"name": "a", "artifact_id": upload(http)}, new_id("key")
    before = count(backstage, "models")
    first, second = twice(lambda: post(http, "/v1/models", body, **{"Idempotency-Key": key}))
    assert count(backstage, "models") == before + 1
    assert first.json()["secret_key"].startswith("aiao1")
    assert second.json() == first.json() | {"secret_key": None}
    for header in ("location", "retry-after"):
        assert second.headers[header] == first.headers[header]


def test_a_repeated_verification_and_cancel_get_the_same_answer(http, backstage, tmp_path):
    model_id, _ = make_ready(http, backstage, tmp_path)
    body = {"model_id": model_id, "artifact_id": upload(http)}
    first, second = twice(lambda: post(http, "/v1/verifications", body, **{"Idempotency-Key": "verify"}))
    assert second.json() == first.json()
    job = first.json()["job"]["id"]
    first, second = twice(lambda: post(http, f"/v1/jobs/{job}/cancel", None, **{"Idempotency-Key": "cancel"}))
    assert second.json() == first.json()


def test_a_repeated_upload_stores_nothing_twice(api, http, backstage):
    key, before = new_id("key"), (len(files(api.data_dir / "storage")), count(backstage, "artifacts"))
    content = uploads.zip_of({"model_index.json": key.encode()})  # of which there is no object yet
    first, second = twice(lambda: send(http, content, key=key))
    assert second.json() == first.json()
    assert (len(files(api.data_dir / "storage")), count(backstage, "artifacts")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("change", ["body", "path", "query"])
def test_a_key_that_was_used_for_another_request_is_refused(http, backstage, change):
    key = {"Idempotency-Key": new_id("key")}
    body = {"name": "a", "artifact_id": upload(http)}
    post(http, "/v1/models", body, **key).raise_for_status()
    before = count(backstage, "jobs")
    path = {"body": "/v1/models", "path": f"/v1/jobs/{new_id('job')}/cancel", "query": "/v1/models?a=1"}[change]
    answer = post(http, path, body | {"name": "b"} if change == "body" else body, **key)
    assert "choose a new one" in problem(answer, 422, "idempotency-key-reused")
    assert count(backstage, "jobs") == before


def test_an_upload_of_another_file_under_a_used_key_is_refused_and_not_kept(api, http):
    key = new_id("key")
    send(http, uploads.MODEL_ZIP, key=key).raise_for_status()
    before = files(api.data_dir / "storage")
    problem(send(http, uploads.safetensors(), key=key), 422, "idempotency-key-reused")
    problem(send(http, uploads.MODEL_ZIP, "other name", key=key), 422, "idempotency-key-reused")
    assert files(api.data_dir / "storage") == before


def test_a_failed_request_does_not_use_up_its_key(http):
    key = {"Idempotency-Key": new_id("key")}
    problem(post(http, "/v1/models", {"name": "a", "artifact_id": new_id("art")}, **key), 404, "not-found")
    assert post(http, "/v1/models", {"name": "a", "artifact_id": upload(http)}, **key).status_code == 202


@pytest.mark.parametrize("what", ["models", "artifacts", "verifications"])
def test_of_requests_at_the_same_time_under_one_key_one_thing_comes(api, http, backstage, tmp_path, what):
    key, artifact = new_id("key"), upload(http)
    bodies = {"models": {"name": "a", "artifact_id": artifact}}
    if what == "verifications":
        bodies[what] = {"model_id": make_ready(http, backstage, tmp_path)[0], "artifact_id": artifact}
    before, stored = count(backstage, what), len(files(api.data_dir / "storage"))
    file = uploads.zip_of({"model_index.json": key.encode()})  # once: an archive tells the time at which it was made

    def call(_: int) -> httpx.Response:
        if what == "artifacts":
            return send(http, file, key=key)
        return post(http, f"/v1/{what}", bodies[what], **{"Idempotency-Key": key})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(call, range(6)))
    for answer in answers:
        if not answer.is_success:
            assert "repeat it" in problem(answer, 409, "conflict")
    done = [answer.json() for answer in answers if answer.is_success]
    assert len({str(body | {"secret_key": None}) for body in done}) == 1
    assert sum(bool(body.get("secret_key")) for body in done) == (what == "models")
    assert count(backstage, what) == before + 1
    assert len(files(api.data_dir / "storage")) == stored + (what == "artifacts")
    assert call(0).is_success


@pytest.mark.parametrize("key", ["", "a" * 201, "a b", "ä"])
def test_a_malformed_key_is_refused(http, key):
    answer = http.post("/v1/models", json={}, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert "Idempotency-Key" in problem(answer, 422, "invalid-request")


def test_without_a_key_every_request_counts(http):
    assert register(http)["model"]["id"] != register(http)["model"]["id"]
