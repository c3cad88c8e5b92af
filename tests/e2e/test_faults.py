"""A short storm over a small system; `python -m benchmarks.faults` makes a long one."""

import socket
from contextlib import closing

import pytest

from tests.support.faults import Postgres
from tests.support.storm import RABBITMQ_PORT, brewing, weather


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.skipif(Postgres.programs() is None, reason="no PostgreSQL server is installed that a test may restart")
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_every_accepted_job_ends_once_whatever_fails_meanwhile(tmp_path, broker):
    if broker == "rabbitmq" and not answers(RABBITMQ_PORT):
        pytest.skip("no RabbitMQ on port 5672")
    with brewing(tmp_path, rabbitmq=broker == "rabbitmq", workers=2, seed=0) as storm:
        faults = storm.faults()
        weathered = weather(storm, jobs=6, rounds=1, patience=600)
    assert weathered["jobs"] == 6
    assert weathered["faults"].keys() == faults.keys()
