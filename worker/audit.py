"""Audit a registered model: attack its watermarked checkpoint, and test what each attack leaves."""

from pathlib import Path

from aiao_core.attacks.audit import AuditSubject, audit
from aiao_core.attacks.catalogue import CATALOGUE, PRESETS
from aiao_core.audit_options import AuditOptions
from aiao_core.data.owner_data import draw_examples, load_examples
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.archives import opened
from aiao_core.formats.pipelines import load_model
from aiao_core.method.acceleration import accelerator
from aiao_core.method.fine_tuning import Examples
from aiao_core.options import EmbeddingOptions
from aiao_core.reports.audit import AttackResult, AuditInput
from service.audits.repository import AuditRepository
from service.audits.service import record_report, record_result
from service.keys import service as keys
from service.kit.telemetry import span
from service.models.repository import ModelRepository
from service.tables.artifacts import Artifact
from service.tables.audits import Audit
from service.tables.models import Model
from worker.running import Work
from worker.source import load_source


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
    with opened(published, work.limits) as folder:
        model = load_model(folder)
        model.denoiser.to(accelerator().device)
        with span("examples"):
            examples = _examples(work, folder, model, row, registered, images)

    def keep(result: AttackResult) -> None:
        with context.database.session() as session:
            record_result(session, job.tenant_id, row.id, result)

    inputs = [
        AuditInput(role="watermarked", name=f"{registered.name}, as published", sha256=registered.checkpoint_sha256 or ""),
        AuditInput(role="source", name=source.filename, sha256=source.sha256),
    ]
    if images:
        inputs.append(AuditInput(role="images", name=images.filename, sha256=images.sha256))
    with span("run"):
        report = audit(
            model,
            key,
            examples,
            [CATALOGUE[attack] for attack in row.attacks or PRESETS[row.preset or ""]],
            options=AuditOptions.model_validate(row.options),
            subject=AuditSubject(registered.name, tuple(inputs)),
            source=load_source(work, source, key.architecture),
            finished=[AttackResult.model_validate(result) for result in row.results.values()],
            keep=keep,
            progress=work.progress,
        )
    with span("store"), context.database.session() as session:
        record_report(session, job.tenant_id, row.id, report)
        work.lease.succeed(session, f"/v1/audits/{row.id}")


def _examples(
    work: Work, folder: Path, model: DiffusionModel, row: Audit, registered: Model, images: Artifact | None
) -> Examples:
    """The thief's data: the owner's images, or as many samples of the model as its embedding drew."""
    if images:
        return load_examples(folder, model, work.fetch(images), work.limits)
    samples = EmbeddingOptions.model_validate(registered.options).samples
    return draw_examples(folder, model, EmbeddingOptions(samples=samples, seed=row.options["seed"]), work.progress)
