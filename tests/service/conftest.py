from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.context import Context
from service.kit.database import Database
from service.kit.ids import new_id
from service.settings import Settings
from tests.support import rows
from tests.support.calls import Owned, callers, own
from tests.support.databases import postgres_database, sqlite_database
from tests.support.processes import System


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request, tmp_path) -> Iterator[str]:
    """A database of each kind, with every table."""
    if request.param == "sqlite":
        yield sqlite_database(tmp_path / "data" / "aiao.sqlite")
    else:
        with postgres_database() as url:
            yield url


@pytest.fixture
def database(database_url) -> Iterator[Database]:
    """A database with every table."""
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def context(tmp_path: Path, database: Database, redis_url: str) -> Iterator[Context]:
    """What the processes of the service share, with a queue of its own."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings = Settings(
        data_dir=tmp_path / "data", database_url=url, broker_url=redis_url, queue=new_id("queue"), max_attempts=2
    )
    context = Context.open(settings)
    yield context
    context.close()


@pytest.fixture
def closed(context: Context) -> Context:
    """A context in a closed network, whose webhooks may be on this machine."""
    return replace(context, settings=context.settings.model_copy(update={"private_webhooks": True}))


@pytest.fixture
def tenant(context: Context) -> str:
    return rows.tenant(context.database)


@pytest.fixture(scope="session")
def caller(api: System, backstage: Context) -> Iterator[Callable[[], httpx.Client]]:
    """Makes HTTP clients, each with the token of a new tenant."""
    with callers(api, backstage) as call:
        yield call


@pytest.fixture(scope="session")
def http(caller) -> httpx.Client:
    """The API, as one tenant."""
    return caller()


@pytest.fixture(scope="session")
def stranger(caller) -> httpx.Client:
    """The API, as another tenant."""
    return caller()


@pytest.fixture(scope="session")
def owned(http, backstage, tmp_path_factory) -> Owned:
    """What ``http`` has. Tests read it; one that changes something makes its own."""
    return own(http, backstage, tmp_path_factory.mktemp("owned"))
