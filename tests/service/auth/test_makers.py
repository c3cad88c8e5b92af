"""A token that only tests suspects deletes no file of the model's owner, and spoils none of its uploads."""

import os

import httpx
import pytest
import sqlalchemy as sa

from service.auth.callers import Scope, digest
from service.tables.artifacts import Artifact
from service.tables.direct_uploads import DirectUpload
from service.tables.tokens import Token
from service.tables.uploads import Upload
from tests.support import rows, uploads
from tests.support.calls import TUS, append, begin, post, problem, upload

pytestmark = pytest.mark.dialect

TABLES = {"art": Artifact, "upl": Upload, "mpu": DirectUpload}


@pytest.fixture
def call(api, backstage):
    """Makes clients of one new tenant, each with a token of a scope."""
    tenant_id, clients = rows.tenant(backstage.database), []

    def make(scope: Scope) -> httpx.Client:
        headers = {"Authorization": f"Bearer {rows.token(backstage.database, tenant_id, scope)}"}
        clients.append(httpx.Client(base_url=api.url, headers=headers, timeout=30))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def fresh() -> bytes:
    return uploads.zip_of({"model_index.json": os.urandom(100)})


def token_of(backstage, http: httpx.Client) -> tuple[str, str]:
    """The identifiers of the client's tenant and token."""
    secret = http.headers["authorization"].removeprefix("Bearer ")
    with backstage.database.session() as session:
        token = session.scalars(sa.select(Token).where(Token.sha256 == digest(secret))).one()
        return token.tenant_id, token.id


def set_maker(backstage, file_id: str, token_id: str | None) -> None:
    table = TABLES[file_id[:3]]
    with backstage.database.session() as session:
        session.execute(sa.update(table).where(table.id == file_id).values(token_id=token_id))


def forbidden(answer: httpx.Response) -> bool:
    return "lacks the scope models:write" in problem(answer, 403, "forbidden")


def test_an_artifact_is_deleted_by_its_maker_and_by_the_owner_alone(call, backstage):
    owner, tester, other = call("models:write"), call("verifications:write"), call("verifications:write")
    of_owner, of_tester, of_other = (upload(http, fresh()) for http in (owner, tester, other))
    for artifact_id in (of_owner, of_other):
        assert forbidden(tester.delete(f"/v1/artifacts/{artifact_id}"))
        assert tester.get(f"/v1/artifacts/{artifact_id}").status_code == 200
    tester.delete(f"/v1/artifacts/{of_tester}").raise_for_status()
    owner.delete(f"/v1/artifacts/{of_other}").raise_for_status()
    set_maker(backstage, of_owner, None)  # as one from before its maker was noted
    assert forbidden(tester.delete(f"/v1/artifacts/{of_owner}"))
    call("admin").delete(f"/v1/artifacts/{of_owner}").raise_for_status()


def test_an_artifact_of_an_upload_is_its_makers(call):
    tester, content = call("verifications:write"), fresh()
    artifact_id = append(tester, begin(tester, len(content)), content).raise_for_status().headers["aiao-artifact"]
    assert forbidden(call("verifications:write").delete(f"/v1/artifacts/{artifact_id}"))
    tester.delete(f"/v1/artifacts/{artifact_id}").raise_for_status()


def test_an_upload_is_changed_by_its_maker_and_by_the_owner_alone(call):
    owner, tester = call("models:write"), call("verifications:write")
    content = fresh()
    upload_id = begin(owner, len(content))
    assert forbidden(tester.delete(f"/v1/uploads/{upload_id}", headers=TUS))
    assert forbidden(append(tester, upload_id, bytes(len(content))))
    append(owner, upload_id, content).raise_for_status()
    for http in (tester, owner):
        mine = begin(tester, 1000)
        append(http, mine, b"a").raise_for_status()
        http.delete(f"/v1/uploads/{mine}", headers=TUS).raise_for_status()


def test_a_direct_upload_is_changed_by_its_maker_and_by_the_owner_alone(call, backstage):
    owner, tester = call("models:write"), call("verifications:write")
    tenant_id, token_id = token_of(backstage, owner)
    upload_id = rows.direct_upload(backstage.database, tenant_id)
    set_maker(backstage, upload_id, token_id)
    place = f"/v1/direct-uploads/{upload_id}"
    named = {"parts": [{"number": 1, "etag": "a"}]}
    for answer in (tester.delete(place), tester.get(f"{place}/parts"), post(tester, f"{place}/complete", named)):
        assert forbidden(answer)
    set_maker(backstage, upload_id, token_of(backstage, tester)[1])
    tester.delete(place).raise_for_status()


def test_an_upload_that_an_older_version_began_goes_on_with_every_token(call, backstage):
    content = fresh()
    upload_id = begin(call("models:write"), len(content))
    set_maker(backstage, upload_id, None)
    append(call("verifications:write"), upload_id, content).raise_for_status()
