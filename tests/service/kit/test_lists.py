"""What every list has in common: pages, filters, order, and as many queries for many rows as for few."""

from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from service.app import create_app
from service.tables.jobs import Job
from tests.support import rows, uploads
from tests.support.calls import Owned, make_ready, own, post, upload

pytestmark = pytest.mark.dialect


@pytest.fixture(scope="module")
def owner(caller, backstage, tmp_path_factory) -> tuple[httpx.Client, Owned]:
    """A tenant with several of everything."""
    http = caller()
    owned = own(http, backstage, tmp_path_factory.mktemp("first"))
    tenant_id = rows.job(backstage.database, owned.job_id).tenant_id
    for number in range(3):
        body = {"model_id": owned.model_id, "artifact_id": upload(http, uploads.safetensors())}
        submitted = post(http, "/v1/verifications", body).raise_for_status().json()
        if number == 0:
            rows.finish_verification(backstage, tenant_id, submitted["verification"]["id"], submitted["job"]["id"])
        post(http, f"/v1/models/{owned.model_id}/audits", {"preset": "quick"}).raise_for_status()
        post(http, "/v1/webhooks", {"url": f"https://example.com/{number}"}).raise_for_status()
    make_ready(http, backstage, tmp_path_factory.mktemp("second"))
    return http, owned


def paths(owned: Owned) -> list[str]:
    return [
        "/v1/artifacts", "/v1/models", "/v1/verifications", f"/v1/models/{owned.model_id}/audits", "/v1/jobs", "/v1/tokens",
        "/v1/webhooks", f"/v1/webhooks/{owned.webhook_id}/deliveries", "/v1/activity",
    ]  # fmt: skip


def whole(http: httpx.Client, path: str, **query: object) -> list[dict]:
    """All items of a list, page by page."""
    found, cursor = [], None
    while True:
        page = http.get(path, params={**query, **({"cursor": cursor} if cursor else {})}).raise_for_status().json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_every_list_of_the_document_is_tried_here(api, owner):
    document = httpx.get(f"{api.url}/openapi.json").json()["paths"]
    lists = {
        path
        for path, item in document.items()
        if "cursor" in {each["name"] for each in item.get("get", {}).get("parameters", [])}
    }
    assert {path.format(model_id=owner[1].model_id, webhook_id=owner[1].webhook_id) for path in lists} == set(paths(owner[1]))


def test_a_list_comes_in_pages_and_in_both_orders(owner):
    http, owned = owner
    for path in paths(owned):
        newest = whole(http, path, limit=200)
        ids = [item["id"] for item in newest]
        assert ids == sorted(set(ids), reverse=True)
        assert whole(http, path, limit=1) == newest
        assert whole(http, path, limit=2, order="oldest") == newest[::-1]
        assert http.get(path, params={"order": "best"}).status_code == 422


@pytest.mark.parametrize(
    ("path", "name", "values"),
    [
        ("/v1/models", "status", ["embedding", "ready", "failed"]),
        ("/v1/verifications", "verdict", ["match", "no-match"]),
        ("/v1/jobs", "state", ["queued", "succeeded", "running"]),
        ("/v1/jobs", "kind", ["embed", "verify", "audit"]),
    ],
)
def test_a_filter_leaves_what_it_names(owner, path, name, values):
    http, _ = owner
    everything = whole(http, path)
    found = {value: whole(http, path, limit=2, **{name: value}) for value in values}
    assert sum(map(len, found.values())) > 1
    for value, items in found.items():
        assert items == [item for item in everything if item[name] == value]
    assert http.get(path, params={name: "nonsense"}).status_code == 422


def test_filters_are_joined(owner):
    http, owned = owner
    jobs = whole(http, "/v1/jobs", state="queued", kind="verify")
    assert jobs
    assert {(job["state"], job["kind"]) for job in jobs} == {("queued", "verify")}
    assert whole(http, "/v1/verifications", model_id=owned.model_id) == whole(http, "/v1/verifications")
    assert whole(http, "/v1/verifications", model_id=owned.embedding_id) == []


@pytest.fixture
def counted(context) -> Iterator[tuple[TestClient, list[str], str]]:
    """The API in this process, what it asks the database, and its tenant."""
    tenant = rows.tenant(context.database)
    asked: list[str] = []
    with TestClient(create_app(context.settings)) as http:
        engine = http.app.state.context.database.engine
        sa.event.listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: asked.append(statement))
        http.headers["Authorization"] = f"Bearer {rows.token(context.database, tenant)}"
        yield http, asked, tenant


def test_a_list_of_many_asks_no_more_than_one_of_few(counted, context, tmp_path):
    http, asked, tenant = counted
    owned = own(http, context, tmp_path)
    http.get("/v1/jobs").raise_for_status()  # the token's use has been noted
    assert any("WHERE tokens.sha256" in statement for statement in asked)

    def queries() -> dict[str, int]:
        counts = {}
        for path in paths(owned):
            asked.clear()
            assert http.get(path).raise_for_status().json()["items"]
            # Whose the token is, is asked once a second, and on SQLite in a transaction that is begun.
            counts[path] = sum(text.startswith("SELECT") and "WHERE tokens.sha256" not in text for text in asked)
        return counts

    few = queries()
    for number in range(4):
        body = {"model_id": owned.model_id, "artifact_id": upload(http)}
        post(http, "/v1/verifications", body).raise_for_status()
        post(http, "/v1/models", {"name": f"{number}", "artifact_id": upload(http)}).raise_for_status()
        post(http, f"/v1/models/{owned.model_id}/audits", {"preset": "quick"}).raise_for_status()
        post(http, "/v1/webhooks", {"url": f"https://example.com/{number}"}).raise_for_status()
    with context.database.session() as session:
        assert session.scalar(sa.select(sa.func.count()).where(Job.tenant_id == tenant)) > 12
    assert queries() == few
