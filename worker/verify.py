"""Test a suspect against a registered model's key."""

from functools import partial

from aiao_core.errors import AdapterWithoutBase
from aiao_core.options import VerificationOptions
from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.parts import Input
from aiao_core.reports.verification import Counts
from aiao_core.verification.examine import Material, ServiceRecord, examine
from service.keys import service as keys
from service.kit.telemetry import span
from service.models.repository import ModelRepository
from service.tables.verifications import Verification
from service.verifications.repository import VerificationRepository
from service.verifications.service import counted, record_report
from worker.confined import read_source, read_suspect
from worker.metrics import VERDICTS
from worker.running import Work


def verify_suspect(work: Work) -> None:
    """Run the task ``worker.verify``."""
    job, context = work.job, work.context
    with context.database.session() as session:
        row = VerificationRepository(session, job.tenant_id).get(job.subject_id)
        model = ModelRepository(session, job.tenant_id).get(row.model_id)
        key = keys.owner_key(session, context.vault, job.tenant_id, model.id, job.id)
        panel = keys.panel_of(session, job.tenant_id, model.id)

    def count(suspect_weights: str) -> Counts:
        with context.database.session() as session:
            return counted(session, job.tenant_id, row.id, suspect_weights)

    published = Input(role="watermarked", name=f"{model.name}, as published", sha256=model.checkpoint_sha256 or "")
    try:
        report = examine(
            _suspect(work, row),
            key,
            base=_artifact(work, row.base_artifact_id) if row.base_artifact_id else None,
            source=_artifact(work, model.artifact_id),
            record=ServiceRecord(model.name, published, panel, count),
            read=partial(read_suspect, work=work),
            read_source=partial(read_source, work=work),
            limits=work.limits,
            # Of what a request from before the rules asked for, a stricter limit alone is kept.
            options=VerificationOptions(max_log10_p=min(row.options["max_log10_p"], LIMIT_LOG10_P)),
            progress=work.progress,
            span=span,
        )
    except AdapterWithoutBase as error:
        raise AdapterWithoutBase(
            "the suspect is an adapter, which changes a base model: submit it again with base_artifact_id, the model that it "
            "was made for; it is never merged into the owner's marked model, in which every adapter matches"
        ) from error
    with span("store"), context.database.session() as session:
        record_report(session, job.tenant_id, row.id, report)
        work.lease.succeed(session, f"/v1/verifications/{row.id}")
    VERDICTS.labels(report.verdict).inc()


def _suspect(work: Work, row: Verification) -> Material:
    if row.hub is None:
        return _artifact(work, row.artifact_id or "")
    with span("fetch"):
        return Material.from_hub(row.hub, work.scratch / "hub", max_bytes=work.limits.total_bytes, progress=work.progress)


def _artifact(work: Work, artifact_id: str) -> Material:
    artifact = work.artifact(artifact_id)
    return Material(artifact.filename, partial(work.fetch, artifact), artifact.sha256)
