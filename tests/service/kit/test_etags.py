"""Every document of one thing has a tag; who holds it still current gets 304, if it is theirs to see."""

import re

import httpx
import pytest

from service.jobs.leases import Lease
from service.models.service import Checkpoint
from tests.support import rows
from tests.support.calls import Owned, post, problem, register, upload

PROGRESS = {"stage": "embedding", "step": 3, "total": 9, "metrics": {"response": 0.5}, "seconds_left": 1.5}
JSON, PAGE = "application/json", "text/html"
REPORTS = ("/v1/verifications/{verification_id}/report", "/v1/audits/{audit_id}/report")
THINGS = [
    *((path, JSON) for path in (
        "/v1/artifacts/{artifact_id}", "/v1/models/{model_id}", "/v1/models/{model_id}/key",
        "/v1/models/{model_id}/checkpoint", "/v1/verifications/{verification_id}", "/v1/audits/{audit_id}", "/v1/jobs/{job_id}",
        *REPORTS,
    )),
    *((path, PAGE) for path in REPORTS),
]  # fmt: skip


def ask(http: httpx.Client, path: str, held: str | None = None, accept: str = JSON) -> httpx.Response:
    """GET, with the tag that the caller holds."""
    headers = {b"Accept": accept.encode()} | ({} if held is None else {b"If-None-Match": held.encode("latin-1")})
    return http.get(path, headers=headers)


def tag(http: httpx.Client, path: str, accept: str = JSON) -> str:
    return ask(http, path, accept=accept).raise_for_status().headers["etag"]


def filled(path: str, owned: Owned) -> str:
    return path.format(**vars(owned))


def test_every_document_of_one_thing_is_tried_here_and_promises_its_tag(api):
    document = httpx.get(f"{api.url}/openapi.json").json()["paths"]
    singles = {
        path: item["get"]
        for path, item in document.items()
        # An upload under way is never the same again.
        if "{" in path and "get" in item and not path.endswith("/events") and not path.startswith("/v1/direct-uploads")
        and "cursor" not in {each["name"] for each in item["get"]["parameters"]}
    }  # fmt: skip
    assert set(singles) == {path for path, _ in THINGS}
    for call in singles.values():
        assert "If-None-Match" in {each["name"] for each in call["parameters"]}
        assert all("ETag" in call["responses"][status]["headers"] for status in ("200", "304"))
        assert "content" not in call["responses"]["304"]


@pytest.mark.parametrize(("path", "accept"), THINGS)
def test_whoever_holds_what_would_be_sent_gets_304(http, owned, path, accept):
    place = filled(path, owned)
    first, again = ask(http, place, accept=accept), ask(http, place, '"other"', accept)
    held = first.headers["etag"]
    assert re.fullmatch(r'(W/)?"[0-9a-f]{32,64}"', held)
    assert (again.status_code, again.headers["etag"], again.content) == (200, held, first.content)
    same = ask(http, place, held, accept)
    assert (same.status_code, same.content) == (304, b"")
    for name in ("etag", "cache-control", "vary"):
        assert same.headers.get(name) == first.headers.get(name), name
    assert same.headers["cache-control"] == "private, no-cache"
    assert not {"content-type", "content-length"} & set(same.headers)


def test_no_two_documents_share_a_tag(http, owned):
    tags = [tag(http, filled(path, owned), accept) for path, accept in THINGS]
    assert len(set(tags)) == len(THINGS)
    jobs = [job["id"] for job in http.get("/v1/jobs", params={"state": "queued", "limit": 2}).json()["items"]]
    assert len({tag(http, f"/v1/jobs/{job}") for job in (*jobs, register(http)["job"]["id"])}) == len(jobs) + 1


@pytest.mark.parametrize("path", REPORTS)
def test_the_two_forms_of_a_report_are_told_apart(http, owned, path):
    place = filled(path, owned)
    held = {accept: tag(http, place, accept) for accept in (JSON, PAGE)}
    for accept, other in ((JSON, PAGE), (PAGE, JSON)):
        answer = ask(http, place, held[other], accept)
        assert (answer.status_code, answer.headers["vary"]) == (200, "Accept")
        assert answer.headers["content-type"].startswith(accept)
        assert ask(http, place, f"{held[other]}, {held[accept]}", accept).headers["etag"] == held[accept]


@pytest.mark.parametrize(
    "held", ['"{}"', 'W/"{}"', "*", '"other", "{}"', '"{}",W/"other"', '"a,b" ,,"{}" ,', 'W/"","{}"', '"\xff", "{}"']
)
@pytest.mark.parametrize("path", ["/v1/jobs/{job_id}", "/v1/models/{model_id}/checkpoint"])
def test_the_tag_is_found_by_a_weak_comparison_in_a_list(http, owned, path, held):
    place = filled(path, owned)
    bare = tag(http, place).removeprefix("W/").strip('"')
    assert ask(http, place, held.format(bare)).status_code == 304


@pytest.mark.parametrize(
    "held", ["", ",", "W/", '"', '""', "{}", "'{}'", '"{}', '{}"', '" {}"', '"*"', "**", "\xff", '"\xff"', '"' * 20_000]
)
@pytest.mark.parametrize("path", ["/v1/jobs/{job_id}", "/v1/models/{model_id}/checkpoint"])
def test_what_is_no_list_of_tags_holds_none(http, owned, path, held):
    place = filled(path, owned)
    bare = tag(http, place).removeprefix("W/").strip('"')
    assert ask(http, place, held.format(bare)).status_code == 200


@pytest.mark.parametrize(("path", "accept"), THINGS)
def test_a_tag_opens_nothing_to_others(api, http, stranger, owned, path, accept):
    place = filled(path, owned)
    for held in (tag(http, place, accept), "*"):
        answer = ask(stranger, place, held, accept)
        problem(answer, 404, "not-found")
        assert "etag" not in answer.headers
        with httpx.Client(base_url=api.url) as nobody:
            problem(ask(nobody, place, held, accept), 401, "unauthorized")


def test_the_tag_of_a_job_changes_with_what_it_shows_alone(http, backstage):
    job_id = register(http)["job"]["id"]
    seen = [tag(http, f"/v1/jobs/{job_id}")]

    def changed() -> bool:
        answer = ask(http, f"/v1/jobs/{job_id}", seen[-1])
        if answer.status_code == 304:
            return False
        seen.append(answer.headers["etag"])
        return True

    assert not changed()
    lease = Lease.take(backstage.database, job_id, 60)
    assert lease
    assert changed()
    lease.renew(None)
    assert not changed()
    lease.renew(PROGRESS)
    assert changed()
    lease.renew(PROGRESS)
    assert not changed()
    lease.renew(PROGRESS | {"seconds_left": 1.25})
    assert changed()
    lease.release()
    assert changed()
    lease = Lease.take(backstage.database, job_id, 60)
    assert lease
    assert changed()
    post(http, f"/v1/jobs/{job_id}/cancel", None).raise_for_status()
    assert changed()
    lease.cancel()
    assert changed()
    assert len(set(seen)) == len(seen) == 8


def test_the_tag_of_a_model_changes_with_its_status_and_its_checkpoint(http, backstage):
    registered = register(http)
    place = f"/v1/models/{registered['model']['id']}"
    seen = [tag(http, place)]
    rows.finish_embedding(backstage, registered["model"]["id"], registered["secret_key"], Checkpoint("nowhere", "0" * 64, 1))
    seen.append(tag(http, place))
    held = tag(http, f"{place}/key")
    http.delete(place).raise_for_status()
    seen.append(tag(http, place))
    assert len(set(seen)) == 3
    assert ask(http, f"{place}/key", held).status_code == 304


def test_the_tag_of_a_verification_and_of_an_audit_changes_with_its_job(http, owned, backstage):
    body = {"model_id": owned.model_id, "artifact_id": owned.artifact_id}
    verification = post(http, "/v1/verifications", body).raise_for_status().json()["verification"]
    audit = post(http, f"/v1/models/{owned.model_id}/audits", {"preset": "quick"}).raise_for_status().json()["audit"]
    tenant_id = rows.job(backstage.database, audit["job_id"]).tenant_id
    places = (f"/v1/verifications/{verification['id']}", f"/v1/audits/{audit['id']}")
    held = [tag(http, place) for place in places]
    assert [ask(http, place, old).status_code for place, old in zip(places, held, strict=True)] == [304, 304]
    for place in places:  # no report, so nothing that could be held
        problem(ask(http, f"{place}/report", "*"), 409, "conflict")
    rows.finish_verification(backstage, tenant_id, verification["id"], verification["job_id"])
    rows.finish_audit(backstage, tenant_id, audit["id"], audit["job_id"])
    for place, old in zip(places, held, strict=True):
        answer = ask(http, place, old)
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
        assert answer.headers["etag"] != old


def test_what_is_deleted_is_gone_whoever_holds_it(http):
    place = f"/v1/artifacts/{upload(http)}"
    held = tag(http, place)
    http.delete(place).raise_for_status()
    problem(ask(http, place, held), 404, "not-found")


def test_only_what_was_sent_counts_as_a_download(http, owned):
    def downloads() -> int:
        acts = http.get("/v1/activity", params={"subject_id": owned.model_id, "limit": 200}).json()["items"]
        return [act["action"] for act in acts].count("checkpoint.download")

    place = f"/v1/models/{owned.model_id}/checkpoint"
    held, before = tag(http, place), downloads()
    assert ask(http, place, held).status_code == 304
    assert downloads() == before > 0
