import json
import socket
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa

from service import admin
from service.auth.authentication import USE_SECONDS
from service.auth.dependencies import GOOD_SECONDS
from service.kit.database import utc_now
from service.tables.tokens import Token
from service.tokens.service import PREFIX
from tests.support import uploads
from tests.support.calls import post, problem, send
from tests.support.places import PROJECT
from tests.support.processes import wait_for
from tests.support.shell import checked, in_process

pytestmark = pytest.mark.dialect


def issue(http: httpx.Client, **body: object) -> dict:
    return post(http, "/v1/tokens", {"name": "ci", "scopes": ["read"]} | body).raise_for_status().json()


def status(api, secret: str) -> int:
    return httpx.get(f"{api.url}/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code


def shown(http: httpx.Client, token_id: str) -> dict:
    return next(token for token in http.get("/v1/tokens", params={"limit": 200}).json()["items"] if token["id"] == token_id)


def change(backstage, token_id: str, **values: object) -> None:
    with backstage.database.session() as session:
        session.execute(sa.update(Token).where(Token.id == token_id).values(**values))


def test_an_issued_token_works_and_its_secret_is_shown_once(api, http, backstage):
    answer = issue(http, scopes=["verifications:write", "read"], expires_in_days=30)
    secret, token = answer["secret"], answer["token"]
    assert secret.startswith(PREFIX)
    assert status(api, secret) == 200
    assert token["scopes"] == ["read", "verifications:write"]
    assert datetime.fromisoformat(token["expires_at"]) - utc_now() == pytest.approx(
        timedelta(days=30), abs=timedelta(minutes=5)
    )
    assert secret not in http.get("/v1/tokens").text
    with backstage.database.engine.connect() as connection:
        assert secret not in str(connection.exec_driver_sql("SELECT * FROM tokens").fetchall())


def test_a_repeated_call_issues_no_second_token_and_repeats_no_secret(http):
    first, again = (
        post(http, "/v1/tokens", {"name": "once", "scopes": ["read"]}, **{"Idempotency-Key": "once"}).json() for _ in range(2)
    )
    assert first["token"] == again["token"]
    assert (first["secret"] is None, again["secret"]) == (False, None)


def test_a_revoked_token_is_refused_and_stays_in_the_list(api, http):
    answer = issue(http)
    path = f"/v1/tokens/{answer['token']['id']}"
    assert http.delete(path).status_code == 204
    headers = {"Authorization": f"Bearer {answer['secret']}"}
    detail = problem(httpx.get(f"{api.url}/v1/models", headers=headers), 401, "unauthorized")
    assert "was revoked" in detail
    assert answer["secret"] not in detail
    revoked = shown(http, answer["token"]["id"])["revoked_at"]
    assert http.delete(path).status_code == 204
    assert shown(http, answer["token"]["id"])["revoked_at"] == revoked is not None


def test_a_token_in_use_writes_nothing_once_revoked_and_soon_reads_nothing(api, http):
    answer = issue(http, scopes=["admin"])
    assert status(api, answer["secret"]) == 200
    http.delete(f"/v1/tokens/{answer['token']['id']}").raise_for_status()
    headers = {"Authorization": f"Bearer {answer['secret']}"}
    refused = httpx.post(f"{api.url}/v1/tokens", json={"name": "heir", "scopes": ["read"]}, headers=headers)
    problem(refused, 401, "unauthorized")
    wait_for(lambda: status(api, answer["secret"]) == 401, "a revoked token still reads", seconds=5)


def test_a_token_that_is_revoked_while_its_body_comes_writes_nothing(api, http):
    """A caller could otherwise keep calls open, and end them after its token was taken away."""
    answer, body = issue(http, scopes=["admin"]), b'{"name": "heir", "scopes": ["read"]}'
    head = (
        f"POST /v1/tokens HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"authorization: Bearer {answer['secret']}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(api.settings["AIAO_PORT"])), timeout=20) as connection:
        connection.sendall(head.encode() + body[:1])
        time.sleep(GOOD_SECONDS + 0.5)
        http.delete(f"/v1/tokens/{answer['token']['id']}").raise_for_status()
        connection.sendall(body[1:])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401")


def test_an_expired_token_is_refused(api, http, backstage):
    answer = issue(http, expires_in_days=1)
    change(backstage, answer["token"]["id"], expires_at=utc_now() - timedelta(seconds=1))
    headers = {"Authorization": f"Bearer {answer['secret']}"}
    assert "has expired" in problem(httpx.get(f"{api.url}/v1/models", headers=headers), 401, "unauthorized")


def test_the_last_use_is_shown_to_the_minute(api, http, backstage):
    answer = issue(http)
    assert shown(http, answer["token"]["id"])["last_used_at"] is None
    assert status(api, answer["secret"]) == 200
    first = shown(http, answer["token"]["id"])["last_used_at"]
    assert datetime.fromisoformat(first) - datetime.now(UTC) == pytest.approx(timedelta(0), abs=timedelta(minutes=5))
    assert status(api, answer["secret"]) == 200
    assert shown(http, answer["token"]["id"])["last_used_at"] == first
    change(backstage, answer["token"]["id"], last_used_at=utc_now() - timedelta(seconds=2 * USE_SECONDS))

    def noted() -> bool:
        assert status(api, answer["secret"]) == 200
        return shown(http, answer["token"]["id"])["last_used_at"] > first

    wait_for(noted, "a later use is not shown", seconds=5)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["everything"]},
        {"name": "", "scopes": ["read"]},
        {"name": "a"},
        {"name": "a", "scopes": ["read"], "expires_in_days": 0},
        {"name": "a", "scopes": ["read"], "tenant_id": "ten_other"},
    ],
)
def test_a_malformed_request_is_named(http, body):
    problem(post(http, "/v1/tokens", body), 422, "invalid-request")


def operate(api, *arguments: str, status: int = 0) -> str:
    """Run a command of the operator and return what it printed, or for what reason it was refused."""
    command = ("service.admin", *arguments)
    done = checked(in_process(lambda: admin.app(prog_name="aiao admin"), command, PROJECT, api.environment), status)
    return (done.stderr if status else done.stdout).strip()


def test_the_operator_issues_lists_and_revokes(api):
    name = f"studio {datetime.now(UTC).isoformat()}"
    tenant_id = api.run("service.admin", "tenants", "create", name)
    assert operate(api, "tenants", "create", name) == tenant_id
    assert f"{tenant_id} {name}" in operate(api, "tenants", "list")
    secret = operate(api, "tokens", "issue", name, "--scope", "read", "--scope", "models:write", "--expires-in-days", "7")
    assert status(api, secret) == 200
    (token,) = map(json.loads, operate(api, "tokens", "list", name).splitlines())
    assert (token["scopes"], token["revoked_at"]) == (["models:write", "read"], None)
    assert "secret" not in token
    operate(api, "tokens", "revoke", name, token["id"])
    wait_for(lambda: status(api, secret) == 401, "a revoked token still reads", seconds=5)


def test_the_operator_sets_and_shows_a_quota(api):
    name = f"studio {datetime.now(UTC).isoformat()}"
    operate(api, "tenants", "create", name)
    assert operate(api, "tenants", "quota", name) == "0 None"
    assert operate(api, "tenants", "quota", name, "1000") == "0 1000"
    with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {operate(api, 'tokens', 'issue', name)}"}) as http:
        problem(send(http, uploads.tar_of({"a": bytes(2000)})), 403, "quota-exceeded")
        assert operate(api, "tenants", "quota", name, "none") == "0 None"
        size = send(http, uploads.MODEL_ZIP).raise_for_status().json()["size"]
        acts = [each["action"] for each in http.get("/v1/activity").json()["items"]]
    assert operate(api, "tenants", "quota", name) == f"{size} None"
    assert acts == ["artifact.upload", "tenant.quota", "token.issue", "tenant.quota"]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["tenants", "quota", "nobody", "much"], "much is neither a number of bytes nor none"),
        (["tokens", "list", "nobody"], "unknown tenant nobody"),
        (["tokens", "issue", "a", "--scope", "everything"], "scopes"),
        (["tokens", "issue", "a", "--expires-in-days", "0"], "expires_in_days"),
    ],
)
def test_a_mistake_of_the_operator_is_named_without_a_traceback(api, arguments, cause):
    said = operate(api, *arguments, status=2)
    assert cause in " ".join(said.replace("│", " ").split())
