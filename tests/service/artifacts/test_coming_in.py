"""Slow uploads do not fill the memory of the API: so many come in at a time, of a tenant and in all."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from service.artifacts import coming_in
from tests.support import uploads
from tests.support.calls import TUS, append, begin, problem, send
from tests.support.processes import wait_for

pytestmark = pytest.mark.dialect

LENGTH = 1 << 20


def fresh() -> bytes:
    return uploads.zip_of({"model_index.json": os.urandom(9)})


def begun(api, http: httpx.Client, tus: bool) -> socket.socket:
    """An upload whose bytes do not come."""
    token = http.headers["Authorization"]
    if tus:
        headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"} | TUS
        line = f"PATCH /v1/uploads/{begin(http, LENGTH)}"
    else:
        headers, line = {}, "POST /v1/artifacts?filename=a"
    lines = {"Host": "a", "Authorization": token, "Content-Length": str(LENGTH)} | headers
    connection = socket.create_connection(("127.0.0.1", int(api.settings["AIAO_PORT"])), timeout=60)
    connection.sendall(
        "\r\n".join([f"{line} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]).encode()
    )
    return connection


def answer_to_one_of(connections: list[socket.socket]) -> bytes:
    """The answer to the one that is refused, once it is."""
    ready, _, _ = select.select(connections, [], [], 60)
    return ready[0].recv(1 << 16)


@pytest.fixture
def waiting() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("tus", [False, True], ids=["plain", "resumable"])
def test_a_tenant_has_so_many_at_a_time_and_others_theirs(api, caller, waiting, tus):
    http, other = caller(), caller()
    connections = [waiting.enter_context(begun(api, http, tus)) for _ in range(coming_in.OF_A_TENANT + 1)]
    assert answer_to_one_of(connections).startswith(b"HTTP/1.1 429")
    refused = send(http, fresh())
    assert "once another has ended" in problem(refused, 429, "too-many-requests")
    assert int(refused.headers["retry-after"])
    content = fresh()
    problem(append(http, begin(http, len(content)), content), 429, "too-many-requests")
    assert send(other, fresh()).status_code == 201
    waiting.close()
    wait_for(lambda: send(http, fresh()).status_code == 201, "uploads that broke off are counted for ever")


def test_all_tenants_have_so_many(api, caller, waiting):
    tenants = [caller() for _ in range(3)]
    connections = [waiting.enter_context(begun(api, tenants[place % 3], False)) for place in range(coming_in.IN_ALL + 1)]
    assert answer_to_one_of(connections).startswith(b"HTTP/1.1 429")
    problem(send(caller(), fresh()), 429, "too-many-requests")
    waiting.close()
    wait_for(lambda: send(tenants[2], fresh()).status_code == 201, "uploads that broke off are counted for ever")
