"""The database: SQLite in the embedded default, PostgreSQL in production, by one set of mappings and migrations."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from service.kit.private_files import keep_new_files_private
from service.kit.telemetry import trace_queries

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


CONNECTIONS = 15
"""Connections of a process at most; all are kept. By default SQLAlchemy closes those above five after each use, and opening the
next one costs PostgreSQL a process: of a hundred polls the slowest took a second."""

IDLE_SECONDS = 2
"""Seconds after which an unused connection may have broken unnoticed."""


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; SQLite forgets the time zone, so it is always UTC and put back."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(DeclarativeBase):
    metadata = sa.MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        dict[str, Any]: sa.JSON(none_as_null=True),
        list[dict[str, Any]]: sa.JSON(none_as_null=True),
        bytes: sa.LargeBinary,
        str: sa.Text,
    }


def utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """One engine and its sessions."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url, pool_size=CONNECTIONS, max_overflow=0, hide_parameters=True)
        _check_idle_connections(self.engine)
        trace_queries(self.engine)
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)
            self._reader = self.engine.execution_options(reading=True)
        else:
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session in one transaction: committed once, at the end of the block, or not at all."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read_session(self) -> Iterator[Session]:
        """Open a session that only reads, without a transaction's two more round trips and SQLite's lock of writers."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    def ping(self) -> None:
        with self.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to ``revision``."""
        if self.engine.dialect.name == "sqlite" and self.engine.url.database:
            Path(self.engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        with self.engine.begin() as connection:
            command.upgrade(alembic_config(connection), revision)

    def dispose(self) -> None:
        self.engine.dispose()


def _check_idle_connections(engine: sa.Engine) -> None:
    """Ping a connection that was idle for a while. Pinging at each use would cost every request a round trip."""

    @sa.event.listens_for(engine, "checkin")
    def used(_connection: object, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def check(connection: Any, record: Any, _proxy: object) -> None:
        if time.monotonic() > record.info.get("used", math.inf) + IDLE_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise sa.exc.DisconnectionError from error  # the pool opens another one


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration for the migrations of this project on ``connection``."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
    config.attributes["connection"] = connection
    return config


def _prepare_sqlite(engine: sa.Engine) -> None:
    keep_new_files_private()

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # this module begins transactions itself
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail if another one wrote in between.
        reads = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
