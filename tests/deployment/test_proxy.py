"""The real proxy, with the configuration of compose and Kubernetes, before the real API."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import httpx
import pytest
import trustme

from tests.support import uploads
from tests.support.calls import append, begin, problem, send
from tests.support.http_server import Handler, serving
from tests.support.places import PROJECT
from tests.support.processes import free_port, stop, wait_for

CADDY = shutil.which("caddy")
pytestmark = [pytest.mark.process, pytest.mark.skipif(CADDY is None, reason="caddy is not installed")]


@contextmanager
def proxy(folder, api_port: int | str, scheme: str = "http", **names: str) -> Iterator[int]:
    port, log = free_port(), folder / "caddy.log"
    names |= {"AIAO_SITE": f"{scheme}://:{port}", "AIAO_HTTP_PORT": str(free_port()), "AIAO_API": f"127.0.0.1:{api_port}"}
    names |= {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with log.open("wb") as target:
        process = subprocess.Popen(
            [CADDY, "run", "--adapter", "caddyfile", "--config", PROJECT / "kubernetes" / "Caddyfile"],
            env=os.environ | names, stdout=target, stderr=target, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"{scheme}://127.0.0.1:{port}/metrics"
        wait_for(lambda: httpx.get(url, verify=False).status_code == 404, f"no proxy, see {log}")
        yield port
    finally:
        stop(process)


@pytest.fixture(scope="module")
def before_the_api(apis, tmp_path_factory) -> Iterator[httpx.Client]:
    api = apis("postgresql")
    with proxy(tmp_path_factory.mktemp("proxy"), api.settings["AIAO_PORT"]) as port:
        headers = {"Authorization": f"Bearer {api.token('proxied')}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as http:
            yield http


def port_of(http: httpx.Client) -> int:
    assert http.base_url.port
    return http.base_url.port


def test_calls_and_uploads_go_through(before_the_api):
    assert before_the_api.get("/healthz").json() == {"status": "ok"}
    assert send(before_the_api, uploads.MODEL_ZIP).status_code == 201
    upload_id = begin(before_the_api, len(uploads.MODEL_ZIP))
    assert append(before_the_api, upload_id, uploads.MODEL_ZIP).headers["aiao-artifact"]
    assert before_the_api.get("/v1/artifacts").json()["items"]


def test_figures_are_not_for_clients(before_the_api):
    assert before_the_api.get("/metrics").status_code == 404


def test_a_body_that_no_call_needs_is_refused_in_the_words_of_the_api(before_the_api):
    problem(before_the_api.post("/v1/webhooks", content=bytes(4 << 20)), 413, "body-too-large")


def test_a_long_head_is_refused(before_the_api):
    answer = before_the_api.get("/healthz", headers={f"a{number}": "b" * 1000 for number in range(80)})
    assert answer.status_code == 431


def test_a_slow_head_is_cut_off(before_the_api):
    with socket.create_connection(("127.0.0.1", port_of(before_the_api)), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n")
        assert b"200" not in connection.recv(1 << 16)


def test_it_speaks_tls_with_a_certificate_of_the_operators_also_to_a_probe_that_names_no_host(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("aiao.example.com")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    (tmp_path / "tls.crt").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    probing = ssl.create_default_context()
    probing.check_hostname, probing.verify_mode = False, ssl.CERT_NONE
    tls = f"tls {tmp_path / 'tls.crt'} {tmp_path / 'tls.key'}"
    with proxy(tmp_path, free_port(), "https", AIAO_TLS=tls) as port:
        for context, name in ((trusting, "aiao.example.com"), (probing, None)):
            plain = socket.create_connection(("127.0.0.1", port), timeout=60)
            with context.wrap_socket(plain, server_hostname=name) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: aiao.example.com\r\n\r\n")
                assert connection.recv(1 << 10).startswith(b"HTTP/1.1 404")


def test_an_upload_and_an_answer_pass_on_as_they_come(tmp_path):
    """Each side sends the next piece only when the other has the one before: a proxy that collects them would wait for ever."""
    uploaded, answered = Event(), Event()

    class Api(Handler):
        def do_PATCH(self) -> None:
            assert self.rfile.read(1000)
            uploaded.set()
            self.rfile.read(1000)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"data: 1\n\n")
            assert answered.wait(60)
            self.wfile.write(b"data: 2\n\n")

    def pieces() -> Iterator[bytes]:
        yield bytes(1000)
        assert uploaded.wait(60)
        yield bytes(1000)

    with serving(Api) as api_port, proxy(tmp_path, api_port) as port:
        sent = {"content": pieces(), "headers": {"Content-Length": "2000"}, "timeout": 60}
        with httpx.stream("PATCH", f"http://127.0.0.1:{port}/v1/uploads/upl_a", **sent) as answer:
            events = answer.iter_lines()
            assert next(events) == "data: 1"
            answered.set()
            assert "data: 2" in list(events)
