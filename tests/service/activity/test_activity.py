import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiao_core.key import encode_secret
from service.activity.service import record
from service.keys import service as keys
from service.kit.database import Database
from service.kit.ids import new_id
from tests.support import rows
from tests.support.calls import files, make_ready, post, problem, register, send, upload
from tests.support.databases import sqlite_database

pytestmark = pytest.mark.dialect


def acts(http, **filters: str) -> list[tuple[str, str]]:
    """Action and subject, oldest first."""
    found, cursor = [], None
    while True:
        page = http.get("/v1/activity", params={**filters, **({"cursor": cursor} if cursor else {})}).raise_for_status().json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return [(act["action"], act["subject_id"]) for act in reversed(found)]


def test_every_act_is_there_with_the_token_that_did_it(caller, backstage, tmp_path):
    http = caller()
    (token,) = http.get("/v1/tokens").json()["items"]
    model_id, _ = make_ready(http, backstage, tmp_path)
    registered = http.get(f"/v1/models/{model_id}").json()
    http.get(f"/v1/models/{model_id}/checkpoint").raise_for_status()
    artifact_id = registered["artifact_id"]
    suspect = {"model_id": model_id, "artifact_id": artifact_id}
    submitted = post(http, "/v1/verifications", suspect).raise_for_status().json()
    job_id = submitted["job"]["id"]
    http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    audit_id = post(http, f"/v1/models/{model_id}/audits", {"preset": "quick"}).raise_for_status().json()["audit"]["id"]
    other = post(http, "/v1/tokens", {"name": "a", "scopes": ["read"]}).raise_for_status().json()["token"]["id"]
    http.delete(f"/v1/tokens/{other}").raise_for_status()
    http.delete(f"/v1/models/{model_id}").raise_for_status()
    expected = [
        ("artifact.upload", artifact_id),
        ("model.register", model_id),
        ("checkpoint.download", model_id),
        ("verification.submit", submitted["verification"]["id"]),
        ("job.cancel", job_id),
        ("audit.start", audit_id),
        ("token.issue", other),
        ("token.revoke", other),
        ("model.retire", model_id),
    ]
    assert acts(http) == acts(http, limit="2") == expected
    assert {act["actor"] for act in http.get("/v1/activity").json()["items"]} == {token["id"]}
    assert acts(http, subject_id=model_id) == [act for act in expected if act[1] == model_id]


def test_what_was_refused_or_repeated_leaves_nothing(caller, api):
    http = caller()
    problem(http.delete(f"/v1/models/{new_id('mdl')}"), 404, "not-found")
    problem(post(http, "/v1/models", {"name": "a", "artifact_id": new_id("art")}), 404, "not-found")
    before = files(api.data_dir / "scratch")
    problem(send(http, b"of no known kind"), 422, "invalid-artifact")
    assert files(api.data_dir / "scratch") == before
    assert acts(http) == []
    body = {"name": "model", "artifact_id": upload(http)}
    for _ in range(2):
        post(http, "/v1/models", body, **{"Idempotency-Key": "once"}).raise_for_status()
    assert [action for action, _ in acts(http)] == ["artifact.upload", "model.register"]


def test_a_worker_that_decrypts_a_key_is_there_with_its_job(caller, backstage):
    http = caller()
    registered = register(http)
    model_id, job_id = registered["model"]["id"], registered["job"]["id"]
    tenant_id = rows.job(backstage.database, job_id).tenant_id
    with backstage.database.session() as session:
        seed = keys.seed_of(session, backstage.vault, tenant_id, model_id, job_id)
    assert encode_secret(seed) == registered["secret_key"]
    act = http.get("/v1/activity").json()["items"][0]
    assert (act["action"], act["subject_id"], act["actor"]) == ("key.decrypt", model_id, job_id)


def test_a_tenant_sees_its_own_acts_alone(http, stranger, owned):
    assert owned.model_id in {subject for _, subject in acts(http)}
    assert owned.model_id not in {subject for _, subject in acts(stranger)}
    assert acts(stranger, subject_id=owned.model_id) == []


@pytest.mark.parametrize("statement", ["UPDATE activity SET actor = 'nobody'", "DELETE FROM activity"])
def test_the_database_itself_refuses_to_change_the_log(database, statement):
    tenant_id = rows.tenant(database)
    with database.session() as session:
        record(session, tenant_id, "operator", "token.issue", new_id("tok"))
    with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    with database.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM activity WHERE actor = 'operator'")).scalar_one() == 1


FORGED = "(id, tenant_id, actor, action, subject_id, created_at) SELECT id, tenant_id, 'nobody', action, subject_id, created_at"


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT OR REPLACE INTO activity {FORGED} FROM activity",
        f"REPLACE INTO activity {FORGED} FROM activity",
        f"INSERT INTO activity {FORGED} FROM activity WHERE true ON CONFLICT DO UPDATE SET actor = 'nobody'",
        "INSERT OR REPLACE INTO activity (rowid, id, tenant_id, actor, action, subject_id, created_at) "
        "SELECT rowid, 'act_other', tenant_id, 'nobody', action, subject_id, created_at FROM activity",
    ],
)
@pytest.mark.parametrize("recursive", ["ON", "OFF"])
def test_no_line_is_replaced_on_sqlite(tmp_path, statement, recursive):
    database = Database(sqlite_database(tmp_path / "aiao.sqlite"))
    tenant_id = rows.tenant(database)
    with database.session() as session:
        for _ in range(2):
            record(session, tenant_id, "operator", "token.issue", new_id("tok"))
    with database.engine.connect() as connection:
        before = connection.execute(sa.text("SELECT * FROM activity ORDER BY id")).all()
    with database.engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA recursive_triggers = {recursive}")
        with pytest.raises(DBAPIError, match="append-only"):
            connection.exec_driver_sql(statement)
    with database.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM activity ORDER BY id")).all() == before
    database.dispose()
