import json

import pytest
import redis
from kombu.exceptions import OperationalError

from service.kit.dispatch import Dispatcher
from service.kit.ids import new_id
from service.kit.queues import Fleet
from service.tables.jobs import Job
from tests.support import processes
from tests.support.processes import free_port, private_redis
from tests.support.rings import rings


@pytest.fixture
def queue() -> str:
    return new_id("queue")


def test_a_ring_arrives_in_the_queue_of_the_workers(redis_url, queue):
    dispatcher = Dispatcher(redis_url, Fleet.parse(queue, ""))
    dispatcher.ping()
    dispatcher.notify(Job(id="job_1", kind="embed"))
    dispatcher.notify(Job(id="job_2", kind="verify"))
    dispatcher.close()
    assert rings(redis_url, queue) == [("worker.embed", "job_1"), ("worker.verify", "job_2")]


def test_a_ring_holds_nothing_but_the_job_and_asks_for_no_answer(redis_url, queue):
    dispatcher = Dispatcher(redis_url, Fleet.parse(queue, ""))
    dispatcher.notify(Job(id="job_1", kind="embed"))
    dispatcher.close()
    with redis.Redis.from_url(redis_url) as broker:
        (message,) = broker.lrange(queue, 0, -1)
    assert json.loads(message)["headers"]["ignore_result"] is True
    assert b"secret" not in message


@pytest.mark.long
def test_a_broker_that_is_down_is_survived_and_a_ping_says_so(queue, caplog):
    dispatcher = Dispatcher(f"redis://127.0.0.1:{free_port()}/0", Fleet.parse(queue, ""))
    dispatcher.notify(Job(id="job_1", kind="embed"))
    assert "job_1" in caplog.text
    assert "reaper will send it again" in caplog.text
    with pytest.raises(OperationalError):
        dispatcher.ping()
    dispatcher.close()


@pytest.mark.process
def test_a_broker_that_dies_under_an_open_connection_is_survived(queue, caplog):
    with private_redis() as url:
        dispatcher = Dispatcher(url, Fleet.parse(queue, ""))
        dispatcher.notify(Job(id="job_1", kind="embed"))
        assert rings(url, queue) == [("worker.embed", "job_1")]
    dispatcher.notify(Job(id="job_2", kind="embed"))
    assert "job_2" in caplog.text
    dispatcher.close()


@pytest.mark.process
def test_a_broker_that_comes_back_is_used_again(queue, monkeypatch):
    port = free_port()
    monkeypatch.setattr(processes, "free_port", lambda: port)
    dispatcher = Dispatcher(f"redis://127.0.0.1:{port}/0", Fleet.parse(queue, ""))
    for job_id in ("job_1", "job_2"):
        with private_redis() as url:
            dispatcher.notify(Job(id=job_id, kind="embed"))
            assert rings(url, queue) == [("worker.embed", job_id)]
        dispatcher.notify(Job(id="job_lost", kind="embed"))
    dispatcher.close()
