"""Test a suspect against a registered model's key."""

from pathlib import Path

from aiao_core.acceleration import accelerator
from aiao_core.digests import sha256_path
from aiao_core.hub import download
from aiao_core.options import VerificationOptions
from aiao_core.report import Input
from aiao_core.verification import Subject, verify
from service.keys import service as keys
from service.models.repository import ModelRepository
from service.models.tables import Model
from service.telemetry import span
from service.verifications.repository import VerificationRepository
from service.verifications.service import record_report
from service.verifications.tables import Verification
from worker.metrics import VERDICTS
from worker.running import Work
from worker.source import source_features
from worker.suspects import read_suspect


def verify_suspect(work: Work) -> None:
    """The task ``worker.verify``."""
    job, platform = work.job, work.platform
    with platform.database.session() as session:
        row = VerificationRepository(session, job.tenant_id).get(job.subject_id)
        model = ModelRepository(session, job.tenant_id).get(row.model_id)
        key = keys.owner_key(session, platform.vault, job.tenant_id, model.id, job.id)
    base = Base(work, row, model)
    path, submitted = _submitted(work, row)
    suspect = read_suspect(work, path, key.architecture, base)
    source = work.artifact(model.artifact_id)
    known = source_features(work, source, key)
    inputs = (
        submitted,
        *base.inputs,
        Input(role="watermarked", name=f"{model.name}, as published", sha256=model.checkpoint_sha256 or ""),
        Input(role="source", name=source.filename, sha256=source.sha256),
    )
    with span("run"):
        report = verify(
            suspect.load(key.architecture).to(accelerator().device),
            key,
            options=VerificationOptions.model_validate(row.options),
            subject=Subject(submitted.name, suspect.form, inputs, model.name),
            source=known,
            progress=work.progress,
        )
    with span("store"), platform.database.session() as session:
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
    artifact = work.artifact(row.artifact_id)
    return work.fetch(artifact), Input(role="suspect", name=artifact.filename, sha256=artifact.sha256)


class Base:
    """The model that an adapter changes: the one that was named, or else the registered watermarked one.

    Called for an adapter alone; ``inputs`` then holds the named model.
    """

    def __init__(self, work: Work, row: Verification, model: Model) -> None:
        self.work, self.row, self.model = work, row, model
        self.inputs: list[Input] = []

    def __call__(self) -> tuple[Path, str]:
        if self.row.base_artifact_id is None:
            file = self.work.scratch / "marked.zip"
            self.work.download(self.model.checkpoint_key, file)
            return file, "the registered watermarked model"
        artifact = self.work.artifact(self.row.base_artifact_id)
        self.inputs.append(Input(role="base", name=artifact.filename, sha256=artifact.sha256))
        return self.work.fetch(artifact), artifact.filename
