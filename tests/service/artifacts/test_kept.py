"""Which objects are kept: one per content and tenant, as long as something needs it."""

import os
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.kit.database import utc_now
from service.kit.ids import new_id
from service.processes.garbage import GRACE_PERIOD, collect
from service.tables.direct_uploads import DirectUpload
from service.tables.jobs import Job
from service.tables.uploads import Upload
from tests.support import rows, uploads
from tests.support.calls import append, begin, files, make_ready, post, problem, send, upload

pytestmark = pytest.mark.dialect


def later() -> datetime:
    return utc_now() + GRACE_PERIOD + timedelta(minutes=5)


def fresh(size: int = 1000) -> bytes:
    """A model that nobody has uploaded yet."""
    return uploads.zip_of({"model_index.json": os.urandom(size)})


def objects(api) -> set[Path]:
    return files(api.data_dir / "storage")


def post_job(http: httpx.Client) -> str:
    answer = post(http, "/v1/models", {"name": "a", "artifact_id": upload(http)})
    return answer.raise_for_status().json()["job"]["id"]


def listed(http: httpx.Client, **query: str) -> list[dict]:
    return http.get("/v1/artifacts", params={"limit": 200} | query).raise_for_status().json()["items"]


def test_the_same_content_is_stored_once_per_tenant_and_as_long_as_one_needs_it(api, http, stranger):
    content, before = fresh(), objects(api)
    one, other = (send(http, content, name).json() for name in ("one.zip", "other.zip"))
    assert (one["filename"], other["filename"], one["sha256"]) == ("one.zip", "other.zip", other["sha256"])
    assert len(objects(api) - before) == 1
    theirs = send(stranger, content).json()["id"]
    assert len(objects(api) - before) == 2
    for artifact_id, left in ((one["id"], 2), (other["id"], 1)):
        http.delete(f"/v1/artifacts/{artifact_id}").raise_for_status()
        assert len(objects(api) - before) == left
        problem(http.get(f"/v1/artifacts/{artifact_id}"), 404, "not-found")
        problem(http.delete(f"/v1/artifacts/{artifact_id}"), 404, "not-found")
    stranger.delete(f"/v1/artifacts/{theirs}").raise_for_status()
    assert objects(api) == before


def test_content_that_was_deleted_can_come_again(api, http):
    content = fresh()
    http.delete(f"/v1/artifacts/{send(http, content).json()['id']}").raise_for_status()
    before = objects(api)
    again = send(http, content).json()
    assert len(objects(api) - before) == 1
    assert [each["id"] for each in listed(http, sha256=again["sha256"])] == [again["id"]]


def test_artifacts_are_listed_newest_first_and_found_by_their_content(http):
    sent = [send(http, fresh(), f"{name}.zip").json() for name in "abc"]
    assert listed(http)[:3] == sent[::-1]
    assert listed(http, sha256=sent[1]["sha256"]) == [sent[1]]
    assert listed(http, sha256="0" * 64) == []
    assert http.get("/v1/artifacts", params={"sha256": "A"}).status_code == 422


def test_what_a_model_needs_is_kept_until_it_is_retired(api, http, backstage, tmp_path):
    model_id, _ = make_ready(http, backstage, tmp_path)
    artifact_id = http.get(f"/v1/models/{model_id}").json()["artifact_id"]
    assert model_id in problem(http.delete(f"/v1/artifacts/{artifact_id}"), 409, "conflict")
    assert http.get(f"/v1/artifacts/{artifact_id}").status_code == 200
    http.delete(f"/v1/models/{model_id}").raise_for_status()
    http.delete(f"/v1/artifacts/{artifact_id}").raise_for_status()


@pytest.mark.parametrize("role", ["artifact_id", "base_artifact_id"])
def test_what_an_unfinished_job_needs_is_kept_and_a_report_outlives_its_suspect(http, backstage, tmp_path, role):
    model_id, _ = make_ready(http, backstage, tmp_path)
    body = {"model_id": model_id, "artifact_id": upload(http), role: upload(http)}
    submitted = post(http, "/v1/verifications", body).raise_for_status().json()
    job_id, verification_id = submitted["job"]["id"], submitted["verification"]["id"]
    assert job_id in problem(http.delete(f"/v1/artifacts/{body[role]}"), 409, "conflict")
    tenant_id = rows.job(backstage.database, job_id).tenant_id
    rows.finish_verification(backstage, tenant_id, verification_id, job_id)
    http.delete(f"/v1/artifacts/{body[role]}").raise_for_status()
    assert http.get(f"/v1/verifications/{verification_id}/report").status_code == 200
    assert http.get(f"/v1/verifications/{verification_id}").json()["artifact_id"] == body["artifact_id"]
    problem(post(http, "/v1/verifications", body), 404, "not-found")


@pytest.mark.parametrize("kind", ["verification", "audit"])
def test_what_a_job_on_a_retired_model_needs_is_kept_until_it_ends(http, backstage, tmp_path, kind):
    model_id, _ = make_ready(http, backstage, tmp_path)
    artifact_id = http.get(f"/v1/models/{model_id}").json()["artifact_id"]
    if kind == "verification":
        answer = post(http, "/v1/verifications", {"model_id": model_id, "artifact_id": upload(http, fresh())})
    else:
        answer = post(http, f"/v1/models/{model_id}/audits", {"preset": "quick"})
    job_id = answer.raise_for_status().json()["job"]["id"]
    http.delete(f"/v1/models/{model_id}").raise_for_status()
    assert job_id in problem(http.delete(f"/v1/artifacts/{artifact_id}"), 409, "conflict")
    post(http, f"/v1/jobs/{job_id}/cancel", None).raise_for_status()
    http.delete(f"/v1/artifacts/{artifact_id}").raise_for_status()


def test_garbage_is_what_no_row_refers_to_and_old_enough(api, http, backstage, tmp_path):
    running = rows.registered(backstage, rows.tenant(backstage.database))[1].id
    done = post_job(http)
    with backstage.database.session() as session:
        session.execute(sa.update(Job).where(Job.id == done).values(state="failed"))
    make_ready(http, backstage, tmp_path)
    upload_id = begin(http, 5000)
    append(http, upload_id, b"a" * 1000).raise_for_status()
    with backstage.database.session() as session:  # the uploads of other tests must not expire in this one
        for table in (Upload, DirectUpload):
            session.execute(sa.update(table).values(expires_at=later() + timedelta(days=1)))
    collect(backstage, later())  # what other tests left
    referred = objects(api)
    (tmp_path / "file").write_bytes(b"1")
    stray = {f"artifacts/{new_id('art')}", f"marked/{new_id('mdl')}-1.zip", f"uploads/{upload_id}/{new_id('prt')}"}
    stray |= {f"training/{done}.pt", f"training/{new_id('job')}.pt"}
    for key in (*stray, f"training/{running}.pt"):
        backstage.storage.put(key, tmp_path / "file")
    (api.data_dir / "storage" / "artifacts" / f"{new_id('art')}#1").write_bytes(b"begun")
    assert collect(backstage) == 0
    assert collect(backstage, later()) == len(stray) + 1
    assert objects(api) == referred | {api.data_dir / "storage" / f"training/{running}.pt"}
