"""Rules of audits."""

from sqlalchemy.orm import Session

from aiao_core import sizing
from aiao_core.reports.audit import AttackResult, AuditReport
from service.artifacts.repository import ArtifactRepository
from service.artifacts.service import denoiser_of
from service.audits.repository import AuditRepository
from service.audits.schemas import AuditIn
from service.context import Context
from service.jobs import service as jobs
from service.keys import service as keys
from service.kit.database import utc_now
from service.kit.errors import Conflict, InvalidArtifact
from service.kit.ids import new_id
from service.models.repository import ModelRepository
from service.tables.audits import Audit
from service.tables.jobs import Job


def start(session: Session, context: Context, tenant_id: str, model_id: str, request: AuditIn) -> tuple[Audit, Job]:
    """Queue an audit. Return it with its job.

    Raise :class:`service.kit.errors.NotFound` for an unknown model or artifact, :class:`Conflict` for a model that is not
    ready, :class:`InvalidArtifact` for a file that is not an image set, :class:`service.kit.errors.InvalidSecret` and
    :class:`service.kit.errors.NotEnoughMemory`.
    """
    model = ModelRepository(session, tenant_id).get(model_id)
    if model.status != "ready":
        raise Conflict(f"{model.id} is {model.status}; only a model that is ready can be audited")
    images, artifacts = request.images_artifact_id, ArtifactRepository(session, tenant_id)
    if images and artifacts.get_for_use(images).kind not in ("images", "archive"):
        raise InvalidArtifact("images_artifact_id must be an image set: a .zip or .tar of images, or an .npz")
    audit_id = new_id("aud")
    needed = context.settings.fleet.accepted(sizing.of_audit(denoiser_of(context.storage, artifacts.get(model.artifact_id))))
    job = jobs.create(session, tenant_id, "audit", audit_id, needed)
    keys.lend(session, context.vault, model, job.id, request.secret_key)
    audit = Audit(
        id=audit_id,
        tenant_id=tenant_id,
        model_id=model.id,
        preset=request.preset,
        attacks=request.attacks and list(request.attacks),
        images_artifact_id=images,
        options=request.options.model_dump(mode="json"),
        results={},
        job_id=job.id,
        created_at=utc_now(),
    )
    return AuditRepository(session, tenant_id).add(audit), job


def record_result(session: Session, tenant_id: str, audit_id: str, result: AttackResult) -> None:
    """Keep the result of one attack, so that an interrupted audit need not try it again."""
    row = AuditRepository(session, tenant_id).get(audit_id)
    row.results = row.results | {result.id: result.model_dump(mode="json")}


def record_report(session: Session, tenant_id: str, audit_id: str, report: AuditReport) -> None:
    """Keep the report of a finished audit, and the summary that lists show."""
    row = AuditRepository(session, tenant_id).get(audit_id)
    row.summary = report.summary.model_dump(mode="json")
    row.report = report.to_json()
