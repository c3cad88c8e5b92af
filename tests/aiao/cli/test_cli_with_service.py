"""The command line with a service behind it. It speaks HTTP alone, so one database is enough."""

import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from aiao import ApiError, Client
from aiao._client.key_files import load_key, load_seed
from aiao_core.key import commitment, encode_secret
from aiao_core.reports.summary import Summary
from aiao_core.reports.verification import Counts, Report
from aiao_core.reports.words import before_the_rules
from service.kit.ids import new_id
from tests.service.test_health import metric
from tests.support import rows
from tests.support.processes import wait_for
from tests.support.shell import Done, Shell

pytestmark = pytest.mark.parametrize("api", ["postgresql"], indirect=True, scope="session")

# Models


def test_a_model_is_registered_and_its_key_saved(user, client, folder):
    done = user.aiao("models", "register", str(folder), "--name", "a/b", "--no-wait", "--option", "steps=7", "--option",
                     "learning_rate=1E-3", "--json")  # fmt: skip
    model = json.loads(done.stdout)
    key_file = user.folder / "a-b.key.json"
    assert key_file.stat().st_mode & 0o777 == 0o600
    seed = load_seed(key_file)
    assert model["commitment"] == commitment(seed)
    assert encode_secret(seed) not in done.stdout + done.stderr
    assert "Secret key saved to a-b.key.json; keep a copy in a safe place." in done.stderr
    (registered,) = client.models.list()
    assert (registered.id, registered.name) == (model["id"], "a/b")
    assert (registered.options["steps"], registered.options["learning_rate"]) == (7, 1e-3)
    assert "is not complete: the model is embedding" in user.error("key", "complete", "a-b.key.json")
    assert load_seed(key_file) == seed


def test_a_key_file_is_not_overwritten_and_nothing_is_uploaded(user, client, folder, api):
    (user.folder / "mine.key.json").write_text("the only copy")
    before = [job.id for job in client.jobs.list()]
    refusal = user.error("models", "register", str(folder), "--name", "mine", "--no-wait")
    assert "mine.key.json exists and is not overwritten; name another file" in refusal
    assert (user.folder / "mine.key.json").read_text() == "the only copy"
    assert [job.id for job in client.jobs.list()] == before
    assert not list(client.artifacts.list())
    user.aiao("models", "register", str(folder), "--name", "mine", "--no-wait", "--key-file", "other.json")
    assert load_seed(user.folder / "other.json")


def test_registering_waits_and_completes_the_key(user, client, folder, publish):
    running = user.begin("models", "register", str(folder), "--name", "mine")
    key_file = user.folder / "mine.key.json"
    wait_for(lambda: load_seed(key_file), "no key was saved")
    (model,) = client.models.list()
    secret = encode_secret(load_seed(key_file))
    publish(model.id, secret)
    status, out, err = running.done()
    assert status == 0
    assert f"{model.id} is ready" in out
    assert f"aiao models download {model.id} --to marked.zip" in out
    assert load_key(key_file) == rows.a_key(secret)
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert secret not in out + err
    done = user.aiao("models", "download", model.id, "--to", "marked.zip")
    assert done.stdout == "Saved marked.zip\n"
    assert (user.folder / "marked.zip").stat().st_size == client.models.get(model.id).checkpoint.size
    assert "1000000 bytes, sha256 " in user.aiao("models", "show", model.id).stdout


def test_a_model_is_renewed_and_its_new_key_saved_beside_the_old_one(user, client, folder):
    user.aiao("models", "register", str(folder), "--name", "a/b", "--no-wait", "--option", "steps=7")
    old_file, new_file = user.folder / "a-b.key.json", user.folder / "a-b.renewed.key.json"
    before, (old,) = old_file.read_bytes(), client.models.list()
    done = user.aiao("models", "renew", old.id, "--no-wait", "--json", "--option", "layers=24")
    model = json.loads(done.stdout)
    assert (model["renews"], model["name"]) == (old.id, "a/b")
    assert (model["options"]["steps"], model["options"]["layers"]) == (7, 24)
    assert "Secret key saved to a-b.renewed.key.json; keep a copy in a safe place." in done.stderr
    assert new_file.stat().st_mode & 0o777 == 0o600
    assert model["commitment"] == commitment(load_seed(new_file)) != old.commitment
    assert encode_secret(load_seed(new_file)) not in done.stdout + done.stderr
    assert old_file.read_bytes() == before
    user.aiao("models", "renew", old.id, "--no-wait", "--name", "other", "--custody", "owner")
    assert load_seed(user.folder / "other.key.json") not in (load_seed(old_file), load_seed(new_file))
    assert client.models.get(old.id) == old
    assert "there is no model" in user.error("models", "renew", new_id("mdl"), "--no-wait")


@pytest.mark.parametrize("arguments", [[], ["--name", "mine.renewed"], ["--key-file", "mine.renewed.key.json"]])
def test_a_key_file_is_not_overwritten_by_a_renewal_and_nothing_is_begun(user, client, folder, arguments):
    model = client.models.register(folder, name="mine").model
    (user.folder / "mine.renewed.key.json").write_text("the only copy")
    refusal = user.error("models", "renew", model.id, "--no-wait", *arguments)
    assert "mine.renewed.key.json exists and is not overwritten; name another file" in refusal
    assert (user.folder / "mine.renewed.key.json").read_text() == "the only copy"
    assert list(client.models.list()) == [model]


def test_a_renewal_waits_and_completes_the_key_and_the_list_says_what_to_renew(user, client, folder, publish, backstage):
    registered = client.models.register(folder, name="mine")
    old = registered.model.id
    publish(old, registered.secret_key)
    rows.give_old_key(backstage, old)
    assert user.aiao("models", "list").stdout.split()[-3:] == ["2,", "renew", "it"]
    assert f"aiao models renew {old}" in user.aiao("models", "show", old).stdout
    running = user.begin("models", "renew", old)
    key_file = user.folder / "mine.renewed.key.json"
    wait_for(lambda: load_seed(key_file), "no key was saved")
    secret = encode_secret(load_seed(key_file))
    new = next(client.models.list()).id
    publish(new, secret)
    status, out, _ = running.done()
    assert status == 0
    assert f"aiao models download {new} --to marked.zip" in out
    assert f"Keep {old} and its key: they alone find what was made from its checkpoint." in out
    assert load_key(key_file) == rows.a_key(secret)
    lines = user.aiao("models", "list").stdout.splitlines()
    assert [line.split()[5:] for line in lines[1:]] == [["3"], ["2,", "renewed"]]
    assert old in user.aiao("models", "show", new).stdout
    client.models.retire(old)
    assert user.aiao("models", "list").stdout.split()[-1] == "2"


def interrupted(process) -> str:
    """What a process says when it is stopped by Ctrl-C. Python may lose one that comes in a callback; a user presses again."""
    for _ in range(6):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=15)[1]
    raise AssertionError("the process does not stop")


def followed(api) -> float:
    """How many streams of events were begun so far."""
    labels = {"method": "GET", "route": "/v1/jobs/{job_id}/events", "status": "200"}
    return metric(httpx.get(f"{api.url}/metrics").text, "aiao_request_seconds_count", **labels)


def test_an_interrupted_registration_says_how_to_go_on(api, user, client, folder, publish):
    before = followed(api)
    process = user.start("models", "register", str(folder), "--name", "mine")
    key_file = user.folder / "mine.key.json"
    wait_for(lambda: load_seed(key_file), "no key was saved")
    (model,) = client.models.list()
    wait_for(lambda: followed(api) > before, "the job is not followed")
    err = interrupted(process)
    assert process.returncode == 130
    assert client.jobs.get(model.job_id).state == "queued"
    publish(model.id, encode_secret(load_seed(key_file)))
    assert f"aiao jobs watch {model.job_id}" in err
    assert "aiao key complete mine.key.json" in err
    assert "mine.key.json is complete: 2 layers" in user.aiao("key", "complete", "mine.key.json").stdout
    assert load_key(key_file).commitment == model.commitment


def test_a_failed_embedding_is_an_error_with_its_reason_and_keeps_the_secret(user, client, folder, change):
    running = user.begin("models", "register", str(folder), "--name", "mine", "--json")
    wait_for(lambda: load_seed(user.folder / "mine.key.json"), "no key was saved")
    (model,) = client.models.list()
    change(model.job_id, state="failed", error={"code": "embedding-failed", "detail": "the [bold]model[/] has no lazy layers"})
    status, out, err = running.done()
    assert status == 2
    assert out == ""
    assert err.endswith("error: the [bold]model[/] has no lazy layers\n")
    assert load_seed(user.folder / "mine.key.json")


def test_names_are_printed_literally(user, client, folder):
    names = ["[red]x[/red]", "[/x]", ":smile:", "[link=http://x]y", "é 模型"]
    artifact = client.artifacts.upload(folder)
    for name in names:
        client.transport.post("/v1/models", json={"name": name, "artifact_id": artifact.id})
    listed = user.aiao("models", "list").stdout
    for name, model in zip(names[::-1], client.models.list(), strict=True):
        assert name in listed
        assert model.id in listed
    assert [model["name"] for model in user.json("models", "list")] == names[::-1]
    done = user.aiao("models", "register", str(folder), "--name", "[/red]:smile:", "--no-wait")
    assert "Secret key saved to [-red]:smile:.key.json" in done.stderr


def test_artifacts_are_listed_and_deleted(user, client, folder):
    artifact = client.artifacts.upload(folder)
    assert artifact.id in user.aiao("artifacts", "list").stdout
    assert user.json("artifacts", "list") == [artifact.model_dump(mode="json")]
    assert "is deleted" in user.aiao("artifacts", "delete", artifact.id).stdout
    assert user.json("artifacts", "list") == []


def test_wide_tables_are_not_cut(user, client, folder, change):
    user.environment["COLUMNS"] = "40"
    artifact = client.artifacts.upload(folder)
    name = "".join(f"name{number:03} " for number in range(25))[:-1]
    answer = client.transport.post("/v1/models", json={"name": name, "artifact_id": artifact.id}).json()
    detail = " ".join(f"word{number:03}" for number in range(60))
    change(answer["job"]["id"], state="failed", error={"code": "x", "detail": detail})
    listed = user.aiao("models", "list").stdout
    assert "".join(listed.split()).count("name024") == 1
    assert all(f"name{number:03}" in listed for number in range(25))
    assert answer["model"]["id"] in listed
    jobs = user.aiao("jobs", "list").stdout
    assert all(f"word{number:03}" in jobs for number in range(60))
    assert answer["job"]["id"] in jobs
    assert answer["model"]["id"] in jobs


def test_a_model_is_listed_shown_and_retired(user, client, folder):
    model = client.models.register(folder, name="mine").model
    assert user.json("models", "list") == [model.model_dump(mode="json")]
    assert user.json("models", "show", model.id) == model.model_dump(mode="json")
    listed = user.aiao("models", "list").stdout
    assert listed.split()[:6] == ["model", "name", "status", "created", "key", "version"]
    assert listed.split()[6:9] == [model.id, "mine", "embedding"]
    shown = user.aiao("models", "show", model.id).stdout
    assert all(part in shown for part in (model.id, "mine", "embedding", model.commitment, model.job_id, "none yet"))
    assert "has no checkpoint: it is embedding" in user.error("models", "download", model.id)
    assert not list(user.folder.glob("mdl_*"))
    assert user.aiao("models", "retire", model.id).stdout == f"{model.id} is retired.\n"
    assert client.models.get(model.id).status == "retired"


def test_what_does_not_exist_is_an_error_in_a_sentence(user, suspect):
    missing = new_id("mdl")
    assert f"there is no model {missing}" in user.error("models", "show", missing)
    assert f"there is no model {missing}" in user.error("verify", "--model", missing, str(suspect), "--json")
    assert "nowhere.zip does not exist" in user.error("verify", "--model", missing, "nowhere.zip", "--json")


# Jobs


def test_a_token_is_issued_for_a_script_listed_and_revoked(user, client):
    issued = user.aiao("tokens", "issue", "hosting context", "--scope", "verifications:write", "--expires-in-days", "30")
    secret = issued.stdout.strip()
    assert secret not in issued.stderr
    (token,) = (token for token in client.tokens.list() if token.name == "hosting context")
    with Client(client.url, secret) as context:
        assert list(context.models.list()) == []
        with pytest.raises(ApiError, match="lacks the scope admin"):
            list(context.tokens.list())
        assert f"{token.id}  hosting context  verifications:write" in user.aiao("tokens", "list").stdout
        assert user.aiao("tokens", "revoke", token.id).stdout == f"{token.id} is revoked.\n"
        with pytest.raises(ApiError, match="was revoked"):
            context.jobs.cancel("job_00000000000000000000000000")
    assert "revoked 20" in user.aiao("tokens", "list").stdout
    assert json.loads(user.aiao("tokens", "issue", "a", "--scope", "read", "--json").stdout)["secret"]
    assert "scopes" in user.error("tokens", "issue", "a", "--scope", "everything")


def test_a_webhook_is_added_for_a_script_and_its_deliveries_are_listed(user, client, folder):
    added = user.aiao("webhooks", "add", "https://example.com/aiao")
    secret = added.stdout.strip()
    assert secret.startswith("whsec_")
    assert secret not in added.stderr
    (webhook,) = client.webhooks.list()
    assert f"{webhook.id}  https://example.com/aiao  active" in user.aiao("webhooks", "list").stdout
    client.jobs.cancel(client.models.register(folder, name="mine").job.id)
    (delivery,) = client.webhooks.deliveries(webhook.id)
    assert f"{delivery.id}  job.canceled  pending  0" in user.aiao("webhooks", "deliveries", webhook.id).stdout
    assert client.webhooks.retry(delivery.id).state == "pending"
    assert user.aiao("webhooks", "remove", webhook.id).stdout == f"{webhook.id} is removed.\n"
    assert user.aiao("webhooks", "list", "--json").stdout == "[]\n"


def test_jobs_are_listed_and_canceled(user, client, folder):
    jobs = [client.models.register(folder, name="mine").job for _ in range(2)]
    assert [job["id"] for job in user.json("jobs", "list")] == [job.id for job in jobs[::-1]]
    assert user.aiao("jobs", "cancel", jobs[0].id).stdout == f"{jobs[0].id} is canceled.\n"
    assert user.json("jobs", "cancel", jobs[1].id)["state"] == "canceled"


def test_a_running_job_is_asked_to_stop(user, client, folder, change):
    job = client.models.register(folder, name="mine").job
    change(job.id, state="running", attempt=1, progress=progress(3))
    (row,) = user.aiao("jobs", "list").stdout.splitlines()[1:]
    assert row.split()[1:3] == ["embed", "running"]
    assert row.rstrip().endswith("embedding 3/9")
    assert "is running and stops at its next step." in user.aiao("jobs", "cancel", job.id).stdout
    assert client.jobs.get(job.id).cancel_requested


def progress(step: int) -> dict:
    return {"stage": "embedding", "step": step, "total": 9, "metrics": {"response": 0.25}, "seconds_left": 1.0}


def test_every_change_is_a_line_as_soon_as_it_happens(user, client, folder, change):
    job = client.models.register(folder, name="mine").job
    process = user.start("jobs", "watch", job.id, "--json")
    changes = [{"state": "running", "attempt": 1}, {"progress": progress(3)}, {"state": "succeeded", "result": "/v1/models/x"}]
    assert json.loads(process.stdout.readline())["state"] == "queued"
    for values in changes:
        change(job.id, **values)
        line = json.loads(process.stdout.readline())
        assert {name: line[name] for name in values} == values
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_watching_shows_progress_and_the_end(user, client, folder, change):
    job = client.models.register(folder, name="mine").job
    change(job.id, state="succeeded", attempt=1, progress=progress(8), result="/v1/models/x")
    done = user.aiao("jobs", "watch", job.id)
    assert done.stdout == f"{job.id} has succeeded: /v1/models/x\n"
    assert "embedding" in done.stderr
    assert "9/9" in done.stderr
    assert "response 0.25" in done.stderr


def test_watching_a_canceled_job_is_an_error(user, client, folder):
    job = client.models.register(folder, name="mine").job
    client.jobs.cancel(job.id)
    assert f"{job.id} was canceled" in user.aiao("jobs", "watch", job.id, status=2).stderr
    assert user.aiao("jobs", "watch", "[/x]", status=2).stderr.count("error: ") == 1


# Verifications


def verified(user: Shell, client: Client, backstage, *arguments: str, report: Report | None = None) -> Done:
    """Run `aiao verify` while somebody does the worker's part, and finds a match, or what ``report`` says."""
    running = user.begin("verify", *arguments)
    wait_for(lambda: running.ended() or list(client.verifications.list()), "nothing was submitted")
    (verification,) = client.verifications.list()
    tenant_id = rows.model(backstage.database, verification.model_id).tenant_id
    rows.finish_verification(backstage, tenant_id, verification.id, verification.job_id, report)
    return running.done()


@pytest.fixture
def host(api, backstage, client, ready, tmp_path) -> Iterator[Shell]:
    """A platform's moderator, with a token of the owner's tenant that submits suspects and sees no figures."""
    token = rows.token(backstage.database, rows.model(backstage.database, ready).tenant_id, "verifications:write")
    (tmp_path / "host").mkdir()
    shell = Shell(tmp_path / "host", AIAO_URL=api.url, AIAO_TOKEN=token)
    yield shell
    shell.end(client)


@pytest.fixture
def ready(client, folder, publish) -> str:
    """A model whose embedding is done."""
    registration = client.models.register(folder, name="mine")
    publish(registration.model.id, registration.secret_key)
    return registration.model.id


def test_a_match_is_exit_status_0(user, client, backstage, ready, suspect):
    status, out, err = verified(user, client, backstage, str(suspect), "--model", ready, "--report", "report.html")
    (verification,) = client.verifications.list()
    assert status == 0
    assert out.startswith(f"Verification {verification.id}\nMATCH: <script>alert(1)</script> answers with the owner's key\n")
    assert "1201 of 1344" in out
    assert re.search(r"log10 p +-207\.25 +match at or below -19\.266; claimed -38\.53\s", out)
    assert "1 with this key, 1 of these weights" in out
    assert "Report saved to report.html" in err
    assert (user.folder / "report.html").read_text() == client.verifications.report_html(verification.id)
    assert user.aiao("report", verification.id).stdout == out.partition("\n")[2]
    assert user.aiao("report", verification.id, "--to", "report.json").stdout == ""
    assert (user.folder / "report.json").read_text() == client.verifications.report(verification.id)


def test_a_repository_of_the_hub_and_the_base_of_its_adapter(user, client, ready, folder):
    running = user.begin("verify", "hf://someone/adapter", "--model", ready, "--base", str(folder))
    wait_for(lambda: running.ended() or list(client.verifications.list()), "nothing was submitted")
    (verification,) = client.verifications.list()
    assert verification.hub == "hf://someone/adapter"
    assert client.artifacts.get(verification.base_artifact_id).filename == "my model.zip"
    client.jobs.cancel(verification.job_id)
    assert running.done().stderr.endswith("was canceled\n")


def test_a_script_gets_the_report_and_nothing_else(user, client, backstage, ready, suspect):
    status, out, err = verified(user, client, backstage, str(suspect), "--model", ready, "--json")
    assert (status, err) == (0, "")
    (verification,) = client.verifications.list()
    assert out == client.verifications.report(verification.id)
    expected = rows.a_report().model_copy(update={"tests": Counts(with_key=1, of_file=1)})
    assert json.loads(out) == json.loads(expected.to_json())


def test_who_may_not_see_figures_gets_verdict_and_coarse_bound(api, host, client, backstage, ready, suspect):
    status, out, err = verified(host, client, backstage, str(suspect), "--model", ready, "--report", "report.html")
    (verification,) = client.verifications.list()
    assert status == 0
    assert out.startswith(f"Verification {verification.id}\nMATCH: <script>alert(1)</script> answers with the owner's key\n")
    assert re.search(r"bound of the probability +10\^-38\.5 +coarse: the full report is for the key's owner", out)
    assert "1 with this key, 1 of these weights" in out
    with Client(api.url, host.environment["AIAO_TOKEN"]) as moderator:
        page, document = moderator.verifications.report_html(verification.id), moderator.verifications.report(verification.id)
    assert "Report saved to report.html" in err
    assert (host.folder / "report.html").read_text() == page
    assert host.aiao("report", verification.id).stdout == out.partition("\n")[2]
    for to, text in (("again.html", page), ("again.json", document)):
        assert host.aiao("report", verification.id, "--to", to).stdout == ""
        assert (host.folder / to).read_text() == text
    assert host.aiao("report", verification.id, "--json").stdout == document
    for text in (out, page, document):
        assert not re.search(r"\b(1201|1344|207|0\.93|93\.[78])", text)


def test_a_script_that_may_not_see_figures_gets_the_summary_and_nothing_else(host, client, backstage, ready, suspect):
    status, out, err = verified(host, client, backstage, str(suspect), "--model", ready, "--json", "--report", "r.json")
    assert (status, err) == (0, "Report saved to r.json\n")
    assert (host.folder / "r.json").read_text() == out
    expected = rows.a_report().model_copy(update={"tests": Counts(with_key=1, of_file=1)})
    assert Summary.from_json(out) == Summary.of(expected)


OUTCOMES = [
    (rows.a_report(rows.NOT_FOUND), 1, "NO MATCH: the owner's watermark was not found in "),
    (rows.a_report(tested="base", base_name="b"), 3, "BASE CARRIES THE MARK: the base b of the adapter "),
    (rows.a_report(source=rows.FOUND), 3, "INVALID: the test of "),
]


@pytest.mark.parametrize(("report", "expected", "words"), OUTCOMES, ids=lambda part: getattr(part, "verdict", None))
@pytest.mark.parametrize("who", ["user", "host"])
def test_what_is_no_match_has_another_exit_status(request, client, backstage, ready, suspect, who, report, expected, words):
    caller = request.getfixturevalue(who)
    status, out, _ = verified(caller, client, backstage, str(suspect), "--model", ready, report=report)
    assert status == expected
    first = out.splitlines()[1]
    assert first.startswith(words)
    assert first.endswith(f": {report.reason}") == (report.reason is not None)


@pytest.mark.parametrize("who", ["user", "host"])
def test_a_report_from_before_the_rules_says_so(request, client, backstage, ready, suspect, who):
    caller, old = request.getfixturevalue(who), rows.an_old_report()
    status, out, _ = verified(caller, client, backstage, str(suspect), "--model", ready, report=old)
    (verification,) = client.verifications.list()
    assert status == 0
    assert caller.aiao("report", verification.id).stdout == out.partition("\n")[2]
    notices = [line for line in out.splitlines() if line.startswith("  from before the rules of a verdict: ")]
    assert notices[0].endswith(": With today's limit it would not be a match.")
    assert notices[1].endswith(": Its limit was log10 p -9; a verdict needs -19.3 (2^-64) or less.")
    assert len(notices) == len(before_the_rules(old.max_log10_p, old.test.log10_p, old.verdict)) == 6
    assert (f"{old.test.matches} of {old.test.bits}" in out) == (who == "user")
    assert bool(re.search("bound of the probability +none +coarse", out)) == (who == "host")


def test_a_key_that_others_have_seen_is_noted_and_tested_with_no_more(user, host, client, ready, suspect):
    said = user.aiao("key", "opened", ready)
    assert said.stdout.startswith(f"The key of {ready} is noted as opened on 20")
    assert "It takes no more tests, because others can make models that match it. Earlier reports stand." in said.stdout
    assert said.stdout.endswith(f"Renew the model for a new key: aiao models renew {ready}\n")
    assert said.stderr == ""
    document = user.json("key", "opened", ready)
    assert document.keys() == {"model_id", "opened_at"}
    assert document["opened_at"][:16].replace("T", " ") in said.stdout
    for caller in (user, host):
        assert f"the key of {ready} was opened on" in caller.error("verify", str(suspect), "--model", ready, "--json")
    assert "lacks the scope models:write" in host.error("key", "opened", ready)
    assert "there is no model" in user.error("key", "opened", new_id("mdl"))


def test_a_verification_without_a_report_is_an_error(user, client, ready, suspect, change):
    running = user.begin("verify", str(suspect), "--model", ready)
    wait_for(lambda: list(client.verifications.list()), "nothing was submitted")
    (verification,) = client.verifications.list()
    with pytest.raises(ApiError, match="has no report"):
        client.verifications.report(verification.id)
    change(verification.job_id, state="failed", error={"code": "wrong-architecture", "detail": "layer x is missing"})
    status, _, err = running.done()
    assert status == 2
    assert err.endswith("error: layer x is missing\n")
    assert "has no report" in user.error("report", verification.id)


# Audits


def audited(user: Shell, client: Client, backstage, model: str, *arguments: str, ended: bool = False) -> Done:
    """Run `aiao audit` while somebody does the worker's part."""
    running = user.begin("audit", model, *arguments)
    wait_for(lambda: running.ended() or list(client.audits.list(model)), "no audit was started")
    (audit,) = client.audits.list(model)
    tenant_id = rows.model(backstage.database, model).tenant_id
    rows.finish_audit(backstage, tenant_id, audit.id, audit.job_id, ended=ended)
    return running.done()


def test_an_audit_that_every_useful_model_passes_is_exit_status_0(user, client, backstage, ready):
    arguments = ["--attack", "quantisation-8", "--attack", "lora-4-100", "--seed", "3", "--report", "a.html"]
    status, out, err = audited(user, client, backstage, ready, *arguments)
    (audit,) = client.audits.list(ready)
    assert status == 0
    assert out.startswith(f"Audit {audit.id}\n")
    assert "WITHSTOOD: 2 of 2 attacks that leave the model useful do not end the watermark" in out
    assert "1 ruined the model: quality loss of 20% or more" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["quantisation-8"].split() == ["quantisation-8", "withstood", "-207.3", "1.000", "1.000", "+0.1%"]
    assert lines["magnitude-pruning-70"].split()[1::4] == ["ruined", "+350.0%"]
    assert lines["dreambooth"].rstrip().endswith("this denoiser has no <attention>")
    assert (audit.attacks, audit.preset) == (["quantisation-8", "lora-4-100"], None)
    assert audit.options == {"seed": 3, "draws": None}
    assert "Report saved to a.html" in err
    assert (user.folder / "a.html").read_text() == client.audits.report_html(audit.id)
    assert user.aiao("report", audit.id).stdout == out.partition("\n")[2]
    assert user.aiao("report", audit.id, "--to", "again.html").stdout == ""
    assert (user.folder / "again.html").read_text() == (user.folder / "a.html").read_text()


def test_an_attack_that_ends_the_watermark_is_exit_status_1(user, client, backstage, ready):
    status, out, _ = audited(user, client, backstage, ready, "--report", "a.json", ended=True)
    (audit,) = client.audits.list(ready)
    assert status == 1
    assert "ENDED: the watermark does not withstand lora-4-100" in out
    assert (audit.preset, audit.attacks, audit.images_artifact_id) == ("quick", None, None)
    assert (user.folder / "a.json").read_text() == client.audits.report(audit.id)


def test_an_audit_with_the_owners_images_for_a_script(user, client, backstage, ready):
    (user.folder / "images").mkdir()
    (user.folder / "images" / "a.png").write_bytes(b"1")
    status, out, err = audited(user, client, backstage, ready, "--images", "images", "--preset", "full", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(rows.an_audit_report().to_json())
    (audit,) = client.audits.list(ready)
    assert client.artifacts.get(audit.images_artifact_id).filename == "images.zip"
    assert audit.preset == "full"


def test_an_audit_that_fails_is_an_error_with_its_reason(user, client, ready, change):
    running = user.begin("audit", ready)
    wait_for(lambda: list(client.audits.list(ready)), "no audit was started")
    (audit,) = client.audits.list(ready)
    change(audit.job_id, state="failed", error={"code": "invalid-images", "detail": "the image set is empty"})
    status, _, err = running.done()
    assert status == 2
    assert err.endswith("error: the image set is empty\n")
    assert "nowhere does not exist" in user.error("audit", ready, "--images", "nowhere", "--json")
    assert "there is no model" in user.error("audit", new_id("mdl"), "--json")
