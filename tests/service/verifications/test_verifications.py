import pytest

from aiao_core.reports.parts import Input
from aiao_core.reports.verification import Report
from service.kit.ids import new_id
from service.verifications.service import record_report
from tests.support import rows, uploads
from tests.support.calls import count, make_ready, post, problem, upload
from tests.support.rings import rings

pytestmark = pytest.mark.dialect


def test_a_submission_is_accepted_with_a_job_to_follow(api, http, owned):
    suspect = upload(http, uploads.pickle())
    body = {"model_id": owned.model_id, "artifact_id": suspect, "options": {"max_log10_p": -25}}
    answer = post(http, "/v1/verifications", body)
    assert answer.status_code == 202
    verification, job = answer.json()["verification"], answer.json()["job"]
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (verification["status"], verification["verdict"], verification["log10_p"]) == ("queued", None, None)
    assert verification["options"] == {"draws": None, "decoys": 8, "tau": 0.75, "max_log10_p": -25, "seed": None}
    assert verification["job_id"] == job["id"]
    assert verification["suspect_sha256"] == http.get(f"/v1/artifacts/{suspect}").json()["sha256"]
    assert (job["kind"], job["subject_id"]) == ("verify", verification["id"])
    assert http.get(f"/v1/verifications/{verification['id']}").json() == verification
    assert ("worker.verify", job["id"]) in rings(api.settings["AIAO_BROKER_URL"], api.settings["AIAO_QUEUE"])
    assert job["id"] in problem(http.get(f"/v1/verifications/{verification['id']}/report"), 409, "conflict")


def test_a_finished_verification_shows_the_verdict_and_its_figures(http, owned):
    shown = http.get(f"/v1/verifications/{owned.verification_id}").json()
    report = Report.from_json(owned.report)
    assert (shown["status"], shown["verdict"], shown["error"]) == ("succeeded", "match", None)
    assert shown["log10_p"] == pytest.approx(report.test.log10_p)
    assert (shown["vs_rate"], shown["rs_rate"]) == (report.vs_rate.value, report.rs_rate.value) == (0.9375, 0.9123)
    assert (shown["tested"], shown["reason"], shown["base_name"]) == ("checkpoint", None, None)
    assert shown["bound_log10_p"] == report.bound_log10_p == pytest.approx(-38.53, abs=0.01)
    assert (shown["with_key"], shown["of_file"]) == (report.tests.with_key, report.tests.of_file)
    assert report.tests.with_key == 1
    assert report.tests.of_file >= 1  # other tests of this run may have tested the same weights
    job = http.get(f"/v1/jobs/{owned.finished_job_id}").json()
    assert job["result"] == f"/v1/verifications/{owned.verification_id}"
    assert http.get(job["result"]).json() == shown


@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
def test_the_report_is_the_stored_document(http, owned, accept):
    answer = http.get(f"/v1/verifications/{owned.verification_id}/report", headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == owned.report
    assert Report.from_json(answer.text).verdict == "match"


@pytest.mark.parametrize("accept", ["text/html", "Text/HTML, application/json;q=0.9"])
def test_the_report_as_a_page_runs_no_script_of_a_hostile_name(http, owned, accept):
    answer = http.get(f"/v1/verifications/{owned.verification_id}/report", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "<script>alert(1)</script>" not in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text


def test_a_model_that_is_not_ready_cannot_be_verified_against(http, owned, backstage):
    before = count(backstage, "jobs")
    answer = post(http, "/v1/verifications", {"model_id": owned.embedding_id, "artifact_id": owned.artifact_id})
    assert "embedding" in problem(answer, 409, "conflict")
    assert count(backstage, "jobs") == before


def test_an_image_set_is_no_suspect(http, owned):
    answer = post(http, "/v1/verifications", {"model_id": owned.model_id, "artifact_id": upload(http, uploads.npz())})
    assert "image set" in problem(answer, 422, "invalid-artifact")


def test_an_adapter_comes_with_its_base(http, owned):
    suspect, base = upload(http, uploads.safetensors()), upload(http, uploads.gguf())
    body = {"model_id": owned.model_id, "artifact_id": suspect, "base_artifact_id": base}
    verification = post(http, "/v1/verifications", body).json()["verification"]
    assert (verification["artifact_id"], verification["base_artifact_id"], verification["hub"]) == (suspect, base, None)
    assert http.get(f"/v1/verifications/{verification['id']}").json() == verification
    answer = post(http, "/v1/verifications", body | {"base_artifact_id": upload(http, uploads.npz())})
    assert "base_artifact_id is an image set" in problem(answer, 422, "invalid-artifact")


def test_the_base_of_another_tenant_is_not_found(http, stranger, owned):
    body = {"model_id": owned.model_id, "artifact_id": owned.artifact_id, "base_artifact_id": upload(stranger)}
    problem(post(http, "/v1/verifications", body), 404, "not-found")


def test_a_suspect_on_the_hub_is_named_and_known_once_it_has_been_fetched(http, owned, backstage):
    body = {"model_id": owned.model_id, "hub": "hf://someone/copied-model@refs/pr/1"}
    answer = post(http, "/v1/verifications", body)
    assert answer.status_code == 202
    verification = answer.json()["verification"]
    assert (verification["hub"], verification["suspect_name"]) == (body["hub"], body["hub"])
    assert (verification["artifact_id"], verification["suspect_sha256"]) == (None, None)
    suspect = Input(role="suspect", name="hf://someone/copied-model@" + "0" * 40, sha256="1" * 64)
    report = rows.a_report(suspect_name=suspect.name, inputs=(suspect,))
    tenant_id = rows.job(backstage.database, verification["job_id"]).tenant_id
    with backstage.database.session() as session:
        record_report(session, tenant_id, verification["id"], report)
    shown = http.get(f"/v1/verifications/{verification['id']}").json()
    assert (shown["hub"], shown["suspect_name"], shown["suspect_sha256"]) == (body["hub"], suspect.name, suspect.sha256)


@pytest.mark.parametrize("suspect", [{}, {"hub": None}, {"hub": "hf://a/b", "artifact_id": new_id("art")}])
def test_one_suspect_must_be_named(http, suspect):
    detail = problem(post(http, "/v1/verifications", {"model_id": new_id("mdl")} | suspect), 422, "invalid-request")
    assert "either artifact_id or hub" in detail


@pytest.mark.parametrize(
    ("address", "reference"),
    [
        ("https://huggingface.co/a/b/blob/main/my%20model.gguf", "hf://a/b@main/my%20model.gguf"),
        ("https://hf.co/a/b", "hf://a/b"),
        ("hf://a/b/my model.gguf", "hf://a/b/my%20model.gguf"),
        ("hf://a/b@v1/folder?variant=fp16", "hf://a/b@v1/folder?variant=fp16"),
    ],
)
def test_the_address_of_a_page_of_the_hub_is_kept_as_a_reference(http, owned, address, reference):
    verification = post(http, "/v1/verifications", {"model_id": owned.model_id, "hub": address}).json()["verification"]
    assert (verification["hub"], verification["suspect_name"]) == (reference, reference)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("hf://a", "the owner or the name is missing; one looks like hf://owner/name@main"),
        ("hf://../b", "not one that the hub gives"),
        ("hf://a/b@../c", "the revision is not"),
        ("hf://a/b/../../c", "leads out of the repository"),
        ("https://a/b", "a is not the Hugging Face hub, and no other host is ever contacted; download the file and submit it"),
        ("hf://a/b\n", "control character"),
        ("hf://a/" + "b" * 1024, "more than 1024 characters"),
        ("hf://a/b?revision=main", "only variant=… may stand"),
        ("a/b", "it has no hf:// before it"),
    ],
)
def test_what_is_not_a_reference_to_the_hub_is_refused_with_what_to_write(http, reference, words):
    body = {"model_id": new_id("mdl"), "hub": reference}
    detail = problem(post(http, "/v1/verifications", body), 422, "invalid-request")
    assert detail.startswith("body.hub: ")
    assert words in detail


def test_unknown_things_are_not_found(http, owned):
    for body in (
        {"model_id": new_id("mdl"), "artifact_id": owned.artifact_id},
        {"model_id": owned.model_id, "artifact_id": new_id("art")},
        {"model_id": owned.model_id, "artifact_id": owned.artifact_id, "base_artifact_id": new_id("art")},
    ):
        problem(post(http, "/v1/verifications", body), 404, "not-found")
    for path in ("", "/report"):
        problem(http.get(f"/v1/verifications/{new_id('ver')}{path}"), 404, "not-found")


@pytest.mark.parametrize("options", [{"draws": 0}, {"tau": 0.5}, {"decoys": -1}, {"max_log10_p": 0}, {"seed": 2**32}, {"x": 1}])
def test_an_option_out_of_range_is_named(http, options):
    body = {"model_id": new_id("mdl"), "artifact_id": new_id("art"), "options": options}
    assert f"options.{next(iter(options))}" in problem(post(http, "/v1/verifications", body), 422, "invalid-request")


def test_a_canceled_verification_says_so_and_has_no_report(http, owned):
    body = {"model_id": owned.model_id, "artifact_id": owned.artifact_id}
    verification = post(http, "/v1/verifications", body).json()["verification"]
    post(http, f"/v1/jobs/{verification['job_id']}/cancel", None).raise_for_status()
    assert http.get(f"/v1/verifications/{verification['id']}").json()["status"] == "canceled"
    detail = problem(http.get(f"/v1/verifications/{verification['id']}/report"), 409, "conflict")
    assert "canceled" in detail


def test_pages_show_every_verification_once(caller, backstage, tmp_path):
    newcomer = caller()
    model_id, suspect = make_ready(newcomer, backstage, tmp_path)[0], upload(newcomer)
    body = {"model_id": model_id, "artifact_id": suspect}
    made = [post(newcomer, "/v1/verifications", body).json()["verification"]["id"] for _ in range(3)]
    first = newcomer.get("/v1/verifications", params={"limit": 2}).json()
    second = newcomer.get("/v1/verifications", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == sorted(made, reverse=True)
    assert second["next_cursor"] is None
