"""With a role of its own, which owns nothing, the service itself cannot change the rules of the activity log."""

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError
from typer.testing import CliRunner

from service.activity.service import record
from service.admin import app
from service.kit.database import Base, Database
from service.kit.ids import new_id
from tests.support import rows
from tests.support.databases import POSTGRES

pytestmark = pytest.mark.process


def server() -> psycopg.Connection:
    try:
        return psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL: {error}")


@pytest.fixture(scope="module")
def roles() -> Iterator[dict[str, str]]:
    """Databases' URLs by role: the owner's, the service's, and of a role that is a member of the owner."""
    name = new_id("aiao_test")
    places = {role: f"{name}_{role}" for role in ("owner", "service", "member")}
    address = POSTGRES.replace("postgresql://", "postgresql+psycopg://").rpartition("/")[0].rpartition("@")[2]
    with server() as admin:
        for role in places.values():
            admin.execute(f'CREATE ROLE "{role}" LOGIN')
        admin.execute(f'GRANT "{places["owner"]}" TO "{places["member"]}"')
        admin.execute(f'CREATE DATABASE "{name}" OWNER "{places["owner"]}"')
        try:
            yield {role: f"postgresql+psycopg://{login}@{address}/{name}" for role, login in places.items()} | {"names": places}
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            for role in ("member", "service", "owner"):
                admin.execute(f'DROP ROLE "{places[role]}"')


def admin(roles, tmp_path, role: str, *command: str):
    environment = {
        "AIAO_DATABASE_URL": roles[role],
        "AIAO_DATA_DIR": str(tmp_path),
        "AIAO_BROKER_URL": "redis://127.0.0.1:6379",
    }
    return CliRunner().invoke(app, command, env=environment)


@pytest.fixture
def database(roles, tmp_path) -> Iterator[Database]:
    """As the service, after two migrations."""
    for _ in range(2):
        done = admin(roles, tmp_path, "owner", "migrate", "--service-role", roles["names"]["service"])
        assert done.exit_code == 0, done.output
    database = Database(roles["service"])
    yield database
    database.dispose()


def test_the_service_works_with_its_own_role(roles, database, tmp_path):
    issued = admin(roles, tmp_path, "service", "tokens", "issue", "acme")
    assert issued.exit_code == 0, issued.output
    with database.engine.connect() as connection:
        for table in Base.metadata.tables:
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                asked = sa.text("SELECT has_table_privilege(:table, :right)")
                allowed = connection.execute(asked, {"table": f'"{table}"', "right": right}).scalar_one()
                assert allowed == (table != "activity" or right in ("SELECT", "INSERT"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE activity SET actor = 'nobody'",
        "DELETE FROM activity",
        "TRUNCATE activity",
        "INSERT INTO activity SELECT * FROM activity ON CONFLICT (id) DO UPDATE SET actor = 'nobody'",
        "ALTER TABLE activity DISABLE TRIGGER ALL",
        "DROP TRIGGER activity_no_change ON activity",
        "DROP TABLE activity",
        "ALTER TABLE activity RENAME TO other",
        "CREATE OR REPLACE FUNCTION activity_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "DROP FUNCTION activity_is_append_only() CASCADE",
        "CREATE TRIGGER other BEFORE INSERT ON activity FOR EACH ROW EXECUTE FUNCTION activity_is_append_only()",
        "CREATE RULE other AS ON INSERT TO activity DO INSTEAD NOTHING",
        "SET session_replication_role = replica",
        "UPDATE alembic_version SET version_num = '0001'",
    ],
)
def test_the_services_role_can_neither_change_the_log_nor_its_rules(database, statement):
    tenant_id = rows.tenant(database)
    with database.session() as session:
        record(session, tenant_id, "operator", "token.issue", new_id("tok"))

    def log() -> list[sa.Row]:
        with database.engine.connect() as connection:
            return connection.execute(sa.text("SELECT * FROM activity ORDER BY id")).all()

    before = log()
    with pytest.raises(ProgrammingError, match="InsufficientPrivilege"), database.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert log() == before


@pytest.mark.parametrize("role", ["owner", "member", "postgres", "nobody"])
def test_a_role_for_which_no_rule_would_hold_is_refused(roles, tmp_path, role):
    done = admin(roles, tmp_path, "owner", "migrate", "--service-role", roles["names"].get(role, role))
    assert done.exit_code == 2
    assert "role" in done.output


def test_sqlite_has_no_roles(tmp_path):
    done = CliRunner().invoke(app, ("migrate", "--service-role", "aiao"), env={"AIAO_DATA_DIR": str(tmp_path)})
    assert done.exit_code == 2
    assert "SQLite has no roles" in done.output
