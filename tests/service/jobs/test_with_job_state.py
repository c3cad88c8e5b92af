"""A verification and its job are two rows: what is shown of them fits together also while the job ends."""

import pytest

from service.audits.repository import AuditRepository
from service.audits.schemas import AuditOut
from service.jobs.with_job_state import with_states
from service.verifications.repository import VerificationRepository
from service.verifications.schemas import VerificationOut
from tests.support import rows
from tests.support.calls import make_ready, post, upload

pytestmark = pytest.mark.dialect


@pytest.fixture
def model_id(http, backstage, tmp_path) -> str:
    return make_ready(http, backstage, tmp_path)[0]


def test_a_verification_that_ends_meanwhile_shows_its_verdict_as_soon_as_its_success(http, backstage, model_id):
    started = post(http, "/v1/verifications", {"model_id": model_id, "artifact_id": upload(http)}).raise_for_status().json()
    tenant_id = rows.job(backstage.database, started["job"]["id"]).tenant_id
    with backstage.database.read_session() as session:
        row = VerificationRepository(session, tenant_id).get(started["verification"]["id"])
        rows.finish_verification(backstage, tenant_id, row.id, row.job_id)
        (document,) = with_states(VerificationOut, session, tenant_id, [row], outcome="verdict")
    assert (document.status, document.verdict) in (("succeeded", "match"), ("running", None), ("queued", None))


def test_an_audit_that_ends_meanwhile_shows_its_summary_as_soon_as_its_success(http, backstage, model_id):
    started = post(http, f"/v1/models/{model_id}/audits", {"preset": "quick"}).raise_for_status().json()
    tenant_id = rows.job(backstage.database, started["job"]["id"]).tenant_id
    with backstage.database.read_session() as session:
        row = AuditRepository(session, tenant_id).get(started["audit"]["id"])
        rows.finish_audit(backstage, tenant_id, row.id, row.job_id)
        (document,) = with_states(AuditOut, session, tenant_id, [row], outcome="summary")
    assert (document.status == "succeeded") == (document.summary is not None)
