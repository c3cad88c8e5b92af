"""Two roles on PostgreSQL: one owns and migrates the tables, and the service has another, which cannot change their rules."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

EVERYTHING, ADDING = "SELECT, INSERT, UPDATE, DELETE", "SELECT, INSERT"
VERSION = "alembic_version"
"""The table that says how far the schema was migrated: the service reads it."""


class UnsuitableRole(Exception):
    """The role does not exist, or could change the rules of the tables."""


def grant(connection: Connection, role: str, append_only: Collection[str]) -> None:
    """Let ``role`` work with every table of this role's schema, and of those in ``append_only`` read and add rows alone.

    Safe to repeat; to be done again after each migration that adds a table. Raises :class:`UnsuitableRole`.
    """
    _check(connection, role)
    quote = connection.dialect.identifier_preparer.quote_identifier
    schema = connection.execute(sa.select(sa.func.current_schema())).scalar_one()
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(role)}")
    for table in sa.inspect(connection).get_table_names():
        allowed = "SELECT" if table == VERSION else ADDING if table in append_only else EVERYTHING
        connection.exec_driver_sql(f"REVOKE ALL ON {quote(table)} FROM {quote(role)}")
        connection.exec_driver_sql(f"GRANT {allowed} ON {quote(table)} TO {quote(role)}")


def _check(connection: Connection, role: str) -> None:
    if connection.dialect.name != "postgresql":
        raise UnsuitableRole("SQLite has no roles; leave out the service role, or set AIAO_DATABASE_URL to a PostgreSQL")
    found = connection.execute(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = :role"), {"role": role}).scalar()
    if found is None:
        raise UnsuitableRole(f"there is no role {role}; make it with: CREATE ROLE {role} LOGIN PASSWORD '…'")
    owners = sa.text(
        "SELECT DISTINCT tableowner FROM pg_tables "
        "WHERE schemaname = current_schema() AND pg_has_role(:role, tableowner, 'MEMBER')"
    )
    if found or connection.execute(owners, {"role": role}).first():
        raise UnsuitableRole(
            f"the role {role} is a superuser or has the rights of the tables' owner, so no rule would hold for it; "
            "let the service have a role of its own"
        )
