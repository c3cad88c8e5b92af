from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from service.database import Base, Database, alembic_config, utc_now
from service.ids import new_id
from service.tokens.tables import Tenant, Token

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
        session.add(Token(id=new_id("tok"), tenant_id="ten_nobody", sha256="0", created_at=utc_now()))


def test_a_database_that_is_not_there_does_not_answer(tmp_path):
    with pytest.raises(sa.exc.OperationalError):
        Database(f"sqlite:///{tmp_path / 'no folder' / 'aiao.sqlite'}").ping()
