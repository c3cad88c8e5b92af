"""Test a suspect against a registered model's key."""

from aiao_core.archives import opened
from aiao_core.options import VerificationOptions
from aiao_core.report import Input
from aiao_core.suspects import load_suspect
from aiao_core.verification import Subject, verify
from service.keys import service as keys
from service.models.repository import ModelRepository
from service.verifications.repository import VerificationRepository
from service.verifications.service import record_report
from worker.running import Work


def verify_suspect(work: Work) -> None:
    """The task ``worker.verify``."""
    job, platform = work.job, work.platform
    with platform.database.session() as session:
        row = VerificationRepository(session, job.tenant_id).get(job.subject_id)
        model = ModelRepository(session, job.tenant_id).get(row.model_id)
        key = keys.owner_key(session, platform.vault, job.tenant_id, model.id)
    source = work.artifact(model.artifact_id)
    with opened(work.fetch(work.artifact(row.artifact_id)), work.limits) as path:
        suspect = load_suspect(path, key.architecture)
    inputs = (
        Input(role="suspect", name=row.suspect_name, sha256=row.suspect_sha256),
        Input(role="watermarked", name=f"{model.name}, as published", sha256=model.checkpoint_sha256 or ""),
        Input(role="source", name=source.filename, sha256=source.sha256),
    )
    report = verify(
        suspect.denoiser,
        key,
        options=VerificationOptions.model_validate(row.options),
        subject=Subject(row.suspect_name, suspect.form, inputs, model.name),
        progress=work.progress,
    )
    with platform.database.session() as session:
        record_report(session, job.tenant_id, row.id, report)
        work.lease.succeed(session, f"/v1/verifications/{row.id}")
