"""What a message about a verification says of the key."""

import json

import pytest
import sqlalchemy as sa

from aiao_core.reports.words import OLD_KEY
from service.tables.verifications import Verification
from service.tables.webhooks import Delivery
from tests.support import rows
from tests.support.calls import make_ready, post, upload

pytestmark = pytest.mark.dialect


def told(backstage, tenant_id: str) -> dict:
    """The verification in the newest message to the tenant."""
    newest = sa.select(Delivery).where(Delivery.tenant_id == tenant_id).order_by(Delivery.id.desc()).limit(1)
    with backstage.database.session() as session:
        return json.loads(session.scalars(newest).one().body)["data"]["verification"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_message_says_that_an_older_key_can_be_read_out_of_published_weights(caller, backstage, tmp_path, finished):
    http = caller()
    post(http, "/v1/webhooks", {"url": "https://example.com/a"}).raise_for_status()
    model_id, _ = make_ready(http, backstage, tmp_path)
    body = {"model_id": model_id, "artifact_id": upload(http)}
    submitted = post(http, "/v1/verifications", body).raise_for_status().json()
    verification_id, job_id = submitted["verification"]["id"], submitted["job"]["id"]
    tenant_id = rows.job(backstage.database, job_id).tenant_id
    if finished:
        rows.finish_verification(backstage, tenant_id, verification_id, job_id)  # its report is of a key of version 2
    else:
        http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    expected = (2, OLD_KEY) if finished else (None, None)
    message = told(backstage, tenant_id)
    assert (message["key_version"], message["notice"]) == expected
    assert http.get(f"/v1/verifications/{verification_id}").json()["key_version"] == expected[0]


@pytest.mark.parametrize(("key_version", "notice"), [(None, OLD_KEY), (1, OLD_KEY), (2, OLD_KEY), (3, None)])
def test_of_a_key_of_version_3_it_says_nothing(backstage, http, owned, key_version, notice):
    """A worker of an older release notes no version, and tests with older keys."""
    with backstage.database.session() as session:
        session.get(Verification, owned.verification_id).key_version = key_version
        message = Verification.announcement(session, owned.verification_id)["verification"]
        session.rollback()
    assert (message["key_version"], message["notice"]) == (key_version, notice)
