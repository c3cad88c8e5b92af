"""Databases with every table, copied from one that was migrated: a copy takes a tenth of the time of the migrations."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest

from service.kit.database import Database
from service.kit.ids import new_id

POSTGRES = os.environ.get("AIAO_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
"""A server on which tests may create databases of their own."""


def sqlite_database(file: Path) -> str:
    """Make the file a database with every table and return its SQLAlchemy URL."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(_sqlite_template(), file)
    return f"sqlite:///{file}"


@contextmanager
def postgres_database() -> Iterator[str]:
    """A database with every table on the PostgreSQL server, until the block ends; the block gets its SQLAlchemy URL."""
    with _server() as server:
        name = new_id("aiao_test")
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_postgres_template()}"')
        try:
            yield _url(name)
        finally:
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@cache
def _sqlite_template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="aiao-test-"))
    atexit.register(shutil.rmtree, folder)
    _migrate(f"sqlite:///{folder / 'template.sqlite'}")
    return folder / "template.sqlite"


@cache
def _postgres_template() -> str:
    """The name of this process's template, to which nobody is connected while it is copied."""
    name = new_id("aiao_test_template")
    with _server() as server:
        server.execute(f'CREATE DATABASE "{name}"')
    atexit.register(_drop, name)
    _migrate(_url(name))
    return name


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.dispose()


def _drop(name: str) -> None:
    with _server() as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _url(name: str) -> str:
    return POSTGRES.replace("postgresql://", "postgresql+psycopg://").rpartition("/")[0] + f"/{name}"


def _server() -> psycopg.Connection:
    try:
        return psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no PostgreSQL at AIAO_TEST_POSTGRES ({POSTGRES}): {error}")
