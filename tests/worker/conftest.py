import pytest

from service.context import Context
from service.jobs import service as jobs
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.settings import Settings
from service.tables.tokens import Tenant
from tests.support.tiny import TENANT, Tiny, make
from tests.support.tiny_models import SEED
from worker import running


@pytest.fixture
def context(tmp_path, monkeypatch, redis_url):
    """The worker's own context on a fresh database."""
    monkeypatch.setenv("AIAO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AIAO_BROKER_URL", redis_url)
    monkeypatch.setenv("AIAO_HEARTBEAT_SECONDS", "0.05")
    monkeypatch.setattr(running, "own_settings", Settings)  # of this test, not of the whole process
    running._context.cache_clear()
    context = Context.open(Settings())
    context.database.migrate()
    with context.database.session() as session:
        session.add(Tenant(id=TENANT, name="test", created_at=utc_now()))
    yield context
    running._context().close()
    running._context.cache_clear()
    context.close()


@pytest.fixture
def job_id(context) -> str:
    with context.database.session() as session:
        return jobs.create(session, TENANT, "verify", new_id("ver"), None).id


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, run_folder) -> Tiny:
    return make(tmp_path_factory.mktemp("tiny"), run_folder)


@pytest.fixture
def same_seed(monkeypatch) -> None:
    """Every model that is registered gets the seed of the tiny model's mark."""
    monkeypatch.setattr("service.keys.service.generate_seed", lambda: SEED)
