import re
from typing import get_args

import httpx
import pytest

from aiao_core.formats.hub.references import REFERENCE
from aiao_core.key import DIGEST
from service.auth.callers import Scope
from service.kit.id_patterns import IN_WORDS
from service.kit.ids import new_id
from tests.support import rows
from tests.support.calls import TUS, Owned, files, post, problem, register, send, upload

METHODS = ("get", "post", "put", "patch", "delete")
APPEND = TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
"""Headers without which an upload looks at nothing else."""

BODIES = {
    "/v1/models/{model_id}/audits": {"preset": "quick"},
    "/v1/models/{model_id}/renewals": {},
    "/v1/direct-uploads/{direct_upload_id}/complete": {"parts": [{"number": 1, "etag": "a"}]},
}
"""Of the calls for one thing that need one."""


def calls(api) -> list[tuple[str, str]]:
    """Method and path of every call in the OpenAPI document."""
    paths = httpx.get(f"{api.url}/openapi.json").json()["paths"]
    return [(method, path) for path, item in paths.items() for method in item if method in METHODS]


def filled(path: str, owned: Owned) -> str:
    """The path with identifiers of ``owned``: for jobs one that is queued, so that a cancel would show."""
    values = {
        "model_id": owned.model_id, "job_id": owned.job_id, "artifact_id": owned.artifact_id,
        "verification_id": owned.verification_id, "audit_id": owned.audit_id, "upload_id": owned.upload_id,
        "direct_upload_id": owned.direct_upload_id, "token_id": owned.token_id, "webhook_id": owned.webhook_id,
        "delivery_id": owned.delivery_id,
    }  # fmt: skip
    return path.format(**values)


def state_of(http: httpx.Client, owned: Owned) -> list[object]:
    things = (
        f"models/{owned.model_id}", f"models/{owned.embedding_id}", f"jobs/{owned.job_id}", f"artifacts/{owned.artifact_id}",
        f"verifications/{owned.verification_id}", f"audits/{owned.audit_id}", f"models/{owned.model_id}/audits",
        f"webhooks/{owned.webhook_id}/deliveries", f"direct-uploads/{owned.direct_upload_id}",
        "tokens",
    )  # fmt: skip
    offset = http.head(f"/v1/uploads/{owned.upload_id}", headers=TUS).raise_for_status().headers["upload-offset"]
    return [offset, *(http.get(f"/v1/{thing}").raise_for_status().json() for thing in things)]


def test_every_call_of_the_design_is_there(api):
    assert set(calls(api)) == {
        ("post", "/v1/artifacts"),
        ("get", "/v1/artifacts"),
        ("get", "/v1/artifacts/{artifact_id}"),
        ("delete", "/v1/artifacts/{artifact_id}"),
        ("post", "/v1/uploads"),
        ("patch", "/v1/uploads/{upload_id}"),
        ("delete", "/v1/uploads/{upload_id}"),
        ("post", "/v1/direct-uploads"),
        ("get", "/v1/direct-uploads/{direct_upload_id}"),
        ("delete", "/v1/direct-uploads/{direct_upload_id}"),
        ("get", "/v1/direct-uploads/{direct_upload_id}/parts"),
        ("post", "/v1/direct-uploads/{direct_upload_id}/complete"),
        ("post", "/v1/models"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model_id}"),
        ("delete", "/v1/models/{model_id}"),
        ("post", "/v1/models/{model_id}/renewals"),
        ("get", "/v1/models/{model_id}/checkpoint"),
        ("get", "/v1/models/{model_id}/key"),
        ("post", "/v1/models/{model_id}/key/opened"),
        ("post", "/v1/verifications"),
        ("get", "/v1/verifications"),
        ("get", "/v1/verifications/{verification_id}"),
        ("get", "/v1/verifications/{verification_id}/report"),
        ("post", "/v1/models/{model_id}/audits"),
        ("get", "/v1/models/{model_id}/audits"),
        ("get", "/v1/audits/{audit_id}"),
        ("get", "/v1/audits/{audit_id}/report"),
        ("get", "/v1/jobs"),
        ("get", "/v1/jobs/{job_id}"),
        ("get", "/v1/jobs/{job_id}/events"),
        ("post", "/v1/jobs/{job_id}/cancel"),
        ("post", "/v1/tokens"),
        ("get", "/v1/tokens"),
        ("delete", "/v1/tokens/{token_id}"),
        ("get", "/v1/activity"),
        ("post", "/v1/webhooks"),
        ("get", "/v1/webhooks"),
        ("delete", "/v1/webhooks/{webhook_id}"),
        ("get", "/v1/webhooks/{webhook_id}/deliveries"),
        ("post", "/v1/webhooks/deliveries/{delivery_id}/retry"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz", "aiao_token", "Bearer \xfc", "Bearer a b"],
)
def test_without_a_known_token_every_call_but_health_is_refused(api, owned, header):
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    with httpx.Client(base_url=api.url, headers=headers) as nobody:
        for method, path in calls(api):
            if not path.startswith("/v1/"):
                assert nobody.get(path).status_code == 200
                continue
            answer = nobody.request(method, filled(path, owned), params={"filename": "a"}, content=b"", headers=TUS)
            assert "token" in problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_tokens_text_is_not_in_any_error(api):
    answer = httpx.get(f"{api.url}/v1/models", headers={"Authorization": "Bearer aiao_nearly_right"})
    assert "aiao_nearly_right" not in problem(answer, 401, "unauthorized")


def test_what_is_another_tenants_looks_exactly_like_what_does_not_exist(api, http, stranger, owned):
    before = state_of(http, owned)
    walked = [(method, path) for method, path in calls(api) if "{" in path]
    assert len(walked) >= 10
    for method, path in walked:
        theirs = filled(path, owned)
        unknown = re.sub(r"/([a-z]{3})_[^/]*", lambda found: f"/{new_id(found[1])}", theirs)
        (their_id,), (unknown_id,) = (re.findall(r"[a-z]{3}_\w{26}", place) for place in (theirs, unknown))
        headers = APPEND if "/uploads/" in path else {}
        answers = [
            stranger.request(method, place, json=BODIES.get(path) if method == "post" else None, headers=headers)
            for place in (theirs, unknown)
        ]
        details = [problem(answer, 404, "not-found") for answer in answers]
        assert details[0].replace(their_id, "…") == details[1].replace(unknown_id, "…"), path
        assert set(answers[0].headers) == set(answers[1].headers), path
    assert state_of(http, owned) == before


def scopes_of(api) -> dict[tuple[str, str], list[str]]:
    """For each call the scopes of which one is enough, by the OpenAPI document."""
    paths = httpx.get(f"{api.url}/openapi.json").json()["paths"]
    return {
        (method, path): paths[path][method]["security"][0]["HTTPBearer"] for method, path in calls(api) if path[:3] == "/v1"
    }


@pytest.mark.parametrize("scope", get_args(Scope))
def test_a_token_opens_the_calls_of_its_scope_alone(api, http, backstage, owned, scope):
    before = state_of(http, owned)
    tenant_id = rows.job(backstage.database, owned.job_id).tenant_id
    headers = {"Authorization": f"Bearer {rows.token(backstage.database, tenant_id, scope)}"}
    with httpx.Client(base_url=api.url, headers=headers) as scoped:
        refused = 0
        for (method, path), enough in scopes_of(api).items():
            if path.endswith("/events"):
                continue  # it would not end
            if scope == "admin" or "read" in enough or scope in enough:
                if method == "get":
                    # The storage is a folder, which has no parts to send.
                    expected = 409 if path.endswith("/parts") else 200
                    assert scoped.get(filled(path, owned)).status_code == expected
                continue
            answer = scoped.request(method, filled(path, owned), params={"filename": "a"}, content=b"", headers=TUS)
            assert " or ".join(enough) in problem(answer, 403, "forbidden")
            refused += 1
        assert (refused == 0) == (scope == "admin")
    assert state_of(http, owned)[:-1] == before[:-1]  # the list of tokens has the new one


def test_a_token_that_only_verifies_cancels_no_embedding(api, http, backstage, owned):
    tenant_id = rows.job(backstage.database, owned.job_id).tenant_id
    suspect = {"model_id": owned.model_id, "artifact_id": owned.artifact_id}
    verifying = post(http, "/v1/verifications", suspect).raise_for_status().json()["job"]["id"]
    embedding = register(http)["job"]["id"]
    for scope, allowed, refused in (
        ("verifications:write", verifying, embedding),
        ("models:write", embedding, verifying),
    ):
        headers = {"Authorization": f"Bearer {rows.token(backstage.database, tenant_id, scope)}"}
        with httpx.Client(base_url=api.url, headers=headers) as scoped:
            if scope == "verifications:write":
                problem(scoped.post(f"/v1/jobs/{refused}/cancel"), 403, "forbidden")
            assert scoped.post(f"/v1/jobs/{allowed}/cancel").json()["state"] == "canceled"
            problem(scoped.post(f"/v1/jobs/{refused}/cancel"), 403, "forbidden")


def test_a_body_cannot_name_what_is_another_tenants(stranger, owned):
    mine = upload(stranger)
    for body in (
        {"name": "a", "artifact_id": owned.artifact_id},
        {"name": "a", "artifact_id": mine, "images_artifact_id": owned.artifact_id},
    ):
        assert owned.artifact_id in problem(post(stranger, "/v1/models", body), 404, "not-found")
    body = {"model_id": owned.model_id, "artifact_id": mine}
    assert owned.model_id in problem(post(stranger, "/v1/verifications", body), 404, "not-found")


def test_a_verification_cannot_name_an_artifact_of_another_tenant(http, stranger, owned):
    body = {"model_id": owned.model_id, "artifact_id": upload(stranger)}
    problem(post(http, "/v1/verifications", body), 404, "not-found")


def test_lists_show_a_tenant_its_own_alone(caller, owned):
    newcomer = caller()
    for things in ("models", "jobs", "verifications"):
        assert newcomer.get(f"/v1/{things}").json() == {"items": [], "next_cursor": None}
        cursor = {"models": owned.model_id, "jobs": owned.job_id, "verifications": owned.verification_id}[things]
        assert newcomer.get(f"/v1/{things}", params={"cursor": cursor}).json()["items"] == []


def test_two_tenants_may_use_the_same_idempotency_key(http, stranger):
    ids = [send(client, b"\x80\x02.", "a.pt", key="shared").raise_for_status().json()["id"] for client in (http, stranger)]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/models/mdl_1/nothing", "/docs/nothing"])
def test_an_unknown_path_is_a_problem_that_says_where_to_look(http, path):
    assert "/docs" in problem(http.get(path), 404, "not-found")


def test_an_unknown_method_is_a_problem_that_says_where_to_look_and_what_the_path_takes(api, http, owned):
    for path, item in httpx.get(f"{api.url}/openapi.json").json()["paths"].items():
        answer = http.put(filled(path, owned))
        assert "/docs" in problem(answer, 405, "method-not-allowed")
        assert set(answer.headers["allow"].lower().split(", ")) == set(item), path


def test_a_malformed_identifier_is_named(http):
    for path in ("/v1/models/1", "/v1/models/job_" + "0" * 26, "/v1/jobs/%00", "/v1/models/mdl_" + "0" * 26 + "%0A"):
        assert "path" in problem(http.get(path), 422, "invalid-request")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/audits/aud_1", "path.audit_id: the identifier of an audit is aud_ and 26 digits and small letters"),
        (
            "/v1/verifications?model_id=emoji",
            "query.model_id: the identifier of a model is mdl_ and 26 digits and small letters",
        ),
        ("/v1/models?cursor=2", "query.cursor: an identifier is three letters, _, and 26 digits and small letters"),
        ("/v1/artifacts?sha256=1234", "query.sha256: a SHA-256 digest is 64 hexadecimal digits in lower case"),
    ],
)
def test_what_an_identifier_looks_like_is_said_in_words(http, path, said):
    assert said == problem(http.get(path), 422, "invalid-request")


def test_every_pattern_of_the_document_has_words(api):
    def patterns(part: object) -> set[str]:
        if isinstance(part, list):
            return set().union(*map(patterns, part))
        if not isinstance(part, dict):
            return set()
        own = {part["pattern"]} if isinstance(part.get("pattern"), str) else set()
        return own.union(*map(patterns, part.values()))

    in_answers_alone, parsed = {DIGEST}, {REFERENCE}  # a reference to the hub is parsed, and the parser has words of its own
    assert patterns(httpx.get(f"{api.url}/openapi.json").json()) - in_answers_alone - parsed == set(IN_WORDS)


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"name": "a"}', '{"name": 1e999, "artifact_id": "x"}', "[" * 100_000])
def test_a_malformed_body_is_named(http, body):
    answer = http.post("/v1/models", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code, answer.json()["type"])


@pytest.mark.parametrize("body", [b"\xff\xfe", b'{"name": "\xff"}', b'{"a": ' + b"1" * 5000 + b"}"])
def test_a_body_that_is_no_json_text_is_named(http, body):
    answer = http.post("/v1/models", content=body, headers={"Content-Type": "application/json"})
    problem(answer, answer.status_code, answer.json()["type"])
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("key", ["extra", "\\ud800", "\\u0000", "\\u202e"])
def test_an_unknown_field_is_named_and_does_no_harm(http, key):
    body = f'{{"name": "a", "artifact_id": "{new_id("art")}", "{key}": 1}}'
    answer = http.post("/v1/models", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 422, "invalid-request")


@pytest.mark.parametrize("name", ["", "a" * 201, "a\nb", "a\0b", "\u202eabc", "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(http, name):
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in name)
    body = f'{{"name": "{escaped}", "artifact_id": "{new_id("art")}"}}'
    answer = http.post("/v1/models", content=body, headers={"Content-Type": "application/json"})
    assert "name" in problem(answer, 422, "invalid-request")


def test_what_was_sent_is_not_repeated_in_an_error(http):
    answer = post(http, "/v1/models", {"name": "a", "artifact_id": "my-secret-by-mistake"})
    assert "my-secret-by-mistake" not in problem(answer, 422, "invalid-request")


def test_a_large_json_body_is_refused_before_it_fills_the_memory(http):
    for path in ("/v1/models", "/v1/verifications", f"/v1/jobs/{new_id('job')}/cancel"):
        detail = problem(post(http, path, {"name": "a" * (2 << 20)}), 413, "body-too-large")
        assert "1048576" in detail


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "", "\xff"])
def test_a_malformed_host_header_does_no_harm(http, host):
    for path in ("/v1/models", "/v1/models/"):
        answer = http.post(path, json={}, headers=[(b"host", host.encode("latin-1"))])
        assert answer.status_code < 500
    assert http.get("/healthz").status_code == 200


def test_nothing_of_all_this_is_left_behind(api, http):
    register(http)
    assert files(api.data_dir / "scratch") == set()
