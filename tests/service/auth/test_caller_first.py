"""A body is neither read nor parsed before the token is looked at."""

import json
import re
import socket

import pytest

from tests.support import rows
from tests.support.calls import problem
from tests.support.places import PROJECT

PATHS = json.loads((PROJECT / "docs" / "openapi.json").read_text())["paths"]
WITH_BODY = [
    (method.upper(), path)
    for path, calls in PATHS.items()
    for method, call in calls.items()
    if "application/json" in call.get("requestBody", {}).get("content", {})
]
"""Every call that takes JSON."""


def test_there_are_such_calls():
    assert ("POST", "/v1/verifications") in WITH_BODY
    assert len(WITH_BODY) > 5


@pytest.mark.dialect
@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_a_stranger_is_refused_before_one_byte_of_the_body_has_come(api, method, path, token):
    place = re.sub(r"\{.*?\}", "a", path)
    head = f"{method} {place} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n"
    credentials = f"authorization: Bearer {token}\r\n" if token else ""
    with socket.create_connection(("127.0.0.1", int(api.settings["AIAO_PORT"])), timeout=20) as connection:
        connection.sendall(f"{head}{credentials}\r\n".encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401")


@pytest.mark.dialect
def test_a_stranger_who_sends_what_is_no_json_gets_the_same_answer(api, caller):
    http = caller()
    http.headers["Authorization"] = "Bearer wrong"
    for content in (b"{", b'{"a": 1}', b"[" * 100_000):
        answer = http.post("/v1/verifications", content=content, headers={"Content-Type": "application/json"})
        problem(answer, 401, "unauthorized")


@pytest.mark.dialect
def test_a_body_is_still_read_after_a_good_token_without_the_scope(api, backstage, caller):
    http = caller()
    tenant_id = rows.tenant(backstage.database)
    http.headers["Authorization"] = f"Bearer {rows.token(backstage.database, tenant_id, 'read')}"
    body = {"model_id": "mdl_01k00000000000000000000000", "hub": "a/b"}
    problem(http.post("/v1/verifications", json=body), 403, "forbidden")
