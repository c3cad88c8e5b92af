"""From registration to verdict on PostgreSQL and Redis, every part a process of its own."""

import base64
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import redis
from diffusers import DDPMPipeline

import aiao
from aiao import ApiError
from aiao_core.formats.archives import unpack
from aiao_core.formats.digests import sha256_file
from aiao_core.formats.pipelines import load_model, save_model
from aiao_core.key import OwnerKey, PublicKey, decode_secret
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.reports.verification import Report
from demo_models.emoji.data import DATA, THIEF_CATEGORY, load_images
from tests.support.small_model import EMBEDDING


def verified(owner, model_id, suspect) -> Report:
    submission = owner.verifications.create(model_id, suspect)
    owner.jobs.wait(submission)
    return Report.from_json(owner.verifications.report(submission.verification.id))


@pytest.fixture(scope="module")
def marked_folder(marked, tmp_path_factory):
    return unpack(marked, tmp_path_factory.mktemp("unpacked") / "content")


@pytest.fixture(scope="module")
def key_file(owner, registered, tmp_path_factory):
    public = PublicKey.model_validate(owner.models.public_key(registered.model.id))
    path = tmp_path_factory.mktemp("key") / "key.json"
    path.write_text(OwnerKey.from_public(public, registered.secret_key).to_json())
    return path


def public(config) -> dict:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def test_the_published_checkpoint_is_a_folder_that_diffusers_loads(owner, source, registered, marked, marked_folder):
    model = owner.models.get(registered.model.id)
    assert model.status == "ready"
    assert model.checkpoint.sha256 == sha256_file(marked)
    pipeline = DDPMPipeline.from_pretrained(marked_folder)
    original = DDPMPipeline.from_pretrained(source)
    assert public(pipeline.unet.config) == public(original.unet.config)
    change = (pipeline.unet.conv_in.weight - original.unet.conv_in.weight).abs().max()
    assert 0 < change < 0.2
    with zipfile.ZipFile(marked) as archive:
        assert sorted(archive.namelist()) == sorted(
            path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()
        )


@pytest.mark.slow
def test_an_owner_may_hold_the_key(production, owner, source, tmp_path):
    registration = owner.models.register(source, name="held", options=EMBEDDING, custody="owner")
    owner.jobs.wait(registration)
    marked = owner.models.download(registration.model.id, tmp_path / "marked.zip")
    with pytest.raises(ApiError, match="you hold the key"):
        owner.verifications.create(registration.model.id, marked)
    submission = owner.verifications.create(registration.model.id, marked, secret_key=registration.secret_key)
    owner.jobs.wait(submission)
    assert Report.from_json(owner.verifications.report(submission.verification.id)).verdict == "match"
    with psycopg.connect(production.settings["AIAO_DATABASE_URL"].replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM lent_secrets").fetchone() == (0,)
        query = "SELECT ciphertext, data_key, key_encryption_key_id FROM owner_keys WHERE model_id = %s"
        assert connection.execute(query, (registration.model.id,)).fetchone() == (None, None, None)


def test_the_published_model_is_a_match_and_its_source_is_not(owner, source, registered, marked):
    report = verified(owner, registered.model.id, marked)
    assert report.verdict == "match"
    assert report.test.log10_p < -30
    assert report.bound_log10_p == pytest.approx(-38.53, abs=0.01)
    assert len(report.decoys) == 8
    assert min(control.log10_p for control in (*report.decoys, *report.panel)) > -6
    assert report.untriggered.log10_p > report.test.log10_p / 2
    digests = {entry.role: entry.sha256 for entry in report.inputs}
    assert digests["watermarked"] == sha256_file(marked)

    innocent = verified(owner, registered.model.id, source)
    assert innocent.verdict == "no-match"
    assert innocent.test.log10_p > -6
    assert innocent.tests.with_key > report.tests.with_key


def test_a_thief_who_fine_tunes_every_weight_is_found(owner, registered, marked_folder, tmp_path):
    model = load_model(marked_folder)
    examples = Examples(load_images(only=[THIEF_CATEGORY], size=8), {})
    fine_tune(model, examples, steps=40, learning_rate=2e-4, batch_size=16)
    save_model(model.denoiser, marked_folder, tmp_path / "stolen")
    report = verified(owner, registered.model.id, tmp_path / "stolen" / "unet" / "diffusion_pytorch_model.safetensors")
    assert report.verdict == "match"
    assert report.suspect_form == "safetensors"


def test_offline_gives_the_same_numbers_whatever_the_packing(owner, source, registered, marked, marked_folder, key_file):
    by_service = verified(owner, registered.model.id, marked)
    differing = {"created_at", "inputs", "model_name", "suspect_name", "registration", "tests", "panel"}
    for suspect in (marked, marked_folder):
        offline = aiao.verify(suspect, key_file, source=source).details
        assert offline.model_dump(exclude=differing) == by_service.model_dump(exclude=differing)
        assert [way.counts for way in offline.ways] == [False, True] * 2
        assert (offline.registration, by_service.registration) == ("key-file", "service")


def test_the_report_is_json_or_a_page(owner, registered, marked):
    submission = owner.verifications.create(registered.model.id, marked)
    owner.jobs.wait(submission)
    document = json.loads(owner.verifications.report(submission.verification.id))
    assert document["format"] == "aiao.report"
    page = owner.verifications.report_html(submission.verification.id)
    assert page.startswith("<!doctype html>")
    assert owner.verifications.get(submission.verification.id).log10_p == document["test"]["log10_p"]


def test_the_key_is_kept_encrypted_and_its_public_part_tells_no_secret(production, our_collector, owner, registered, marked):
    seed, secret = decode_secret(registered.secret_key), registered.secret_key
    public = json.dumps(owner.models.public_key(registered.model.id))
    assert registered.model.commitment in public
    everything = {name: production.log(name) for name in production.processes}
    everything |= {"database": dump_of(production.settings["AIAO_DATABASE_URL"]), "public key": public}
    everything |= {"processes": command_lines(), "broker": dump_of_redis(production.settings["AIAO_BROKER_URL"])}
    everything |= {"spans": our_collector.text}
    assert all(
        sent in everything["spans"] for sent in (registered.job.id, "INSERT INTO owner_keys", "process worker.embed", "prove")
    )
    key_encryption_key = (production.data_dir / "key-encryption-key").read_text().strip()
    token = owner.transport.http.headers["authorization"].removeprefix("Bearer ")
    # The database shows bytes as hex.
    forms = (secret, seed.hex(), secret.encode().hex(), key_encryption_key, token, token.encode().hex())
    assert not [(form, place) for form in forms for place, text in everything.items() if form in text]


def test_the_broker_carries_the_names_of_jobs_and_nothing_else(production, source):
    with production.client("waiting") as client, redis.Redis.from_url(production.settings["AIAO_BROKER_URL"]) as broker:
        with broker.monitor() as heard:
            registration = client.models.register(source, name="waiting")
            client.jobs.cancel(registration.job.id)
            rung = next(command["command"] for command in heard.listen() if "LPUSH" in command["command"].upper())
        body = json.loads(rung.partition("{")[1] + rung.partition("{")[2])
        assert base64.b64decode(body["body"]).startswith(f'[["{registration.job.id}"]'.encode())
        assert registration.secret_key not in rung


def command_lines() -> str:
    """Of every process of this machine."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            found.append(file.read_text(errors="replace"))
    assert any("celery" in line for line in found)
    return "\n".join(found)


def dump_of_redis(url: str) -> str:
    """Every value, as Redis would write it to disk."""
    with redis.Redis.from_url(url) as broker:
        return "\n".join(str(broker.dump(key)) for key in broker.scan_iter())


def dump_of(database_url: str) -> str:
    """Every value of every table as text; bytes as hex."""
    import psycopg

    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = [connection.execute(f'SELECT t::text FROM "{name}" t').fetchall() for (name,) in tables]
    assert sum(map(len, rows)) > 5
    return str(rows)


def test_an_owner_may_bring_images_and_follow_the_progress(owner, source):
    seen = []
    registration = owner.models.register(source, name="with images", images=DATA, options=EMBEDDING)
    job = owner.jobs.wait(registration, progress=seen.append)
    assert job.state == "succeeded"
    stages = list(dict.fromkeys(job.progress.stage for job in seen if job.progress))
    assert "embedding" in stages
    assert "samples" not in stages
    steps = [job.progress.step for job in seen if job.progress and job.progress.stage == "embedding"]
    assert steps == sorted(steps)
    assert len(steps) > 2
    metrics = [job.progress.metrics for job in seen if job.progress and job.progress.stage == "embedding"]
    assert set(metrics[-1]) == {"response", "preserve", "covert"}


def test_a_retired_model_takes_no_more_suspects_and_keeps_its_checkpoint(owner, marked, tmp_path):
    model = next(model for model in owner.models.list() if model.name == "with images")
    owner.models.retire(model.id)
    with pytest.raises(ApiError, match="is retired"):
        owner.verifications.create(model.id, marked)
    assert owner.models.download(model.id, tmp_path / "kept.zip").stat().st_size == model.checkpoint.size
