import json
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256

import pytest

from aiao import ApiError, Client, ClientError, InvalidReference, JobCanceled, JobFailed
from aiao._client.documents import Job, Registration
from aiao_core.formats.archives import pack
from aiao_core.key import OwnerKey, PublicKey, commitment, decode_secret
from aiao_core.reports.audit import AuditReport
from aiao_core.reports.summary import Summary, read_report
from aiao_core.reports.verification import Report
from service.auth.authentication import authenticate
from service.kit.ids import new_id
from service.models.service import Checkpoint
from tests.support import rows, uploads
from tests.support.documented import examples
from tests.support.http_server import Handler, serving
from tests.support.places import GOLDEN
from tests.support.processes import free_port, stop, system, wait_for


@contextmanager
def answering(status: int, body: bytes, kind: str = "application/json", **headers: str) -> Iterator[Client]:
    """A client of a server that is no AIAO service: it gives everybody the same answer."""

    class Answers(Handler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with serving(Answers) as port, Client(f"http://127.0.0.1:{port}", "token") as client:
        yield client


def test_a_folder_is_registered(client, folder):
    registration = client.models.register(folder, name="mine", options={"steps": 7})
    assert registration.model.name == "mine"
    assert registration.model.status == "embedding"
    assert registration.model.options["steps"] == 7
    assert registration.model.commitment == commitment(decode_secret(registration.secret_key))
    assert registration.job.state == "queued"
    assert registration.job.subject_id == registration.model.id
    assert client.models.get(registration.model.id) == registration.model
    assert client.jobs.get(registration.model.job_id) == registration.job
    artifact = client.artifacts.get(registration.model.artifact_id)
    assert (artifact.filename, artifact.kind) == ("my model.zip", "archive")


def test_a_model_is_renewed_with_other_options_in_place_of_some(client, folder):
    old = client.models.register(folder, name="mine", options={"steps": 7, "precision": "bf16"}, custody="owner").model
    renewal = client.models.renew(old.id)
    assert renewal.model.renews == old.id
    same = {"name", "artifact_id", "options", "custody"}
    assert renewal.model.model_dump(include=same) == old.model_dump(include=same)
    assert renewal.model.commitment == commitment(decode_secret(renewal.secret_key)) != old.commitment
    assert client.jobs.get(renewal.job.id).subject_id == renewal.model.id
    other = client.models.renew(old.id, name="other", options={"steps": 9}, custody="service").model
    assert (other.name, other.custody, other.options) == ("other", "service", old.options | {"steps": 9})
    assert client.models.get(old.id) == old
    with pytest.raises(ApiError, match="options") as caught:
        client.models.renew(old.id, options={"step": 9})
    assert caught.value.status == 422
    assert len(list(client.artifacts.list())) == 1  # nothing is uploaded again


def test_an_archive_is_registered_as_it_is(client, folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "model_index.json", "model_index.json")
        archive.write(folder / "unet" / "config.json", "unet/config.json")
    registration = client.models.register(tmp_path / "packed.zip", name="packed")
    artifact = client.artifacts.get(registration.model.artifact_id)
    assert artifact.filename == "packed.zip"
    assert artifact.sha256 == sha256((tmp_path / "packed.zip").read_bytes()).hexdigest()


def test_images_may_be_brought(client, folder, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"1")
    registration = client.models.register(folder, name="mine", images=tmp_path / "images")
    assert client.artifacts.get(registration.model.images_artifact_id).kind == "images"


def test_an_upload_tells_how_far_it_is_and_leaves_the_files_bytes(client, folder, tmp_path):
    (folder / "unet" / "weights.safetensors").write_bytes(bytes(range(256)) * 12_000)
    pack(folder, tmp_path / "packed.zip")
    size = (tmp_path / "packed.zip").stat().st_size
    seen = []
    artifact = client.artifacts.upload(folder, progress=lambda done, total: seen.append((done, total)))
    assert artifact.size == size
    assert artifact.sha256 == sha256((tmp_path / "packed.zip").read_bytes()).hexdigest()
    assert len(seen) == 3
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)
    assert {total for _, total in seen} == {size}


def test_a_file_that_is_not_there_is_named(client, tmp_path):
    with pytest.raises(ClientError, match="nowhere does not exist"):
        client.models.register(tmp_path / "nowhere", name="mine")
    assert not list(client.models.list())


@pytest.mark.slow
def test_an_upload_goes_on_after_the_api_was_killed(tmp_path, redis_url):
    large = tmp_path / "large.tar"
    large.write_bytes(uploads.tar_of({"a": b""}).ljust(150 << 20, b"\0"))
    seen: list[int] = []

    def kill(done: int, _total: int) -> None:
        seen.append(done)
        if len(seen) == 120:
            stop(running.processes["api"], signal.SIGKILL)
            running.start_api()

    with (
        system(tmp_path / "system", broker_url=redis_url, reaper=False, AIAO_QUEUE="nobody-killed") as running,
        running.client() as client,
    ):
        artifact = client.artifacts.upload(large, progress=kill)
    assert (artifact.filename, artifact.size) == ("large.tar", 150 << 20)
    assert artifact.sha256 == sha256(large.read_bytes()).hexdigest()
    assert seen != sorted(seen)
    assert min(seen[120:]) > 64 << 20  # what had been stored is not sent again


def test_an_empty_file_is_refused_before_anything_is_sent(client, tmp_path):
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(ClientError, match=r"empty\.bin is empty"):
        client.artifacts.upload(tmp_path / "empty.bin")


def test_artifacts_are_listed_and_deleted(client, folder):
    artifacts = [client.artifacts.upload(folder) for _ in range(2)]
    assert list(client.artifacts.list()) == artifacts[::-1]
    client.artifacts.delete(artifacts[0].id)
    assert list(client.artifacts.list()) == artifacts[1:]
    model = client.models.register(folder, name="mine").model
    with pytest.raises(ApiError, match=model.id):
        client.artifacts.delete(model.artifact_id)


def test_images_that_are_not_there_are_named_before_the_model_is_uploaded(client, folder, tmp_path):
    moved = []
    with pytest.raises(ClientError, match="nowhere does not exist"):
        client.models.register(folder, name="mine", images=tmp_path / "nowhere", progress=lambda *at: moved.append(at))
    assert not moved


def test_an_upload_beyond_the_limit_is_refused_in_words(client, tmp_path):
    (tmp_path / "large.bin").write_bytes(bytes(24 << 20))
    with pytest.raises(ApiError, match="the largest that this service takes") as caught:
        client.artifacts.upload(tmp_path / "large.bin")
    assert (caught.value.status, caught.value.type) == (413, "upload-too-large")


def test_lists_go_over_many_pages_newest_first(client, backstage):
    tenant = tenant_of(client, backstage)
    models = [rows.registered(backstage, tenant)[0].id for _ in range(203)]
    assert [model.id for model in client.models.list()] == models[::-1]
    assert [job.subject_id for job in client.jobs.list()] == models[::-1]


def tenant_of(client: Client, backstage) -> str:
    with backstage.database.session() as session:
        caller, _ = authenticate(session, client.transport.http.headers["Authorization"].removeprefix("Bearer "))
        return caller.tenant_id


def test_a_list_of_nothing_is_empty(client):
    assert list(client.models.list()) == list(client.jobs.list()) == list(client.verifications.list()) == []


def test_a_retired_model_stays_in_the_list(client, folder):
    model = client.models.register(folder, name="mine").model
    client.models.retire(model.id)
    assert [(model.id, model.status) for model in client.models.list()] == [(model.id, "retired")]


def test_waiting_for_a_canceled_job_says_so(client, folder):
    job = client.models.register(folder, name="mine").job
    assert client.jobs.cancel(job.id).state == "canceled"
    seen = []
    with pytest.raises(JobCanceled, match=job.id):
        client.jobs.wait(job, progress=seen.append)
    assert [job.state for job in seen] == ["canceled"]
    assert client.jobs.cancel(job.id).state == "canceled"


def test_waiting_for_a_failed_job_says_why(client, folder, change):
    job = client.models.register(folder, name="mine").job
    change(job.id, state="failed", error={"code": "invalid-checkpoint", "detail": "layer mid_block is missing"})
    for again in (job, client.jobs.get(job.id), *client.jobs.list()):
        with pytest.raises(JobFailed, match="layer mid_block is missing") as caught:
            client.jobs.wait(again)
        assert caught.value.code == "invalid-checkpoint"


def test_waiting_follows_every_change(client, folder, change):
    job = client.models.register(folder, name="mine").job
    progress = {"stage": "embedding", "step": 1, "total": 2, "metrics": {"response": 0.5}, "seconds_left": None}
    steps = iter(
        [
            {"state": "running", "attempt": 1},
            {"progress": progress},
            {"progress": progress | {"step": 2, "seconds_left": 0.5}},
            {"state": "succeeded", "result": f"/v1/models/{job.subject_id}"},
        ]
    )
    seen = []

    def show(latest: Job) -> None:
        seen.append(latest)
        if not latest.finished:
            change(job.id, **next(steps))

    assert client.jobs.wait(job, progress=show) == seen[-1]
    assert [latest.state for latest in seen] == ["queued", "running", "running", "running", "succeeded"]
    assert [latest.progress and latest.progress.step for latest in seen] == [None, None, 1, 2, 2]
    assert seen[2].progress.metrics == {"response": 0.5}
    assert seen[-1].result == f"/v1/models/{job.subject_id}"


def test_an_error_of_the_callers_own_ends_the_waiting(client, folder):
    job = client.models.register(folder, name="mine").job
    with pytest.raises(ZeroDivisionError):
        client.jobs.wait(job, progress=lambda _: 1 / 0)


@pytest.mark.parametrize("name", ["registration", "job", "identifier"])
def test_a_job_is_named_by_what_started_it_or_by_its_identifier(client, folder, change, name):
    registration = client.models.register(folder, name="mine")
    change(registration.job.id, state="succeeded", result="/v1/models/mdl_1")
    job = {"registration": registration, "job": registration.job, "identifier": registration.job.id}[name]
    assert client.jobs.wait(job) == client.jobs.get(registration.job.id)
    assert [latest.result for latest in client.jobs.follow(job)] == ["/v1/models/mdl_1"]


@pytest.mark.slow
def test_waiting_outlives_a_restart_of_the_api(tmp_path, redis_url, folder):
    with (
        system(tmp_path / "system", broker_url=redis_url, reaper=False, AIAO_QUEUE="nobody-restarted") as running,
        running.client() as client,
    ):
        job = client.models.register(folder, name="mine").job
        first, ended = threading.Event(), []

        def wait() -> None:
            try:
                client.jobs.wait(job, progress=lambda _: first.set())
            except ClientError as error:
                ended.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert first.wait(60)
        stop(running.processes["api"])
        running.start_api()
        client.jobs.cancel(job.id)
        waiting.join(60)
        assert [type(error) for error in ended] == [JobCanceled]


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (404, 1)])
def test_waiting_goes_on_while_a_proxy_finds_no_service(status, tries, monkeypatch):
    monkeypatch.setattr("aiao._client.transport.RECONNECT_TRIES", 2)
    monkeypatch.setattr("aiao._client.transport.RECONNECT_SECONDS", 0)
    with answering(status, b"<html>proxy</html>", "text/html") as client:
        asked = []
        client.transport.http.event_hooks["request"].append(asked.append)
        with pytest.raises(ApiError, match=f"answered {status} without a reason"):
            list(client.jobs.follow("job_1"))
        assert len(asked) == tries


def test_a_refusal_has_status_type_and_a_sentence(client):
    missing = new_id("mdl")
    with pytest.raises(ApiError) as caught:
        client.models.get(missing)
    assert (caught.value.status, caught.value.type) == (404, "not-found")
    assert missing in caught.value.detail
    assert str(caught.value) == caught.value.detail


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.models.get("mdl_1"),
        lambda client: client.jobs.cancel("../models"),
        lambda client: client.verifications.report("x y"),
        lambda client: list(client.jobs.follow("job_1")),
        lambda client: client.models.download("mdl_1", "never written"),
    ],
)
def test_a_malformed_identifier_is_refused_by_the_service(client, call):
    with pytest.raises(ApiError) as caught:
        call(client)
    assert caught.value.status in (404, 405, 422)


def test_options_that_no_embedding_has_are_refused(client, folder):
    for options in ({"steps": 0}, {"stepps": 10}):
        with pytest.raises(ApiError, match=next(iter(options))) as caught:
            client.models.register(folder, name="mine", options=options)
        assert caught.value.status == 422


def test_a_wrong_token_is_refused(api, folder):
    with Client(api.url, "wrong") as client, pytest.raises(ApiError) as caught:
        client.models.register(folder, name="mine")
    assert (caught.value.status, caught.value.type) == (401, "unauthorized")
    assert "wrong" not in str(caught.value)


def test_another_tenants_things_do_not_exist(api, backstage, client, folder):
    model = client.models.register(folder, name="mine").model
    with Client(api.url, rows.token(backstage.database)) as stranger:
        for call in (lambda: stranger.models.get(model.id), lambda: stranger.jobs.get(model.job_id)):
            with pytest.raises(ApiError) as caught:
                call()
            assert caught.value.status == 404


def test_nothing_listening_is_said_in_words(folder, monkeypatch):
    monkeypatch.setattr("aiao._client.transport.RECONNECT_SECONDS", 0)
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, "token") as client:
        for call in (
            lambda: list(client.models.list()),
            lambda: client.models.register(folder, name="mine"),
            lambda: list(client.jobs.follow("job_1")),
            lambda: client.models.download("mdl_1", "never written"),
        ):
            with pytest.raises(ClientError, match=f"nothing answers at {url}.*aiao up"):
                call()


@pytest.mark.long
@pytest.mark.parametrize(
    "body", [b"", b"<html>Welcome</html>", b"[]", b'{"items": 1}', b'{"items": [{"id": 1}], "next_cursor": null}']
)
def test_an_answer_of_another_server_is_refused_in_words(body, tmp_path):
    with answering(200, body, "text/html") as client:
        for call in (
            lambda: client.models.get("mdl_1"),
            lambda: list(client.models.list()),
            lambda: client.models.public_key("mdl_1"),
            lambda: client.models.download("mdl_1", tmp_path / "marked.zip"),
        ):
            with pytest.raises(ClientError, match="is it an AIAO service"):
                call()
    assert not list(tmp_path.iterdir())


def test_a_service_that_moved_is_said_where():
    for call in (lambda client: client.models.get("mdl_1"), lambda client: list(client.jobs.follow("job_1"))):
        moved = answering(308, b"", Location="https://elsewhere/v1/models/mdl_1")
        with moved as client, pytest.raises(ClientError, match="sends its callers to https://elsewhere/v1"):
            call(client)


@pytest.mark.long
def test_a_problem_without_a_document_has_its_status(tmp_path):
    for body in (b"", b"[]", b'{"type": "x"}', b"<html>Bad gateway</html>"):
        with answering(502, body) as client, pytest.raises(ApiError, match="502 without a reason") as caught:
            client.models.get("mdl_1")
        assert (caught.value.status, caught.value.type) == (502, "unknown")


def test_the_watermarked_checkpoint_is_downloaded_with_progress(client, folder, publish, tmp_path):
    registration = client.models.register(folder, name="mine")
    content = bytes(range(256)) * 12_000
    publish(registration.model.id, registration.secret_key, content)
    seen = []
    path = client.models.download(registration.model.id, tmp_path / "marked.zip", progress=lambda *at: seen.append(at))
    assert path.read_bytes() == content
    assert seen == sorted(seen)
    assert seen[-1] == (len(content), len(content))
    model = client.models.get(registration.model.id)
    assert (model.status, model.checkpoint.sha256) == ("ready", sha256(content).hexdigest())
    assert not (tmp_path / "marked.zip.partial").exists()


def test_a_model_under_embedding_has_nothing_to_download(client, folder, tmp_path):
    model = client.models.register(folder, name="mine").model
    with pytest.raises(ApiError, match=f"{model.id} has no checkpoint: it is embedding") as caught:
        client.models.download(model.id, tmp_path / "marked.zip")
    assert (caught.value.status, caught.value.type) == (409, "conflict")
    assert not list(tmp_path.glob("marked*"))


@pytest.mark.parametrize(("damaged", "reason"), [(b"chEckpoint", "damaged on the way"), (b"check", "connection .* broke")])
def test_a_damaged_download_leaves_what_was_there(client, backstage, folder, publish, tmp_path, damaged, reason):
    registration = client.models.register(folder, name="mine")
    key = publish(registration.model.id, registration.secret_key, b"checkpoint")
    (tmp_path / "damage").write_bytes(damaged)
    backstage.storage.put(key, tmp_path / "damage")
    target = tmp_path / "target" / "marked.zip"
    target.parent.mkdir()
    for before in (None, b"an older download"):
        if before:
            target.write_bytes(before)
        with pytest.raises(ClientError, match=reason):
            client.models.download(registration.model.id, target)
        assert [file.read_bytes() for file in target.parent.iterdir()] == ([before] if before else [])


def test_a_suspect_is_verified_against_a_ready_model(client, backstage, folder, suspect, publish):
    registration = client.models.register(folder, name="mine")
    with pytest.raises(ApiError, match="only a model that is ready"):
        client.verifications.create(registration.model.id, suspect)
    publish(registration.model.id, registration.secret_key)
    moved = []
    submission = client.verifications.create(
        registration.model.id, suspect, options={"max_log10_p": -25}, progress=lambda *at: moved.append(at)
    )
    verification = submission.verification
    assert moved[-1] == (suspect.stat().st_size,) * 2
    assert (verification.suspect_name, verification.status, verification.verdict) == ("suspect.zip", "queued", None)
    assert verification.options == {"draws": None, "decoys": 8, "tau": 0.75, "max_log10_p": -25, "seed": None}
    with pytest.raises(ApiError, match="has no report"):
        client.verifications.report(verification.id)
    expected = rows.finish_verification(backstage, tenant_of(client, backstage), verification.id, submission.job.id)
    assert client.jobs.wait(submission).result == f"/v1/verifications/{verification.id}"
    finished = client.verifications.get(verification.id)
    assert (finished.status, finished.verdict, finished.log10_p) == ("succeeded", "match", expected.test.log10_p)
    assert (finished.tested, finished.reason, finished.with_key, finished.of_file) == ("checkpoint", None, 1, 1)
    assert finished.bound_log10_p == expected.bound_log10_p
    assert list(client.verifications.list()) == [finished]
    assert Report.from_json(client.verifications.report(verification.id)) == expected
    page = client.verifications.report_html(verification.id)
    assert page.lower().startswith("<!doctype html>")
    assert "<script>alert" not in page


@pytest.mark.parametrize("option", [{"seed": 5}, {"draws": 3}, {"decoys": 0}, {"max_log10_p": -9}], ids=str)
def test_a_service_tests_by_the_rules_of_a_verdict_alone(client, folder, suspect, publish, option):
    registration = client.models.register(folder, name="mine")
    publish(registration.model.id, registration.secret_key)
    with pytest.raises(ApiError, match=next(iter(option))) as caught:
        client.verifications.create(registration.model.id, suspect, options=option)
    assert (caught.value.status, caught.value.type) == (422, "invalid-request")
    assert list(client.verifications.list()) == []


def test_a_caller_who_may_not_see_figures_gets_a_summary(api, client, backstage, folder, suspect, publish):
    registration = client.models.register(folder, name="mine")
    publish(registration.model.id, registration.secret_key)
    tenant_id = tenant_of(client, backstage)
    with Client(api.url, rows.token(backstage.database, tenant_id, "verifications:write")) as host:
        submission = host.verifications.create(registration.model.id, suspect)
        report = rows.finish_verification(backstage, tenant_id, submission.verification.id, submission.job.id)
        found = host.verifications.get(submission.verification.id)
        assert (found.verdict, found.bound_log10_p, found.log10_p, found.vs_rate) == ("match", report.bound_log10_p, None, None)
        assert read_report(host.verifications.report(found.id)) == Summary.of(report)
        page = host.verifications.report_html(found.id)
        assert "This is a summary." in page
        assert str(report.test.matches) not in page
    assert read_report(client.verifications.report(found.id)) == report


def test_a_key_that_was_opened_takes_no_more_tests(api, client, backstage, folder, suspect, publish):
    registration = client.models.register(folder, name="mine")
    model_id = registration.model.id
    publish(model_id, registration.secret_key)
    with Client(api.url, rows.token(backstage.database, tenant_of(client, backstage), "verifications:write")) as host:
        with pytest.raises(ApiError, match="lacks the scope models:write"):
            host.models.key_opened(model_id)
        first = client.models.key_opened(model_id)
        assert (first.model_id, first.opened_at.utcoffset()) == (model_id, timedelta(0))
        assert client.models.key_opened(model_id) == first
        for caller in (client, host):
            with pytest.raises(ApiError, match=f"the key of {model_id} was opened on {first.opened_at:%Y-%m-%d}") as caught:
                caller.verifications.create(model_id, suspect)
            assert (caught.value.status, caught.value.type) == (409, "conflict")
    assert OwnerKey.from_public(PublicKey.model_validate(client.models.public_key(model_id)), registration.secret_key)


def test_a_ready_model_is_audited(client, backstage, folder, publish, tmp_path):
    registration = client.models.register(folder, name="mine")
    model_id = registration.model.id
    with pytest.raises(ApiError, match="only a model that is ready"):
        client.audits.create(model_id, preset="quick")
    publish(model_id, registration.secret_key)
    for wrong in ({}, {"preset": "quick", "attacks": ["weight-clipping"]}, {"attacks": ["surprise"]}):
        with pytest.raises(ApiError) as caught:
            client.audits.create(model_id, **wrong)
        assert caught.value.type == "invalid-request"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"1")
    start = client.audits.create(model_id, attacks=("weight-clipping",), images=tmp_path / "images", options={"seed": 5})
    audit = start.audit
    assert (audit.attacks, audit.preset, audit.options) == (["weight-clipping"], None, {"draws": None, "seed": 5})
    assert (audit.status, audit.summary) == ("queued", None)
    assert client.artifacts.get(audit.images_artifact_id).kind == "images"
    with pytest.raises(ApiError, match="has no report"):
        client.audits.report(audit.id)
    expected = rows.finish_audit(backstage, tenant_of(client, backstage), audit.id, start.job.id, ended=True)
    assert client.jobs.wait(start).result == f"/v1/audits/{audit.id}"
    finished = client.audits.get(audit.id)
    assert finished.summary.ended_by == ["lora-4-100"]
    other = client.audits.create(model_id, preset="full").audit
    assert list(client.audits.list(model_id)) == [other, finished]
    assert AuditReport.from_json(client.audits.report(audit.id)) == expected
    page = client.audits.report_html(audit.id)
    assert page.lower().startswith("<!doctype html>")
    assert "<script>alert" not in page


def test_a_base_is_uploaded_and_a_repository_of_the_hub_is_not(client, folder, suspect, publish):
    registration = client.models.register(folder, name="mine")
    publish(registration.model.id, registration.secret_key)
    with pytest.raises(ClientError, match="nowhere does not exist"):
        client.verifications.create(registration.model.id, suspect, base="nowhere")
    adapted = client.verifications.create(registration.model.id, suspect, base=folder).verification
    assert (adapted.suspect_name, adapted.hub) == ("suspect.zip", None)
    assert client.artifacts.get(adapted.base_artifact_id).filename == "my model.zip"
    found = client.verifications.create(registration.model.id, "hf://someone/copied-model@v1").verification
    assert (found.hub, found.suspect_name) == ("hf://someone/copied-model@v1",) * 2
    assert (found.artifact_id, found.base_artifact_id, found.suspect_sha256) == (None, None, None)
    page = "https://huggingface.co/someone/copied-model/blob/main/a%20b.gguf"
    named = client.verifications.create(registration.model.id, page).verification
    assert named.hub == "hf://someone/copied-model@main/a%20b.gguf"
    before = len(list(client.artifacts.list()))
    for suspect in ("hf://someone", "https://civitai.com/models/1"):
        with pytest.raises(InvalidReference):
            client.verifications.create(registration.model.id, suspect, base=folder)
    assert len(list(client.artifacts.list())) == before  # nothing was uploaded


def test_secret_and_public_key_make_the_owners_key(client, folder, publish):
    registration = client.models.register(folder, name="mine")
    publish(registration.model.id, registration.secret_key)
    public = PublicKey.model_validate(client.models.public_key(registration.model.id))
    assert OwnerKey.from_public(public, registration.secret_key) == rows.a_key(registration.secret_key)


def test_a_newer_service_may_say_more(client, folder, suspect, publish):
    registration = client.models.register(folder, name="mine")
    publish(registration.model.id, registration.secret_key)
    submission = client.verifications.create(registration.model.id, suspect)
    artifact = client.artifacts.get(registration.model.artifact_id)
    for document in (artifact, registration.job, registration.model, registration, submission, submission.verification):
        newer = json.dumps(more(document.model_dump(mode="json")))
        assert type(document).model_validate_json(newer).model_dump() == document.model_dump()
    public = json.loads((GOLDEN / "public-key-v1.json").read_text())
    with answering(200, json.dumps(public | {"model_id": "mdl_1", "created_at": "2030-01-01", "later": 1}).encode()) as newer:
        assert newer.models.public_key("mdl_1") == public


def more(document: object) -> object:
    """The document with a field that no client knows, at every depth."""
    if isinstance(document, dict):
        return {name: value if name == "options" else more(value) for name, value in document.items()} | {"later": [1]}
    return document


def test_a_repeated_call_with_the_same_key_does_nothing_twice(client, folder):
    artifact = client.artifacts.upload(folder)
    body = {"name": "mine", "artifact_id": artifact.id}
    answers = [client.transport.post("/v1/models", json=body, idempotency_key="once").json() for _ in range(2)]
    assert answers[0]["model"] == answers[1]["model"]
    assert Registration.model_validate(answers[1]).secret_key is None
    assert len(list(client.models.list())) == 1


def test_the_example_of_the_documentation_runs(api, token, monkeypatch, tmp_path, folder, suspect, backstage):
    """The one for a client in the docstring of the package, with somebody who does the worker's part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIAO_URL", api.url)
    monkeypatch.setenv("AIAO_TOKEN", token)
    (example,) = (program for program in examples() if "aiao.Client()" in program)
    folder.rename(tmp_path / "my-pipeline")
    suspect.rename(tmp_path / "suspect.safetensors")
    printed: list[object] = []

    def run() -> None:
        exec(compile(example, "example", "exec"), {"print": printed.append})

    running = threading.Thread(target=run, daemon=True)
    running.start()
    with Client() as observer:
        wait_for(lambda: printed and list(observer.models.list()), "nothing was registered")
        (model,) = observer.models.list()
        content = b"marked"
        (tmp_path / "content").write_bytes(content)
        backstage.storage.put("checkpoints/example", tmp_path / "content")
        rows.finish_embedding(
            backstage, model.id, printed[0], Checkpoint("checkpoints/example", sha256(content).hexdigest(), 6)
        )
        wait_for(lambda: list(observer.verifications.list()), "nothing was submitted")
        (verification,) = observer.verifications.list()
        rows.finish_verification(backstage, tenant_of(observer, backstage), verification.id, verification.job_id)
        wait_for(lambda: list(observer.audits.list(model.id)), "no audit was started")
        (audit,) = observer.audits.list(model.id)
        rows.finish_audit(backstage, tenant_of(observer, backstage), audit.id, audit.job_id, ended=True)
    running.join(60)
    assert not running.is_alive()
    assert (tmp_path / "marked.zip").read_bytes() == content
    assert printed[1:] == ["match", ["lora-4-100"]]
