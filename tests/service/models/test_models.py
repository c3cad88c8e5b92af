import re

import pytest

from aiao_core.errors import InvalidKey
from aiao_core.key import OwnerKey, PublicKey, commitment, decode_secret
from service.jobs.leases import Lease
from service.kit.ids import new_id
from service.models.service import Checkpoint
from tests.support import rows, uploads
from tests.support.calls import count, make_ready, post, problem, register, upload
from tests.support.rings import rings

pytestmark = pytest.mark.dialect


def everything_in(context) -> bytes:
    """The whole database as bytes: PostgreSQL's rows as text, SQLite's files with what it has not cleaned up yet."""
    engine = context.database.engine
    if engine.dialect.name == "sqlite":
        return b"".join(file.read_bytes() for file in context.settings.data_dir.glob("aiao.sqlite*"))
    with engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").scalars().all()
        found = [row for table in tables for row in connection.exec_driver_sql(f"SELECT t::text FROM {table} t").scalars()]
    return "\n".join(found).encode()


def test_a_registration_is_accepted_with_a_job_to_follow_and_a_secret(api, http, backstage):
    answer = post(http, "/v1/models", {"name": "emoji 🙂", "artifact_id": upload(http), "options": {"steps": 7}})
    assert answer.status_code == 202
    body = answer.json()
    model, job = body["model"], body["job"]
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (model["name"], model["status"], model["options"]["steps"]) == ("emoji 🙂", "embedding", 7)
    assert (model["checkpoint"], model["error"], model["job_id"]) == (None, None, job["id"])
    assert (job["kind"], job["state"], job["attempt"], job["subject_id"]) == ("embed", "queued", 0, model["id"])
    assert http.get(f"/v1/models/{model['id']}").json() == model
    assert http.get(answer.headers["location"]).json() == job
    assert ("worker.embed", job["id"]) in rings(api.settings["AIAO_BROKER_URL"], api.settings["AIAO_QUEUE"])


def test_the_secret_is_the_key_of_the_commitment(http):
    registered = register(http)
    assert registered["secret_key"].startswith("aiao1")
    assert commitment(decode_secret(registered["secret_key"])) == registered["model"]["commitment"]


def test_the_secret_is_shown_once_and_kept_nowhere_in_the_clear(api, http, backstage):
    key = {"Idempotency-Key": new_id("key")}
    body = {"name": "kept", "artifact_id": upload(http)}
    registered = post(http, "/v1/models", body, **key).json()
    secret, model_id, job_id = registered["secret_key"], registered["model"]["id"], registered["job"]["id"]
    for path in (f"/v1/models/{model_id}", "/v1/models", f"/v1/jobs/{job_id}", "/v1/jobs", "/metrics"):
        assert secret not in http.get(path).text
    stored = everything_in(backstage)
    assert model_id.encode() in stored
    seed = decode_secret(secret)
    for form in (secret.encode(), secret[5:].upper().encode(), seed, seed.hex().encode()):
        assert form not in stored
    for log in ("api", "reaper"):
        assert secret not in api.log(log)


def test_no_token_is_kept_in_the_clear(api, http, backstage):
    token = http.headers["authorization"].removeprefix("Bearer ")
    assert token.encode() not in everything_in(backstage)
    assert token not in api.log("api")


LORA = uploads.safetensors("lora_unet_conv.lora_down.weight", "lora_unet_conv.lora_up.weight")


@pytest.mark.parametrize(
    ("content", "words"),
    [(uploads.npz(), "pipeline folder"), (uploads.gguf(), "of a GGUF file register what"), (LORA, "an adapter")],
)
def test_what_is_no_model_is_refused_before_there_is_a_job(http, backstage, content, words):
    before = count(backstage, "jobs")
    answer = post(http, "/v1/models", {"name": "a", "artifact_id": upload(http, content)})
    assert words in problem(answer, 422, "invalid-artifact")
    assert count(backstage, "jobs") == before


@pytest.mark.parametrize("content", [uploads.safetensors(), uploads.pickle()])
def test_a_single_file_can_be_registered(http, content):
    assert post(http, "/v1/models", {"name": "a", "artifact_id": upload(http, content)}).status_code == 202


def test_images_must_be_an_image_set(http):
    images = upload(http, uploads.npz())
    assert register(http, images_artifact_id=images)["model"]["images_artifact_id"] == images
    body = {"name": "a", "artifact_id": upload(http), "images_artifact_id": upload(http, uploads.safetensors())}
    assert "image set" in problem(post(http, "/v1/models", body), 422, "invalid-artifact")


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"steps": 10**9}, {"layers": 1}, {"seed": -1}, {"steps": "many"}, {"key": 1}],
)
def test_an_option_out_of_range_is_named(http, options):
    answer = post(http, "/v1/models", {"name": "a", "artifact_id": new_id("art"), "options": options})
    assert f"options.{next(iter(options))}" in problem(answer, 422, "invalid-request")


def test_an_unknown_model_is_not_found(http):
    for path in ("", "/checkpoint", "/key"):
        problem(http.get(f"/v1/models/{new_id('mdl')}{path}"), 404, "not-found")
    problem(http.delete(f"/v1/models/{new_id('mdl')}"), 404, "not-found")


def test_what_is_not_ready_is_a_conflict_that_names_the_job_to_follow(http, owned):
    for path in ("checkpoint", "key"):
        detail = problem(http.get(f"/v1/models/{owned.embedding_id}/{path}"), 409, "conflict")
        assert "embedding" in detail
        assert owned.job_id in detail


def test_the_checkpoint_of_a_ready_model_is_downloaded_whole(http, owned):
    shown = http.get(f"/v1/models/{owned.model_id}").json()
    answer = http.get(f"/v1/models/{owned.model_id}/checkpoint")
    assert answer.content == owned.checkpoint
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(owned.checkpoint) == shown["checkpoint"]["size"]
    assert answer.headers["etag"] == f'"{shown["checkpoint"]["sha256"]}"'
    assert f"{owned.model_id}.zip" in answer.headers["content-disposition"]
    assert shown["status"] == "ready"


def test_the_public_key_of_a_ready_model_tells_nothing_secret_and_makes_the_key_with_the_secret(http, backstage, tmp_path):
    registered = register(http)
    model_id, secret = registered["model"]["id"], registered["secret_key"]
    made = rows.finish_embedding(backstage, model_id, secret, Checkpoint("nowhere", "0" * 64, 1))
    answer = http.get(f"/v1/models/{model_id}/key")
    body = answer.json()
    assert (body.pop("model_id"), body["commitment"]) == (model_id, registered["model"]["commitment"])
    assert re.match(r"20\d\d-", body.pop("created_at"))
    assert body.pop("opened_at") is None
    assert OwnerKey.from_public(PublicKey.model_validate(body), secret) == made
    for layer in range(len(made.layers)):
        for bits in (made.trigger_sign(layer), made.response_sign(layer)):
            assert str(bits.tolist()).replace(" ", "") not in answer.text.replace(" ", "")
    with pytest.raises(InvalidKey):
        OwnerKey.from_public(PublicKey.model_validate(body), register(http)["secret_key"])


def test_a_complete_key_is_not_in_the_database_in_the_clear(http, backstage, owned):
    stored = everything_in(backstage)
    assert b"aiao.public-key" in stored
    assert b"aiao.owner-key" not in stored
    assert b"aiao.owner-key".hex().encode() not in stored


def test_retiring_a_model_under_embedding_cancels_its_job(http):
    registered = register(http)
    model_id = registered["model"]["id"]
    assert http.delete(f"/v1/models/{model_id}").status_code == 204
    assert http.get(f"/v1/models/{model_id}").json()["status"] == "retired"
    assert http.get(f"/v1/jobs/{registered['job']['id']}").json()["state"] == "canceled"
    assert http.delete(f"/v1/models/{model_id}").status_code == 204


def test_retiring_a_model_whose_worker_runs_asks_it_to_stop(http, backstage):
    registered = register(http)
    assert Lease.take(backstage.database, registered["job"]["id"], 60)
    http.delete(f"/v1/models/{registered['model']['id']}").raise_for_status()
    assert http.get(f"/v1/jobs/{registered['job']['id']}").json()["cancel_requested"] is True


def test_a_retired_model_keeps_key_and_checkpoint_and_takes_no_verification(http, backstage, tmp_path):
    model_id, content = make_ready(http, backstage, tmp_path)
    http.delete(f"/v1/models/{model_id}").raise_for_status()
    assert http.get(f"/v1/models/{model_id}/checkpoint").content == content
    assert http.get(f"/v1/models/{model_id}/key").status_code == 200
    assert model_id in [model["id"] for model in http.get("/v1/models", params={"limit": 200}).json()["items"]]
    answer = post(http, "/v1/verifications", {"model_id": model_id, "artifact_id": upload(http)})
    assert "retired" in problem(answer, 409, "conflict")


def test_pages_show_every_model_once_and_the_newest_first(caller):
    newcomer = caller()
    made = [register(newcomer, name=f"model {number}")["model"]["id"] for number in range(7)]
    seen, cursor = [], None
    while cursor or not seen:
        page = newcomer.get("/v1/models", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) <= 3
        seen += [model["id"] for model in page["items"]]
        cursor = page["next_cursor"]
    assert seen == sorted(made, reverse=True)
    page = newcomer.get("/v1/models", params={"limit": 7}).json()
    assert (len(page["items"]), page["next_cursor"]) == (7, None)


@pytest.mark.parametrize("things", ["models", "jobs", "verifications"])
@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=1e999", "cursor=x", "cursor=%00", "cursor="])
def test_a_malformed_page_is_named(http, things, query):
    assert query.split("=")[0] in problem(http.get(f"/v1/{things}?{query}"), 422, "invalid-request")
