"""Rules of verifications."""

from sqlalchemy.orm import Session

from aiao_core.report import Report
from service.artifacts.repository import ArtifactRepository
from service.artifacts.service import denoiser_of
from service.database import utc_now
from service.errors import Conflict, InvalidArtifact
from service.ids import new_id
from service.jobs import memory
from service.jobs import service as jobs
from service.jobs.tables import Job
from service.keys import service as keys
from service.models.repository import ModelRepository
from service.platform import Platform
from service.verifications.repository import VerificationRepository
from service.verifications.schemas import VerificationIn
from service.verifications.tables import Verification


def submit(session: Session, platform: Platform, tenant_id: str, request: VerificationIn) -> tuple[Verification, Job]:
    """A verification and its queued job.

    Raises :class:`service.errors.NotFound` for an unknown model or artifact, :class:`Conflict` for a model that is not ready,
    :class:`InvalidArtifact` for an image set, :class:`service.errors.InvalidSecret` and
    :class:`service.errors.NotEnoughMemory`.
    """
    model = ModelRepository(session, tenant_id).get(request.model_id)
    if model.status != "ready":
        raise Conflict(f"{model.id} is {model.status}; only a model that is ready can be verified against")
    artifacts = ArtifactRepository(session, tenant_id)
    suspect = artifacts.get_for_use(request.artifact_id) if request.artifact_id else None
    if suspect and suspect.kind == "images":
        raise InvalidArtifact("artifact_id is an image set; a suspect is a checkpoint")
    if request.base_artifact_id and artifacts.get_for_use(request.base_artifact_id).kind == "images":
        raise InvalidArtifact("base_artifact_id is an image set; the base of an adapter is a checkpoint")
    verification_id = new_id("ver")
    needed = platform.settings.fleet.accepted(
        memory.of_verification(denoiser_of(platform.storage, artifacts.get(model.artifact_id)))
    )
    job = jobs.create(session, tenant_id, "verify", verification_id, needed)
    keys.lend(session, platform.vault, model, job.id, request.secret_key)
    verification = Verification(
        id=verification_id,
        tenant_id=tenant_id,
        model_id=model.id,
        artifact_id=request.artifact_id,
        hub=request.hub,
        base_artifact_id=request.base_artifact_id,
        suspect_name=suspect.filename if suspect else request.hub,
        suspect_sha256=suspect.sha256 if suspect else None,
        options=request.options.model_dump(mode="json"),
        job_id=job.id,
        created_at=utc_now(),
    )
    return VerificationRepository(session, tenant_id).add(verification), job


def record_report(session: Session, tenant_id: str, verification_id: str, report: Report) -> None:
    """Keep the report of a finished verification, and the figures that lists show."""
    row = VerificationRepository(session, tenant_id).get(verification_id)
    row.verdict, row.log10_p = report.verdict, report.test.log10_p
    row.vs_rate, row.rs_rate = report.vs_rate.value, report.rs_rate.value
    row.report = report.to_json()
    if row.hub:  # only its download has told the commit and the digest
        row.suspect_name = report.suspect_name
        row.suspect_sha256 = next(entry.sha256 for entry in report.inputs if entry.role == "suspect")
