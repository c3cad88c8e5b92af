import pytest

from aiao_core.audit_options import ATTACKS
from aiao_core.reports.audit import AuditReport
from service.audits.repository import AuditRepository
from service.kit.ids import new_id
from tests.support import rows, uploads
from tests.support.calls import count, make_ready, post, problem, upload
from tests.support.rings import rings

pytestmark = pytest.mark.dialect


def audits_of(model_id: str) -> str:
    return f"/v1/models/{model_id}/audits"


def test_an_audit_is_accepted_with_a_job_to_follow(api, http, owned):
    images = upload(http, uploads.npz())
    attacks = ["quantisation-8", "weight-clipping", "quantisation-8"]
    body = {"attacks": attacks, "images_artifact_id": images, "options": {"seed": 1}}
    answer = post(http, audits_of(owned.model_id), body)
    assert answer.status_code == 202
    audit, job = answer.json()["audit"], answer.json()["job"]
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (audit["status"], audit["summary"], audit["error"]) == ("queued", None, None)
    assert (audit["attacks"], audit["preset"]) == (attacks[:2], None)  # one that is named twice is tried once
    assert (audit["options"], audit["job_id"]) == ({"draws": None, "seed": 1}, job["id"])
    assert (audit["model_id"], audit["images_artifact_id"]) == (owned.model_id, images)
    assert (job["kind"], job["subject_id"]) == ("audit", audit["id"])
    assert http.get(f"/v1/audits/{audit['id']}").json() == audit
    assert ("worker.audit", job["id"]) in rings(api.settings["AIAO_BROKER_URL"], api.settings["AIAO_QUEUE"])
    assert job["id"] in problem(http.get(f"/v1/audits/{audit['id']}/report"), 409, "conflict")


def test_a_preset_stands_for_its_attacks(http, owned):
    audit = post(http, audits_of(owned.model_id), {"preset": "full"}).json()["audit"]
    assert (audit["preset"], audit["attacks"], audit["images_artifact_id"]) == ("full", None, None)


def test_a_finished_audit_shows_the_attacks_by_their_outcome(http, owned):
    shown = http.get(f"/v1/audits/{owned.audit_id}").json()
    assert (shown["status"], shown["error"]) == ("succeeded", None)
    assert shown["summary"] == {
        "withstood": ["quantisation-8", "lora-4-100"],
        "ended_by": [],
        "ruined": ["magnitude-pruning-70"],
        "no_model": ["dreambooth"],
    }
    job = http.get(f"/v1/jobs/{shown['job_id']}").json()
    assert http.get(job["result"]).json() == shown


@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
def test_the_report_is_the_stored_document(http, owned, accept):
    answer = http.get(f"/v1/audits/{owned.audit_id}/report", headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == owned.audit_report
    assert len(AuditReport.from_json(answer.text).attacks) == 4


@pytest.mark.parametrize("accept", ["text/html", "Text/HTML, application/json;q=0.9"])
def test_the_report_as_a_page_runs_no_script_of_a_hostile_name(http, owned, accept):
    answer = http.get(f"/v1/audits/{owned.audit_id}/report", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "<script>alert(1)</script>" not in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text


def test_each_result_is_kept_as_it_comes(http, owned, backstage):
    audit = post(http, audits_of(owned.model_id), {"preset": "quick"}).json()["audit"]
    tenant_id = rows.job(backstage.database, audit["job_id"]).tenant_id
    report = rows.finish_audit(backstage, tenant_id, audit["id"], audit["job_id"])
    with backstage.database.session() as session:
        kept = AuditRepository(session, tenant_id).get(audit["id"]).results
    assert kept == {result.id: result.model_dump(mode="json") for result in report.attacks}


def test_a_model_that_is_not_ready_cannot_be_audited(http, owned, backstage):
    before = count(backstage, "jobs")
    assert "embedding" in problem(post(http, audits_of(owned.embedding_id), {"preset": "quick"}), 409, "conflict")
    assert count(backstage, "jobs") == before


def test_a_retired_model_cannot_be_audited_and_its_audits_stay(http, backstage, tmp_path):
    model_id, _ = make_ready(http, backstage, tmp_path)
    audit = post(http, audits_of(model_id), {"preset": "quick"}).json()["audit"]
    http.delete(f"/v1/models/{model_id}").raise_for_status()
    assert "retired" in problem(post(http, audits_of(model_id), {"preset": "quick"}), 409, "conflict")
    assert http.get(audits_of(model_id)).json()["items"] == [audit]


@pytest.mark.parametrize("body", [{}, {"preset": None}, {"preset": "quick", "attacks": ["weight-clipping"]}])
def test_the_attacks_must_be_chosen_in_one_way(http, body):
    detail = problem(post(http, audits_of(new_id("mdl")), body), 422, "invalid-request")
    assert "either preset or attacks" in detail


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"preset": "slow"}, "body.preset"),
        ({"attacks": []}, "body.attacks"),
        ({"attacks": ["weight-clipping", "surprise"]}, "body.attacks.1"),
        ({"attacks": "weight-clipping"}, "body.attacks"),
        ({"preset": "quick", "options": {"draws": 0}}, "options.draws"),
        ({"preset": "quick", "options": {"seed": 2**32}}, "options.seed"),
        ({"preset": "quick", "options": {"decoys": 1}}, "options.decoys"),
        ({"preset": "quick", "images_artifact_id": "mdl_1"}, "images_artifact_id"),
    ],
)
def test_what_is_out_of_range_is_named(http, body, place):
    assert place in problem(post(http, audits_of(new_id("mdl")), body), 422, "invalid-request")


@pytest.mark.parametrize("draws", [1, 99, 101])
def test_an_audit_has_as_many_draws_as_a_verification(http, owned, backstage, draws):
    before = count(backstage, "jobs")
    answer = post(http, audits_of(owned.model_id), {"preset": "quick", "options": {"draws": draws}})
    assert f"draws is 4 in every test, not {draws}: leave it out" in problem(answer, 422, "invalid-request")
    assert count(backstage, "jobs") == before


def test_an_unknown_attack_is_told_which_there_are(http):
    detail = problem(post(http, audits_of(new_id("mdl")), {"attacks": ["surprise"]}), 422, "invalid-request")
    assert all(name in detail for name in ATTACKS)


def test_a_checkpoint_is_no_image_set(http, owned):
    body = {"preset": "quick", "images_artifact_id": upload(http, uploads.safetensors())}
    assert "image set" in problem(post(http, audits_of(owned.model_id), body), 422, "invalid-artifact")


def test_unknown_things_are_not_found(http, owned):
    problem(post(http, audits_of(new_id("mdl")), {"preset": "quick"}), 404, "not-found")
    problem(http.get(audits_of(new_id("mdl"))), 404, "not-found")
    body = {"preset": "quick", "images_artifact_id": new_id("art")}
    problem(post(http, audits_of(owned.model_id), body), 404, "not-found")
    for path in ("", "/report"):
        problem(http.get(f"/v1/audits/{new_id('aud')}{path}"), 404, "not-found")


def test_nothing_of_another_tenant_can_be_audited_or_read(http, stranger, owned):
    problem(post(stranger, audits_of(owned.model_id), {"preset": "quick"}), 404, "not-found")
    problem(stranger.get(audits_of(owned.model_id)), 404, "not-found")
    for path in ("", "/report"):
        problem(stranger.get(f"/v1/audits/{owned.audit_id}{path}"), 404, "not-found")
    body = {"preset": "quick", "images_artifact_id": upload(stranger, uploads.npz())}
    problem(post(http, audits_of(owned.model_id), body), 404, "not-found")


def test_a_repeated_request_starts_one_audit(http, owned, backstage):
    before = count(backstage, "audits")
    key = {"Idempotency-Key": new_id("key")}
    first, second = (post(http, audits_of(owned.model_id), {"preset": "quick"}, **key) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert count(backstage, "audits") == before + 1


def test_a_canceled_audit_says_so_and_has_no_report(http, owned):
    audit = post(http, audits_of(owned.model_id), {"preset": "quick"}).json()["audit"]
    post(http, f"/v1/jobs/{audit['job_id']}/cancel", None).raise_for_status()
    assert http.get(f"/v1/audits/{audit['id']}").json()["status"] == "canceled"
    assert "canceled" in problem(http.get(f"/v1/audits/{audit['id']}/report"), 409, "conflict")


def test_pages_show_every_audit_of_one_model_once(http, backstage, tmp_path):
    (mine, _), (other, _) = (make_ready(http, backstage, tmp_path) for _ in range(2))
    made = [post(http, audits_of(mine), {"preset": "quick"}).json()["audit"]["id"] for _ in range(3)]
    post(http, audits_of(other), {"preset": "quick"}).raise_for_status()
    first = http.get(audits_of(mine), params={"limit": 2}).json()
    second = http.get(audits_of(mine), params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == sorted(made, reverse=True)
    assert second["next_cursor"] is None
