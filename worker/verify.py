"""Test a suspect against a registered model's key."""

from pathlib import Path

from aiao_core.errors import AdapterWithoutBase
from aiao_core.formats.digests import sha256_path
from aiao_core.formats.hub import download
from aiao_core.options import VerificationOptions
from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.parts import Input
from aiao_core.verification.verify import Subject, verify
from service.keys import service as keys
from service.kit.telemetry import span
from service.models.repository import ModelRepository
from service.tables.verifications import Verification
from service.verifications.repository import VerificationRepository
from service.verifications.service import counted, record_report
from worker.metrics import VERDICTS
from worker.running import Work
from worker.source import load_source
from worker.suspects import read_suspect


def verify_suspect(work: Work) -> None:
    """The task ``worker.verify``."""
    job, context = work.job, work.context
    with context.database.session() as session:
        row = VerificationRepository(session, job.tenant_id).get(job.subject_id)
        model = ModelRepository(session, job.tenant_id).get(row.model_id)
        key = keys.owner_key(session, context.vault, job.tenant_id, model.id, job.id)
        panel = keys.panel_of(session, job.tenant_id, model.id)
    base = Base(work, row)
    path, submitted = _submitted(work, row)
    suspect = read_suspect(work, path, key.architecture, base)
    with context.database.session() as session:
        counts = counted(session, job.tenant_id, row.id, suspect.weights)
    source = work.artifact(model.artifact_id)
    inputs = (
        submitted,
        *base.inputs,
        Input(role="watermarked", name=f"{model.name}, as published", sha256=model.checkpoint_sha256 or ""),
        Input(role="source", name=source.filename, sha256=source.sha256),
    )
    with span("run"):
        report = verify(
            suspect.load,
            key,
            subject=Subject(
                submitted.name, suspect.form, inputs, model.name, suspect.base_name, suspect.weights, counts, panel
            ),
            source=lambda: load_source(work, source),
            base=suspect.load_base if suspect.base_name else None,
            registration="service",
            # Of what a request from before the rules asked for, a stricter limit alone is kept.
            options=VerificationOptions(max_log10_p=min(row.options["max_log10_p"], LIMIT_LOG10_P)),
            progress=work.progress,
        )
    with span("store"), context.database.session() as session:
        record_report(session, job.tenant_id, row.id, report)
        work.lease.succeed(session, f"/v1/verifications/{row.id}")
    VERDICTS.labels(report.verdict).inc()


def _submitted(work: Work, row: Verification) -> tuple[Path, Input]:
    """The suspect's file or folder, and its name and digest for the report."""
    if row.hub is not None:
        folder = work.scratch / "hub"
        with span("fetch"):
            name = download(row.hub, folder, max_bytes=work.limits.total_bytes, progress=work.progress)
        return folder, Input(role="suspect", name=name, sha256=sha256_path(folder))
    artifact = work.artifact(row.artifact_id or "")
    return work.fetch(artifact), Input(role="suspect", name=artifact.filename, sha256=artifact.sha256)


class Base:
    """The model that an adapter changes, as the client named it. Called for an adapter alone; ``inputs`` then holds it."""

    def __init__(self, work: Work, row: Verification) -> None:
        self.work, self.row = work, row
        self.inputs: list[Input] = []

    def __call__(self) -> tuple[Path, str]:
        if self.row.base_artifact_id is None:
            raise AdapterWithoutBase(
                "the suspect is an adapter, which changes a base model: submit it again with base_artifact_id, the model that "
                "it was made for; it is never merged into the owner's marked model, in which every adapter matches"
            )
        artifact = self.work.artifact(self.row.base_artifact_id)
        self.inputs.append(Input(role="base", name=artifact.filename, sha256=artifact.sha256))
        return self.work.fetch(artifact), artifact.filename
