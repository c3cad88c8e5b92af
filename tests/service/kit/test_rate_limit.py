from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import redis
from pydantic import ValidationError

from service.context import Context
from service.kit.database import Database
from service.kit.ids import new_id
from service.settings import Settings
from service.tenants import tenant_named
from tests.support import rows
from tests.support.calls import problem
from tests.support.processes import System, free_port, private_redis, system, wait_for


@pytest.fixture(scope="module")
def limited(tmp_path_factory, redis_url):
    """An API that takes 20 calls in 5 seconds of each tenant."""
    folder = tmp_path_factory.mktemp("limited")
    with system(folder, broker_url=redis_url, reaper=False, AIAO_RATE_LIMIT="20/5 seconds", AIAO_QUEUE="nobody") as running:
        yield running


@contextmanager
def calling(running: System) -> Iterator[Callable[..., httpx.Client]]:
    """Makes clients during the block, each with a new token of a new tenant, or of the one that is named."""
    context = Context.open(Settings(data_dir=running.data_dir, broker_url=running.settings["AIAO_BROKER_URL"]))
    with ExitStack() as clients:

        def make(tenant_id: str = "") -> httpx.Client:
            headers = {"Authorization": f"Bearer {rows.token(context.database, tenant_id or rows.tenant(context.database))}"}
            return clients.enter_context(httpx.Client(base_url=running.url, headers=headers, timeout=30))

        yield make
    context.close()


@pytest.fixture
def call(limited):
    with calling(limited) as make:
        yield make


def test_a_tenant_that_calls_too_often_must_wait_and_another_need_not(call):
    busy, other = call(), call()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: busy.get("/v1/jobs"), range(40)))
    seen = Counter(answer.status_code for answer in answers)
    assert seen.keys() == {200, 429}
    assert 15 <= seen[200] <= 25
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "20 per 5 second" in problem(refused, 429, "too-many-requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 5
    assert other.get("/v1/jobs").status_code == 200
    wait_for(lambda: busy.get("/v1/jobs").status_code == 200, "the tenant must wait for ever", 25)


def test_every_call_of_a_tenant_counts_once_whichever_of_its_tokens_makes_it(tmp_path, redis_url):
    settings = {"AIAO_RATE_LIMIT": "12/day", "AIAO_QUEUE": "nobody"}
    with system(tmp_path, broker_url=redis_url, reaper=False, **settings) as running, calling(running) as call:
        with Database(f"sqlite:///{tmp_path / 'aiao.sqlite'}").session() as session:
            tenant_id = tenant_named(session, "busy").id
        tokens, other = [call(tenant_id) for _ in range(6)], call()
        refused = {"name": "a", "artifact_id": new_id("art")}
        paths = ["/v1/models", "/v1/webhooks", "/v1/tokens", f"/v1/jobs/{new_id('job')}/cancel"]  # with each kind of scope
        codes = [tokens[number % 6].post(paths[number % 4], json=refused).status_code for number in range(8)]
        codes += [token.get("/v1/jobs").status_code for token in tokens[:4]]
        assert 429 not in codes
        for answer in (tokens[5].get("/v1/jobs"), tokens[4].post("/v1/models", json=refused), call(tenant_id).get("/v1/jobs")):
            assert "12 per 1 day" in problem(answer, 429, "too-many-requests")
        assert other.get("/v1/jobs").status_code == 200


def test_health_is_not_limited(limited):
    assert {httpx.get(f"{limited.url}/healthz").status_code for _ in range(40)} == {200}


@pytest.mark.slow
def test_a_redis_that_does_not_answer_stops_nobody(tmp_path, redis_url):
    with private_redis() as counter:
        port = int(counter.rpartition(":")[2].partition("/")[0])
        with system(
            tmp_path, broker_url=redis_url, reaper=False, AIAO_RATE_LIMIT="2/minute", AIAO_REDIS_URL=counter
        ) as running:
            headers = {"Authorization": f"Bearer {running.token()}"}
            codes = [httpx.get(f"{running.url}/v1/jobs", headers=headers).status_code for _ in range(3)]
            assert codes == [200, 200, 429]
            redis.Redis(port=port).shutdown(nosave=True)
            assert httpx.get(f"{running.url}/v1/jobs", headers=headers, timeout=30).status_code == 200
            assert "calls are not limited" in running.log("api")


@pytest.mark.parametrize("rate", ["many", "10/fortnight", "-1/minute"])
def test_a_rate_that_is_none_is_refused_at_the_start(monkeypatch, rate):
    monkeypatch.setenv("AIAO_RATE_LIMIT", rate)
    with pytest.raises(ValidationError, match="rate_limit"):
        Settings()


def test_a_limit_without_a_redis_is_refused_at_the_start(monkeypatch):
    monkeypatch.setenv("AIAO_RATE_LIMIT", "10/minute")
    monkeypatch.setenv("AIAO_BROKER_URL", "amqp://127.0.0.1:5672//")
    with pytest.raises(ValidationError, match="AIAO_REDIS_URL"):
        Settings()
    monkeypatch.setenv("AIAO_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert Settings().rate_limit == "10/minute"


def test_the_private_redis_counts_too(tmp_path):
    settings = Settings(data_dir=tmp_path)
    assert settings.redis_url == f"redis+unix://{tmp_path / 'redis.sock'}"
