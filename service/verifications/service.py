"""Rules of verifications."""

from sqlalchemy.orm import Session

from aiao_core import sizing
from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.verification import Counts, Report
from service.artifacts.adapters import is_adapter
from service.artifacts.repository import ArtifactRepository
from service.artifacts.service import denoiser_of
from service.auth.callers import Caller
from service.context import Context
from service.jobs import service as jobs
from service.keys import service as keys
from service.kit.database import utc_now
from service.kit.errors import AdapterWithoutBase, Conflict, Forbidden, InvalidArtifact
from service.kit.ids import new_id
from service.models.repository import ModelRepository
from service.tables.jobs import Job
from service.tables.verifications import Verification
from service.tenants import lock_tenant
from service.verifications.repository import VerificationRepository
from service.verifications.schemas import VerificationIn


def submit(session: Session, context: Context, caller: Caller, request: VerificationIn) -> tuple[Verification, Job]:
    """Queue a verification. Return it with its job.

    Raise :class:`service.kit.errors.NotFound` for an unknown model or artifact, :class:`Conflict` for a model that is not
    ready or whose key was opened, :class:`Forbidden` for a stricter limit by a caller that may not see figures,
    :class:`InvalidArtifact` for an image set, :class:`AdapterWithoutBase`, :class:`service.kit.errors.InvalidSecret` and
    :class:`service.kit.errors.NotEnoughMemory`.
    """
    tenant_id = caller.tenant_id
    model = ModelRepository(session, tenant_id).get(request.model_id)
    if model.status != "ready":
        raise Conflict(f"{model.id} is {model.status}; only a model that is ready can be verified against")
    keys.check_unopened(session, tenant_id, model.id)
    if request.options.max_log10_p < LIMIT_LOG10_P and not (caller.has("models:write") or request.secret_key):
        raise Forbidden(
            "max_log10_p below the limit of every verdict is for the key's owner and its holder: by ever stricter ones others "
            "would find the exact figure, which only these may know; leave it out"
        )
    artifacts = ArtifactRepository(session, tenant_id)
    suspect = artifacts.get_for_use(request.artifact_id) if request.artifact_id else None
    if suspect and suspect.kind == "images":
        raise InvalidArtifact("artifact_id is an image set; a suspect is a checkpoint")
    if suspect and request.base_artifact_id is None and is_adapter(context.storage, suspect):
        raise AdapterWithoutBase(
            "artifact_id is an adapter: name the model that it was made for as base_artifact_id; it is never merged into the "
            "owner's marked model, in which every adapter matches"
        )
    if request.base_artifact_id and artifacts.get_for_use(request.base_artifact_id).kind == "images":
        raise InvalidArtifact("base_artifact_id is an image set; the base of an adapter is a checkpoint")
    verification_id = new_id("ver")
    needed = context.settings.fleet.accepted(
        sizing.of_verification(denoiser_of(context.storage, artifacts.get(model.artifact_id)))
    )
    job = jobs.create(session, tenant_id, "verify", verification_id, needed)
    keys.lend(session, context.vault, model, job.id, request.secret_key)
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
        token_id=caller.token_id,
        with_secret=request.secret_key is not None,
        job_id=job.id,
        created_at=utc_now(),
    )
    return VerificationRepository(session, tenant_id).add(verification), job


def counted(session: Session, tenant_id: str, verification_id: str, suspect_weights: str) -> Counts:
    """Count a test before it is made: the n-th with its key, the m-th of these weights. Another attempt keeps its numbers."""
    lock_tenant(session, tenant_id)
    verifications = VerificationRepository(session, tenant_id)
    row = verifications.get(verification_id)
    if row.with_key is None or row.of_file is None or row.suspect_weights != suspect_weights:
        row.suspect_weights = None
        session.flush()
        row.of_file = verifications.tests_of(suspect_weights) + 1
        row.with_key = row.with_key or verifications.tests_with_key(row.model_id) + 1
        row.suspect_weights = suspect_weights
    return Counts(with_key=row.with_key, of_file=row.of_file)


def record_report(session: Session, tenant_id: str, verification_id: str, report: Report) -> None:
    """Keep the report of a finished verification, and the figures that lists show."""
    row = VerificationRepository(session, tenant_id).get(verification_id)
    row.verdict, row.reason, row.tested, row.base_name = report.verdict, report.reason, report.tested, report.base_name
    row.key_version, row.log10_p = report.key_version, report.test.log10_p
    row.vs_rate, row.rs_rate = report.vs_rate.value, report.rs_rate.value
    row.report = report.to_json()
    if row.hub:  # only its download has told the commit and the digest
        row.suspect_name = report.suspect_name
        row.suspect_sha256 = next(entry.sha256 for entry in report.inputs if entry.role == "suspect")


def may_see_figures(caller: Caller, row: Verification) -> bool:
    """Return whether the caller may see the figures of a test: as the key's owner, or because it sent the key's secret.

    Figures of many suspects, each changed a little, spell out the key's signs.
    """
    return caller.has("models:write") or (row.with_secret and row.token_id == caller.token_id)
