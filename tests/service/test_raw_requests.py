"""Requests that no HTTP library would send: bytes that are no text, and clients that leave in the middle of one."""

import socket
from collections.abc import Callable

import pytest

from service.app import create_app
from tests.support import uploads
from tests.support.calls import UNKNOWN, append, begin, files
from tests.support.processes import wait_for

ESCAPE = "%1b%5b2J%0aforged-line%c3%28"
"""In a path: what clears a terminal, and what begins a line of its own in a log."""

CALLS = [
    (method.upper(), path, tuple(each["name"] for each in call.get("parameters", ()) if each["in"] == "header"))
    for path, item in create_app().openapi()["paths"].items()
    for method, call in item.items()
]
BODIES = [(method, path) for method, path, _ in CALLS if method in ("POST", "PATCH", "PUT", "DELETE")]
NOT_TEXT = ("é ü".encode(), b"filename \xc3\xa9", b'"\xff"', b"\xb2")
"""Values of headers; the last one is a digit to Python, and not to HTTP."""

ORDINARY = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Offset": "0", "Upload-Metadata": "filename YQ==",
            "Content-Type": "application/json"}  # fmt: skip


@pytest.fixture
def connect(api) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", int(api.settings["AIAO_PORT"])), timeout=30)


@pytest.fixture
def logged(api) -> Callable[[], str]:
    """What the API has logged since."""
    before = len(api.log("api"))
    return lambda: api.log("api")[before:]


def request(method: str, path: str, headers: dict[str, bytes | str]) -> bytes:
    lines = [name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()]
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), b"Host: test", *lines, b"", b""])


def status_of(connection: socket.socket) -> int:
    with connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]} {call[1]}")
def test_no_header_that_is_not_text_is_the_services_fault(http, connect, logged, call):
    method, path, names = call
    path = path.format(**UNKNOWN)
    good = {"Authorization": http.headers["authorization"], "Connection": "close", "Content-Length": "0"}
    good |= {name: value for name, value in ORDINARY.items() if name in (*names, "Content-Type")}
    for name in {*names, "Authorization", "Accept", "Content-Type", "X-Request-ID"}:
        for value in NOT_TEXT:
            with connect() as connection:
                connection.sendall(request(method, path, good | {name: value}))
                assert status_of(connection) < 500, (name, value)
    assert "Traceback" not in logged()


@pytest.mark.parametrize("call", BODIES, ids=lambda call: f"{call[0]} {call[1]}")
@pytest.mark.parametrize("typed", ["", ESCAPE])
def test_a_client_that_leaves_in_the_middle_of_a_body_is_not_the_services_fault(http, connect, logged, call, typed):
    method, path = call
    path = path.format(**{name: typed or unknown for name, unknown in UNKNOWN.items()}) + "?filename=model.zip"
    headers = {"Authorization": http.headers["authorization"], "Content-Type": "application/json", "Content-Length": "100000"}
    headers |= ORDINARY | {"X-Request-ID": "leaves"}
    if "uploads/" in path:
        headers["Content-Type"] = "application/offset+octet-stream"
    with connect() as connection:
        connection.sendall(request(method, path, headers) + b'{"name":')
        connection.shutdown(socket.SHUT_WR)
    wait_for(lambda: "leaves" in logged(), "the request is not in the log")
    assert "status=5" not in logged()
    assert "Traceback" not in logged()
    assert "forged-line" not in logged()


def test_of_an_error_of_the_service_the_log_names_the_route_and_not_what_was_typed(api, http, connect, logged):
    """The upload's part was lost; its address is typed in an unusual way, with a query."""
    content = uploads.MODEL_ZIP
    upload_id = begin(http, len(content))
    append(http, upload_id, content[:10]).raise_for_status()
    (part,) = files(api.data_dir / "storage" / "uploads" / upload_id)
    part.unlink()
    typed = "".join(f"%{ord(each):02x}" for each in upload_id) + f"?{ESCAPE}"
    headers = {"Authorization": http.headers["authorization"], "Content-Length": str(len(content) - 10)}
    headers |= ORDINARY | {"Upload-Offset": "10", "Content-Type": "application/offset+octet-stream"}
    with connect() as connection:
        connection.sendall(request("PATCH", f"/v1/uploads/{typed}", headers) + content[10:])
        assert status_of(connection) == 500
    wait_for(lambda: "Traceback" in logged(), "the error is not in the log")
    assert "PATCH /v1/uploads/{upload_id} failed" in logged()
    assert "forged-line" not in logged()
    assert "\x1b" not in logged()
