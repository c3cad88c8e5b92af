from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from aiao_core.reports.verification import Counts, Report
from service.auth.callers import Caller
from service.jobs.with_job_state import with_states
from service.keys import service as keys
from service.kit.database import CONNECTIONS, Base, Database, alembic_config, utc_now
from service.kit.ids import new_id
from service.kit.schemas import Paging
from service.models.repository import ModelRepository
from service.models.service import Checkpoint
from service.tables.tokens import Tenant, Token
from service.verifications.repository import VerificationRepository
from service.verifications.schemas import VerificationIn, VerificationOut
from service.verifications.service import submit
from tests.support import rows

pytestmark = pytest.mark.dialect

EASTERN = timezone(timedelta(hours=9))


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names())


def test_the_migrations_go_up_down_and_up_again(database):
    assert tables(database) == {*Base.metadata.tables, "alembic_version"}
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert tables(database) == {"alembic_version"}
    database.migrate()
    assert tables(database) == {*Base.metadata.tables, "alembic_version"}


def test_the_migrated_schema_is_the_one_of_the_mappings(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_verification_outlives_the_migrations_if_the_schema_can_hold_it(database):
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0001")
        for statement in OLDER_ROWS:
            connection.exec_driver_sql(statement)
    database.migrate()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE verifications SET base_artifact_id = 'a' WHERE id = 'v1'")
        connection.exec_driver_sql("UPDATE verifications SET artifact_id = NULL, suspect_sha256 = NULL WHERE id = 'v2'")
        command.downgrade(alembic_config(connection), "0001")
        left = connection.exec_driver_sql("SELECT id, artifact_id, suspect_sha256 FROM verifications").fetchall()
    assert [tuple(row) for row in left] == [("v1", "a", "0")]


NOW = "'2026-01-01 00:00:00'"
OLDER_ROWS = [
    f"INSERT INTO tenants (id, name, created_at) VALUES ('t', 'tenant', {NOW})",
    "INSERT INTO artifacts (id, tenant_id, filename, sha256, size, kind, storage_key, created_at) "
    f"VALUES ('a', 't', 'a.zip', '0', 1, 'archive', 'a', {NOW})",
    "INSERT INTO jobs (id, tenant_id, kind, subject_id, state, attempt, rung_at, cancel_requested, created_at) "
    f"VALUES ('j', 't', 'verify', 'v1', 'succeeded', 1, {NOW}, FALSE, {NOW})",
    "INSERT INTO models (id, tenant_id, name, status, artifact_id, options, job_id, created_at) "
    f"VALUES ('m', 't', 'model', 'ready', 'a', '{{}}', 'j', {NOW})",
    *(
        "INSERT INTO verifications (id, tenant_id, model_id, artifact_id, suspect_name, suspect_sha256, options, job_id, "
        f"created_at) VALUES ('{name}', 't', 'm', 'a', 'a.zip', '0', '{{}}', 'j', {NOW})"
        for name in ("v1", "v2")
    ),
]


@pytest.fixture
def verified(context, tenant) -> Callable[..., str]:
    """Makes finished verifications of one model, by their report, and returns their identifiers."""
    model, _, secret = rows.registered(context, tenant)
    rows.finish_embedding(context, model.id, secret, Checkpoint("nowhere", "0" * 64, 1))
    rows.give_old_key(context, model.id)
    caller = Caller(tenant, new_id("tok"), frozenset({"admin"}))

    def verified(report: Report) -> str:
        body = VerificationIn(model_id=model.id, artifact_id=rows.artifact(context.database, tenant))
        with context.database.session() as session:
            verification, job = submit(session, context, caller, body)
        rows.finish_verification(context, tenant, verification.id, job.id, report)
        return verification.id

    return verified


FINISHED = "SELECT id, verdict, log10_p, vs_rate, rs_rate, report FROM verifications ORDER BY id"


def test_finished_verifications_outlive_the_rules_of_a_verdict_in_both_directions(context, tenant, verified):
    report = rows.an_old_report()
    ids = [verified(report) for _ in range(2)]
    expected = [(each, "match", report.test.log10_p, 0.9375, 0.9123, report.to_json()) for each in ids]
    for _ in range(2):
        with context.database.engine.begin() as connection:
            command.downgrade(alembic_config(connection), "0014")
            columns = {column["name"] for column in sa.inspect(connection).get_columns("verifications")}
            assert not columns & {"with_key", "suspect_weights", "with_secret", "token_id", "tested", "key_version"}
            assert [tuple(row) for row in connection.exec_driver_sql(FINISHED)] == expected
        context.database.migrate()
        with context.database.session() as session:
            kept = VerificationRepository(session, tenant).page(Paging(10, order="oldest"))[0]
            assert [(row.id, row.verdict, row.log10_p, row.vs_rate, row.rs_rate, row.report) for row in kept] == expected
            assert {(row.token_id, row.with_secret, row.with_key, row.of_file) for row in kept} == {(None, False, None, None)}
            assert {(row.reason, row.tested, row.base_name, row.bound_log10_p) for row in kept} == {(None,) * 4}
            assert {row.key_version for row in kept} == {None}
            shown = with_states(VerificationOut, session, tenant, kept, outcome="verdict")
            assert {(each.status, each.verdict, each.log10_p) for each in shown} == {
                ("succeeded", "match", report.test.log10_p)
            }
            assert keys.panel_of(session, tenant, kept[0].model_id) is None
            keys.check_unopened(session, tenant, kept[0].model_id)
    third = verified(rows.a_report())
    with context.database.session() as session:
        row = VerificationRepository(session, tenant).get(third)
        assert (row.with_key, row.of_file) == (3, 1)


def test_a_step_back_leaves_an_older_service_nothing_that_it_would_misread(context, tenant, verified):
    """It has no word for a base that carries the mark, and would go on testing with a key that others have seen."""
    old, match, nothing = verified(rows.an_old_report()), verified(rows.a_report()), verified(rows.a_report(rows.NOT_FOUND))
    marked, void = verified(rows.a_report(tested="base", base_name="theirs")), verified(rows.a_report(source=rows.FOUND))
    other, _, secret = rows.registered(context, tenant)
    rows.finish_embedding(context, other.id, secret, Checkpoint("nowhere", "0" * 64, 1))
    rows.give_old_key(context, other.id)
    with context.database.session() as session:
        model_id = VerificationRepository(session, tenant).get(old).model_id
        keys.mark_opened(session, tenant, "tok_1", model_id)
    with context.database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0014")
        kept = connection.exec_driver_sql(FINISHED).all()
        left = [(row.id, row.verdict) for row in kept]
        assert all(row.report for row in kept)  # no report is lost
        models = dict(tuple(row) for row in connection.exec_driver_sql("SELECT id, status FROM models"))
    assert left == [(old, "match"), (match, "match"), (nothing, "no-match"), (marked, None), (void, None)]
    assert models == {model_id: "retired", other.id: "ready"}
    context.database.migrate()
    with context.database.session() as session:
        assert VerificationRepository(session, tenant).tests_with_key(model_id) == 5  # whatever their verdict
        assert (
            VerificationRepository(session, tenant).get(match).report
            == rows.a_report().model_copy(update={"tests": Counts(with_key=2, of_file=1)}).to_json()
        )


def test_a_step_back_from_a_key_that_an_older_service_cannot_read_is_refused(context, tenant):
    model, _, secret = rows.registered(context, tenant)
    rows.finish_embedding(context, model.id, secret, Checkpoint("nowhere", "0" * 64, 1))
    with pytest.raises(RuntimeError, match="1 models have keys of version 3"), context.database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0015")
    rows.give_old_key(context, model.id)
    with context.database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0015")
    context.database.migrate()
    with context.database.session() as session:
        kept = ModelRepository(session, tenant).get(model.id)
        assert (kept.status, kept.renews) == ("ready", None)


def test_an_older_token_may_still_do_everything_and_an_older_service_gets_none_that_may_not(database):
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0003")
        for statement in (
            OLDER_ROWS[0],
            f"INSERT INTO tokens (id, tenant_id, sha256, created_at) VALUES ('old', 't', '0', {NOW})",
        ):
            connection.exec_driver_sql(statement)
    database.migrate()
    with database.session() as session:
        old = session.scalars(sa.select(Token)).one()
        assert (old.id, old.scopes, old.expires_at, old.revoked_at) == ("old", ["admin"], None, None)
        for name, changes in {
            "reader": {"scopes": ["read"]},
            "both": {"scopes": ["admin", "read"]},
            "revoked": {"revoked_at": utc_now()},
            "ending": {"expires_at": utc_now()},
        }.items():
            row = {"name": "a", "scopes": ["admin"], "created_at": utc_now()} | changes
            session.add(Token(id=name, tenant_id="t", sha256=name, **row))
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0003")
        left = connection.exec_driver_sql("SELECT id FROM tokens ORDER BY id").fetchall()
    assert [tuple(row) for row in left] == [("both",), ("old",)]


def test_a_step_back_that_would_lose_owners_keys_is_refused_and_changes_nothing(database):
    with database.engine.begin() as connection:
        for statement in OLDER_ROWS[:4]:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql(
            "INSERT INTO owner_keys (id, tenant_id, model_id, commitment, ciphertext, data_key, key_encryption_key_id, "
            f"created_at) VALUES ('k', 't', 'm', 'c', 'x', 'y', 'e', {NOW})"
        )
    with pytest.raises(RuntimeError, match="1 owner keys lie under data keys"), database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0005")
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT id FROM owner_keys WHERE data_key IS NOT NULL").fetchall()
    assert tables(database) == {*Base.metadata.tables, "alembic_version"}


def test_an_older_service_is_left_no_job_of_an_audit(database):
    with database.engine.begin() as connection:
        for statement in (*OLDER_ROWS, *AN_AUDIT):
            connection.exec_driver_sql(statement)
        command.downgrade(alembic_config(connection), "0002")
        left = connection.exec_driver_sql("SELECT id FROM jobs").fetchall()
    assert [tuple(row) for row in left] == [("j",)]
    assert "audits" not in tables(database)


AN_AUDIT = [
    "INSERT INTO jobs (id, tenant_id, kind, subject_id, state, attempt, rung_at, cancel_requested, created_at) "
    f"VALUES ('k', 't', 'audit', 'u', 'queued', 0, {NOW}, FALSE, {NOW})",
    "INSERT INTO audits (id, tenant_id, model_id, preset, options, results, job_id, created_at) "
    f"VALUES ('u', 't', 'm', 'quick', '{{}}', '{{}}', 'k', {NOW})",
]


def test_a_job_from_before_the_estimates_waits_with_none_and_outlives_a_step_back(database):
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0011")
        for statement in OLDER_ROWS:
            connection.exec_driver_sql(statement)
    database.migrate()
    with database.engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT memory_bytes FROM jobs").fetchall() == [(None,)]
        assert connection.exec_driver_sql("SELECT denoiser FROM artifacts").fetchall() == [(None,)]
        connection.exec_driver_sql(f"UPDATE jobs SET memory_bytes = {1 << 62}")
        command.downgrade(alembic_config(connection), "0011")
        assert connection.exec_driver_sql("SELECT id FROM jobs").fetchall() == [("j",)]


def test_migrating_twice_changes_nothing(database):
    database.migrate()
    assert tables(database) == {*Base.metadata.tables, "alembic_version"}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, EASTERN])))
def test_a_point_in_time_comes_back_the_same_and_aware(database, moment):
    row = Tenant(id=new_id("ten"), name=new_id("name"), created_at=moment)
    with database.session() as session:
        session.add(row)
    with database.session() as session:
        found = session.scalars(sa.select(Tenant.created_at).where(Tenant.id == row.id)).one()
        assert session.scalar(sa.select(sa.func.count()).where(Tenant.id == row.id, Tenant.created_at == moment)) == 1
    assert found == moment
    assert found.utcoffset() is not None


def test_a_session_that_fails_leaves_nothing(database):
    def fail_halfway() -> None:
        with database.session() as session:
            session.add(Tenant(id=new_id("ten"), name="one", created_at=utc_now()))
            session.flush()
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    with database.session() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Tenant)) == 0


def test_a_row_must_refer_to_one_that_exists(database):
    with pytest.raises(IntegrityError), database.session() as session:
        session.add(
            Token(id=new_id("tok"), tenant_id="ten_nobody", name="a", sha256="0", scopes=["read"], created_at=utc_now())
        )


def test_a_database_that_is_not_there_does_not_answer(tmp_path):
    with pytest.raises(sa.exc.OperationalError):
        Database(f"sqlite:///{tmp_path / 'no folder' / 'aiao.sqlite'}").ping()


def test_what_many_requests_open_at_once_is_open_for_the_next(database):
    opened = []
    sa.event.listen(database.engine, "connect", lambda *_: opened.append(1))
    before = database.engine.pool.checkedin()
    for _ in range(3):
        with ExitStack() as together:
            for _ in range(CONNECTIONS):
                together.enter_context(database.read_session()).execute(sa.text("SELECT 1"))
    assert len(opened) == CONNECTIONS - before
