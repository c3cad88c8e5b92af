"""No answer is kept by a cache that should not keep it, guessed to be of another type, or framed by another page."""

import httpx
import pytest

from service.app import create_app
from service.kit.safe_headers import with_defaults
from tests.support.calls import TUS, UNKNOWN, append, begin, files, post, problem, register
from tests.support.uploads import MODEL_ZIP

CALLS = [
    (method.upper(), path)
    for path, item in create_app().openapi()["paths"].items()
    for method in item
    if not path.endswith("/events")  # those of a queued job never end
]


def check(answer: httpx.Response) -> None:
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kept = answer.request.method in ("GET", "HEAD") and answer.status_code in (200, 304) and "etag" in answer.headers
    assert answer.headers["cache-control"] == ("private, no-cache" if kept else "no-store")
    policy = [each.strip() for each in answer.headers["content-security-policy"].split(";")]
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy)
    assert not [each for each in policy if each.startswith("script-src")]


@pytest.mark.parametrize(("method", "path"), CALLS, ids=lambda part: part)
def test_every_call_answers_with_these_headers(http, owned, method, path):
    """Of reading calls success, and of all others an error: they come by other ways."""
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    there = {name: getattr(owned, name) for name in names} if method == "GET" else {}
    path = path.format(**UNKNOWN | there)
    answer = http.request(method, path, json={} if method in ("POST", "PATCH") else None, headers=TUS)
    assert answer.status_code < 500
    check(answer)
    check(httpx.request(method, http.base_url.join(path)))  # without a token


def test_reports_as_pages_are_neither_framed_nor_taken_for_another_type(http, owned):
    for path in (f"/v1/verifications/{owned.verification_id}/report", f"/v1/audits/{owned.audit_id}/report"):
        answer = http.get(path, headers={"Accept": "text/html"}).raise_for_status()
        assert answer.headers["content-type"].startswith("text/html")
        check(answer)
        assert '<meta http-equiv="Content-Security-Policy" content="default-src' in answer.text


def test_an_answer_with_a_secret_is_stored_nowhere(http):
    answers = [
        post(http, "/v1/tokens", {"name": "a", "scopes": ["read"]}),
        post(http, "/v1/webhooks", {"url": "https://example.com/"}),
        post(http, "/v1/models", {"name": "a", "artifact_id": register(http)["model"]["artifact_id"], "custody": "owner"}),
    ]
    for answer in answers:
        check(answer.raise_for_status())
        assert answer.headers["cache-control"] == "no-store"
        assert any("secret" in name or name == "token" for name in answer.json())


def test_an_unexpected_error_has_them_too(api, http):
    upload_id = begin(http, len(MODEL_ZIP))
    append(http, upload_id, MODEL_ZIP[:10]).raise_for_status()
    (part,) = files(api.data_dir / "storage" / "uploads" / upload_id)
    part.unlink()
    answer = append(http, upload_id, MODEL_ZIP[10:], 10)
    problem(answer, 500, "internal-server-error")
    check(answer)


def test_a_header_of_the_endpoints_own_stays():
    headers = dict(with_defaults([(b"Cache-Control", b"public"), (b"content-security-policy", b"sandbox")]))
    assert headers[b"Cache-Control"] == b"public"
    assert headers[b"content-security-policy"] == b"sandbox"
    assert b"cache-control" not in headers


@pytest.mark.parametrize("slash", ["", "/", "//"])
@pytest.mark.parametrize(("method", "path"), CALLS, ids=lambda part: part)
def test_no_answer_leads_to_the_host_that_a_client_names(http, owned, method, path, slash):
    there = {name: getattr(owned, name) for name in UNKNOWN} if method == "GET" else {}
    path = path.format(**UNKNOWN | there) + slash
    hosts = {"Host": "attacker.example", "X-Forwarded-Host": "attacker.example", "X-Forwarded-Proto": "https"}
    answer = http.request(method, path, json={} if method in ("POST", "PATCH") else None, headers=TUS | hosts)
    assert answer.status_code not in (301, 302, 303, 307, 308)
    assert "attacker.example" not in str(answer.headers)
    assert "attacker.example" not in answer.text
