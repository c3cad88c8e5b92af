"""A real uvicorn with our connections: slow, endless and too many requests end, and honest ones are answered meanwhile."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from service.kit import connections
from tests.support.places import PROJECT
from tests.support.processes import free_port, stop, wait_for

pytestmark = pytest.mark.process

SCRIPT = """
import uvicorn
from service.kit import connections

for name in ("HEAD_SECONDS", "WINDOW_SECONDS", "LINGER_SECONDS"):
    setattr(connections, name, 1)
connections.CHECK_SECONDS, connections.MAX_CONNECTIONS = 0.1, 20


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    heard, more = 0, scope["path"] == "/read"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        heard, more = heard + len(message["body"]), message["more_body"]
    answer = bytes(8 << 20) if scope["path"] == "/large" else b"%d" % heard
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(app, port=PORT, http=connections.Connection, lifespan="off", log_level="warning")
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> Iterator[int]:
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as target:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.replace("PORT", str(port))],
            cwd=PROJECT, stdout=target, stderr=target, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/", timeout=5).is_success, f"no server, see {log}")
        yield port
        assert "Traceback" not in log.read_text()
    finally:
        stop(process)


@contextmanager
def connected(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    content = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            content += piece
    return content


def drip(connection: socket.socket, piece: bytes) -> bytes:
    """Send ``piece`` ten times a second until the server closes; return what it said."""
    connection.settimeout(0.1)
    said, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            try:
                connection.sendall(piece)
                if not (heard := connection.recv(1 << 16)):
                    return said
                said += heard
            except (ConnectionResetError, BrokenPipeError):
                return said
    raise TimeoutError("the server lets it go on")


def problem(content: bytes) -> tuple[int, str]:
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["type"]


def is_served(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/", timeout=60).is_success


HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n"
BODY = b"POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"a: b\r\n" * 200,
        HEAD + b"a: " + b"b" * 200_000,
        HEAD + b"a: " + b"b" * 200_000 + b"\r\n\r\n",
        HEAD + b"".join(b"a%d: %s\r\n" % (n, b"b" * 1000) for n in range(50)),
        b"GET /" + b"a" * 200_000,
        b"GET /?" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b"a" * 200_000,
    ],
    ids=["many headers", "endless header", "long header", "long headers", "endless path", "long path", "endless name"],
)
def test_a_long_head_is_refused_in_words(port, head):
    with connected(port) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(head)
        said = rest(connection)
    assert not said or problem(said) == (431, "request-header-fields-too-large")
    assert is_served(port)


def test_a_head_just_within_the_limits_is_served(port):
    headers = {f"a{number}": "b" * 300 for number in range(90)}
    assert httpx.get(f"http://127.0.0.1:{port}/", headers=headers, timeout=60).status_code == 200


def test_headers_without_an_end_do_not_fill_the_memory(port):
    """100 MiB of header lines took 2.3 GiB."""
    sent = 0
    with connected(port, HEAD) as connection, suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(1600):
            connection.sendall(b"a: b\r\n" * 10_000)
            sent += 60_000
    assert sent < 20 << 20  # what lay in buffers of the system


def test_trailers_are_counted_too(port):
    body = b"POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    with connected(port, body) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(b"a: b\r\n" * 20_000)
        rest(connection)
    assert is_served(port)


def test_a_chunk_with_an_endless_extension_is_refused(port):
    body = b"POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;"
    with connected(port, body) as connection:
        assert drip(connection, b"a" * 10_000) == b"" or is_served(port)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"", b""), (HEAD, b""), (HEAD, b"a: b\r\n"), (b"", b"\r\n"), (HEAD + b"\r\n", b"\r\n"), (HEAD + b"\r\n", b"G")],
    ids=["nothing", "stops", "drips", "empty lines", "empty lines after a request", "a second request that drips"],
)
def test_a_slow_head_is_cut_off(port, begin, piece):
    with connected(port, begin) as connection:
        drip(connection, piece)


def test_a_slow_head_is_told_so(port):
    with connected(port, HEAD) as connection:
        assert problem(rest(connection)) == (408, "request-timeout")


@pytest.mark.parametrize("piece", [b"", b"a"])
def test_a_slow_body_is_cut_off_and_told_so(port, piece):
    with connected(port, BODY) as connection:
        assert problem(drip(connection, piece)) == (408, "request-timeout")


def test_a_body_that_comes_steadily_is_taken(port):
    """More slowly than a window, by more bytes than it must bring."""

    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            yield bytes(connections.WINDOW_BYTES)
            time.sleep(0.3)

    assert httpx.post(f"http://127.0.0.1:{port}/read", content=pieces(), timeout=60).text == str(10 * connections.WINDOW_BYTES)


def test_a_body_that_goes_on_after_the_answer_is_cut_off(port):
    with connected(port, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n") as connection:
        assert drip(connection, b"a" * 1000).startswith(b"HTTP/1.1 200 OK")


def test_after_an_answer_that_did_not_wait_for_the_body_the_connection_goes_on(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(3):
        connection.request("POST", "/", body=bytes(100_000))
        assert connection.getresponse().read() == b"0"
    connection.close()


def test_an_answer_that_nobody_takes_is_given_up(port):
    with connected(port, b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n") as connection:
        time.sleep(4)
        assert len(rest(connection)) < 8 << 20


def test_many_requests_at_once_on_a_connection_are_refused(port):
    request = BODY.replace(b"1000000", b"1")
    with connected(port, request + (HEAD + b"\r\n") * 10_000) as connection:
        assert rest(connection).count(b"200 OK") <= connections.MAX_PIPELINED


def test_connections_that_wait_make_room_for_one_that_asks(port):
    slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(60)]
    try:
        for connection in slow[:30]:
            with suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(HEAD)
        for _ in range(5):
            assert is_served(port)
    finally:
        for connection in slow:
            connection.close()


def test_without_room_a_request_is_told_to_come_again(port):
    busy = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(20)]
    try:
        for connection in busy:
            connection.sendall(BODY)
        with connected(port) as connection:
            said = rest(connection)
        # Unless this machine was so slow that the others were cut off meanwhile.
        assert problem(said) in ((503, "not-ready"), (408, "request-timeout")) if said else True
    finally:
        for connection in busy:
            connection.close()
    wait_for(lambda: is_served(port), "nothing is served")
