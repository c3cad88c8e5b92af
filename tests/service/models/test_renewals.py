"""A registered model's source gets a new key: as a new model, beside which the old one goes on."""

import json

import pytest
import sqlalchemy as sa

from aiao_core.key import commitment, decode_secret
from service.kit.ids import new_id
from service.tables.models import Model
from service.tables.tokens import Tenant
from tests.support import rows, uploads
from tests.support.calls import count, make_ready, post, problem, register, upload
from tests.support.rings import rings

pytestmark = pytest.mark.dialect


def renewed(http, model_id: str, **body: object) -> dict:
    return post(http, f"/v1/models/{model_id}/renewals", body).raise_for_status().json()


def shown(http, model_id: str) -> dict:
    return http.get(f"/v1/models/{model_id}").raise_for_status().json()


def opened(http, model_id: str) -> None:
    post(http, f"/v1/models/{model_id}/key/opened", None).raise_for_status()


def test_a_renewal_is_a_registration_of_the_same_source_with_a_key_of_its_own(api, http, backstage, tmp_path):
    model_id, _ = make_ready(http, backstage, tmp_path)
    old = shown(http, model_id)
    answer = post(http, f"/v1/models/{model_id}/renewals", {})
    assert answer.status_code == 202
    model, job, secret = (answer.json()[name] for name in ("model", "job", "secret_key"))
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    same = ("name", "artifact_id", "images_artifact_id", "options", "custody")
    assert {name: model[name] for name in same} == {name: old[name] for name in same}
    assert (model["renews"], model["status"], model["checkpoint"], model["key_version"]) == (model_id, "embedding", None, None)
    assert model["id"] != model_id
    assert model["commitment"] == commitment(decode_secret(secret)) != old["commitment"]
    assert (job["kind"], job["state"], job["subject_id"]) == ("embed", "queued", model["id"])
    assert shown(http, model["id"]) == model
    assert shown(http, model_id) == old
    assert ("worker.embed", job["id"]) in rings(api.settings["AIAO_BROKER_URL"], api.settings["AIAO_QUEUE"])


def test_a_renewal_may_have_another_name_custody_and_options(http):
    images = upload(http, uploads.npz())
    old = register(http, name="old", images_artifact_id=images, options={"steps": 7, "precision": "bf16"})["model"]
    one = renewed(http, old["id"], name="new", custody="owner", options={"steps": 9})["model"]
    assert (one["name"], one["custody"], one["images_artifact_id"]) == ("new", "owner", images)
    assert (one["options"]["steps"], one["options"]["precision"]) == (9, "fp32")  # these options, and no other ones
    other = renewed(http, one["id"])["model"]
    assert (other["name"], other["custody"], other["options"], other["renews"]) == ("new", "owner", one["options"], one["id"])


def test_the_secret_of_a_repeated_renewal_is_not_shown_again(http, backstage):
    model_id, key = register(http)["model"]["id"], {"Idempotency-Key": new_id("key")}
    before = count(backstage, "models")
    first, second = (post(http, f"/v1/models/{model_id}/renewals", {}, **key) for _ in range(2))
    assert count(backstage, "models") == before + 1
    assert second.headers["idempotent-replayed"] == "true"
    assert second.json() == first.json() | {"secret_key": None}
    other = register(http)["model"]["id"]
    problem(post(http, f"/v1/models/{other}/renewals", {}, **key), 422, "idempotency-key-reused")


@pytest.mark.parametrize("status", ["embedding", "ready", "failed", "retired", "opened", "version 2"])
def test_a_model_of_any_status_is_renewed(http, backstage, tmp_path, status):
    if status in ("embedding", "failed"):
        registered = register(http)
        model_id = registered["model"]["id"]
        if status == "failed":
            post(http, f"/v1/jobs/{registered['job']['id']}/cancel", None).raise_for_status()
    else:
        model_id, _ = make_ready(http, backstage, tmp_path)
    match status:
        case "retired":
            http.delete(f"/v1/models/{model_id}").raise_for_status()
        case "opened":
            opened(http, model_id)
        case "version 2":
            rows.give_old_key(backstage, model_id)
    before = shown(http, model_id)
    assert renewed(http, model_id)["model"]["renews"] == model_id
    assert shown(http, model_id) == before


def test_each_model_is_tested_with_its_own_key_and_keeps_its_own_reports(http, backstage, tmp_path):
    model_id, _ = make_ready(http, backstage, tmp_path)
    suspect = {"artifact_id": upload(http)}
    first = post(http, "/v1/verifications", suspect | {"model_id": model_id}).raise_for_status().json()["verification"]["id"]
    new = renewed(http, model_id)
    new_id = new["model"]["id"]
    problem(post(http, "/v1/verifications", suspect | {"model_id": new_id}), 409, "conflict")  # it is not ready yet
    rows.finish_embedding(backstage, new_id, new["secret_key"], rows.models.Checkpoint("nowhere", "0" * 64, 1))
    second = post(http, "/v1/verifications", suspect | {"model_id": new_id}).raise_for_status().json()["verification"]["id"]
    opened(http, model_id)
    problem(post(http, "/v1/verifications", suspect | {"model_id": model_id}), 409, "conflict")
    third = post(http, "/v1/verifications", suspect | {"model_id": new_id}).raise_for_status().json()["verification"]["id"]
    for model, tests in ((model_id, [first]), (new_id, [third, second])):
        listed = http.get("/v1/verifications", params={"model_id": model}).json()["items"]
        assert [each["id"] for each in listed] == tests


def test_the_secret_of_the_old_key_is_not_the_new_ones(http, backstage):
    old = register(http, custody="owner")
    new = renewed(http, old["model"]["id"])
    for each in (old, new):
        rows.finish_embedding(
            backstage, each["model"]["id"], each["secret_key"], rows.models.Checkpoint("nowhere", "0" * 64, 1)
        )
    body = {"model_id": new["model"]["id"], "artifact_id": upload(http)}
    detail = problem(post(http, "/v1/verifications", body | {"secret_key": old["secret_key"]}), 422, "invalid-secret")
    assert old["model"]["commitment"] in detail
    assert new["model"]["commitment"] in detail
    post(http, "/v1/verifications", body | {"secret_key": new["secret_key"]}).raise_for_status()


@pytest.mark.parametrize("lost", ["artifact_id", "images_artifact_id"])
def test_what_was_deleted_is_named_and_may_come_again(http, backstage, lost):
    content = {
        "artifact_id": uploads.zip_of({"model_index.json": new_id("one").encode()}),
        "images_artifact_id": uploads.zip_of({"a.png": new_id("one").encode()}),
    }
    ids = {name: upload(http, sent) for name, sent in content.items()}
    model_id = register(http, **ids)["model"]["id"]
    http.delete(f"/v1/models/{model_id}").raise_for_status()
    http.delete(f"/v1/artifacts/{ids[lost]}").raise_for_status()
    before = count(backstage, "jobs")
    detail = problem(post(http, f"/v1/models/{model_id}/renewals", {}), 409, "conflict")
    what = "source" if lost == "artifact_id" else "image set"
    assert detail.startswith(f"the {what} of {model_id}, {ids[lost]}, was deleted")
    assert "upload the same file again and repeat this call" in detail
    assert count(backstage, "jobs") == before
    upload(http, uploads.zip_of({"model_index.json": b"another model", "a.png": b"another image"}))
    problem(post(http, f"/v1/models/{model_id}/renewals", {}), 409, "conflict")  # not the registered one
    again = upload(http, content[lost])
    model = renewed(http, model_id)["model"]
    assert {name: model[name] for name in ids} == ids | {lost: again}


def test_another_tenants_file_of_the_same_content_is_not_used(http, stranger):
    content = uploads.zip_of({"model_index.json": new_id("one").encode()})
    artifact_id = upload(http, content)
    model_id = register(http, artifact_id=artifact_id)["model"]["id"]
    http.delete(f"/v1/models/{model_id}").raise_for_status()
    http.delete(f"/v1/artifacts/{artifact_id}").raise_for_status()
    upload(stranger, content)
    problem(post(http, f"/v1/models/{model_id}/renewals", {}), 409, "conflict")


def test_a_source_is_kept_while_a_renewal_needs_it(http):
    old = register(http)["model"]
    new = renewed(http, old["id"])["model"]
    http.delete(f"/v1/models/{old['id']}").raise_for_status()
    assert new["id"] in problem(http.delete(f"/v1/artifacts/{old['artifact_id']}"), 409, "conflict")
    http.delete(f"/v1/models/{new['id']}").raise_for_status()
    http.delete(f"/v1/artifacts/{old['artifact_id']}").raise_for_status()


def test_a_renewal_takes_nothing_of_a_quota(caller, backstage):
    http = caller()
    registered = register(http)
    tenant_id = rows.job(backstage.database, registered["job"]["id"]).tenant_id
    with backstage.database.session() as session:
        session.execute(sa.update(Tenant).where(Tenant.id == tenant_id).values(quota_bytes=0))
    renewed(http, registered["model"]["id"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"options": {"steps": 0}}, "options.steps"),
        ({"name": "a\nb"}, "body.name"),
        ({"custody": "nobody"}, "body.custody"),
        ({"artifact_id": new_id("art")}, "body.artifact_id"),
    ],
)
def test_what_a_renewal_cannot_be_is_named(http, body, said):
    model_id = register(http)["model"]["id"]
    assert said in problem(post(http, f"/v1/models/{model_id}/renewals", body), 422, "invalid-request")


def test_a_renewal_is_in_the_activity_log_and_heard_of_as_a_registration_is(caller):
    http = caller()
    model_id = register(http)["model"]["id"]
    webhook = post(http, "/v1/webhooks", {"url": "https://example.com/aiao"}).raise_for_status().json()["webhook"]["id"]
    new = renewed(http, model_id)
    acts = http.get("/v1/activity", params={"subject_id": new["model"]["id"]}).json()["items"]
    assert [act["action"] for act in acts] == ["model.register"]
    http.post(f"/v1/jobs/{new['job']['id']}/cancel").raise_for_status()
    assert [each["event"] for each in http.get(f"/v1/webhooks/{webhook}/deliveries").json()["items"]] == ["job.canceled"]
    assert shown(http, new["model"]["id"])["status"] == "failed"


def test_the_version_of_a_key_is_shown_once_the_embedding_has_made_it(caller, backstage, tmp_path):
    http = caller()
    old, _ = make_ready(http, backstage, tmp_path)
    rows.give_old_key(backstage, old)
    tag = http.get(f"/v1/models/{old}").headers["etag"]
    new = renewed(http, old)["model"]["id"]
    assert [model["key_version"] for model in http.get("/v1/models").json()["items"]] == [None, 2]
    assert http.get(f"/v1/models/{old}", headers={"If-None-Match": tag}).status_code == 304
    with backstage.database.session() as session:
        assert session.get(Model, new).renews == old
    ready, _ = make_ready(http, backstage, tmp_path)
    assert shown(http, ready)["key_version"] == json.loads(http.get(f"/v1/models/{ready}/key").text)["version"] == 3
