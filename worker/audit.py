"""Audit a registered model: attack its watermarked checkpoint, and test what each attack leaves."""

from aiao_core.attacks.audit import AuditSubject, audit
from aiao_core.attacks.catalogue import CATALOGUE, PRESETS
from aiao_core.audit_options import AuditOptions
from aiao_core.options import EmbeddingOptions
from aiao_core.reports.audit import AttackResult, AuditInput
from service.audits.repository import AuditRepository
from service.audits.service import record_report, record_result
from service.keys import service as keys
from service.kit.telemetry import span
from service.models.repository import ModelRepository
from service.tables.audits import Audit
from service.tables.models import Model
from worker.confined import examples_for, read_model, read_source
from worker.running import Work


def audit_model(work: Work) -> None:
    """The task ``worker.audit``."""
    job, context = work.job, work.context
    with context.database.session() as session:
        row = AuditRepository(session, job.tenant_id).get(job.subject_id)
        registered = ModelRepository(session, job.tenant_id).get(row.model_id)
        key = keys.owner_key(session, context.vault, job.tenant_id, registered.id, job.id)
    source = work.artifact(registered.artifact_id)
    images = work.artifact(row.images_artifact_id) if row.images_artifact_id else None
    published = work.scratch / "marked.zip"
    work.download(registered.checkpoint_object or "", published)
    model = read_model(published, work=work)()
    given = work.fetch(images) if images else None
    examples = examples_for(model, published, given, _drawing(row, registered), work=work)

    def keep(result: AttackResult) -> None:
        with context.database.session() as session:
            record_result(session, job.tenant_id, row.id, result)

    inputs = [
        AuditInput(role="watermarked", name=f"{registered.name}, as published", sha256=registered.checkpoint_sha256 or ""),
        AuditInput(role="source", name=source.filename, sha256=source.sha256),
    ]
    if images:
        inputs.append(AuditInput(role="images", name=images.filename, sha256=images.sha256))
    with span("read source"):
        original = read_source(work.fetch(source), key.architecture, work=work)
    with span("run"):
        report = audit(
            model,
            key,
            examples,
            [CATALOGUE[attack] for attack in row.attacks or PRESETS[row.preset or ""]],
            options=AuditOptions.model_validate(row.options),
            subject=AuditSubject(registered.name, tuple(inputs)),
            source=original,
            finished=[AttackResult.model_validate(result) for result in row.results.values()],
            keep=keep,
            progress=work.progress,
        )
    with span("store"), context.database.session() as session:
        record_report(session, job.tenant_id, row.id, report)
        work.lease.succeed(session, f"/v1/audits/{row.id}")


def _drawing(row: Audit, registered: Model) -> EmbeddingOptions:
    """Without the owner's images the thief's data are as many samples of the model as its embedding drew."""
    samples = EmbeddingOptions.model_validate(registered.options).samples
    return EmbeddingOptions(samples=samples, seed=row.options["seed"])
