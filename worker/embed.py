"""Embed a watermark in a registered model, prove that it can be found, and store the marked checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from aiao_core.errors import EmbeddingFailed
from aiao_core.formats.digests import sha256_file
from aiao_core.key import OwnerKey
from aiao_core.method.embedding import embed
from aiao_core.options import EmbeddingOptions
from aiao_core.proof import prove
from aiao_core.reports.parts import BitTest
from aiao_core.reports.verdicts import finds
from aiao_core.verification.measurement import know_source
from service.jobs.leases import LeaseLost
from service.keys import service as keys
from service.kit.telemetry import span
from service.models import service as models
from service.models.repository import ModelRepository
from service.tables.models import Model
from worker.confined import examples_for, read_model, read_source, write_marked
from worker.panel import others, seed_of, test_on
from worker.running import Work
from worker.training_state import TrainingState


def embed_model(work: Work) -> None:
    """The task ``worker.embed``."""
    job, context = work.job, work.context
    with context.database.session() as session:
        row = ModelRepository(session, job.tenant_id).get(job.subject_id)
        seed = keys.seed_of(session, context.vault, job.tenant_id, row.id, job.id)
    state = TrainingState(context.storage, job.id, work.scratch)
    options = EmbeddingOptions.model_validate(row.options)
    pipeline = work.fetch(work.artifact(row.artifact_id))
    images = work.fetch(work.artifact(row.images_artifact_id)) if row.images_artifact_id else None
    model = read_model(pipeline, work=work)()
    examples = examples_for(model, pipeline, images, options, work=work)
    with span("run"):
        embedding = embed(model, seed, examples=examples, options=options, store=state, progress=work.progress)
    weights = work.scratch / "marked.safetensors"
    save_file({name: value.cpu().contiguous() for name, value in model.denoiser.state_dict().items()}, weights)
    archive = write_marked(pipeline, weights, work=work)
    _store(work, row, embedding.key, _prove(work, row, embedding.key, archive), archive)


@span("prove")
def _prove(work: Work, row: Model, key: OwnerKey, archive: Path) -> tuple[BitTest, ...]:
    """Prove the mark of the checkpoint as it was packed, and try the key on other models.

    Returns the key's tests on other models, none of which it may find.
    """

    @span("read source")
    def source() -> nn.Module:
        return read_source(work.fetch(work.artifact(row.artifact_id)), key.architecture, work=work)

    report = prove(read_model(archive, work=work), key, source=source, progress=work.progress)
    seed = seed_of(key, report.source_weights or "")
    known = know_source(source(), key, seed, weights=report.source_weights)
    tests = tuple(test_on(denoiser, key, seed, known) for denoiser in others(work, row, key))
    if any(map(finds, tests)):
        raise EmbeddingFailed(
            "the key is found in a model that it never marked, so it can prove nothing; register the model again"
        )
    return tests


@span("store")
def _store(work: Work, row: Model, key: OwnerKey, panel: Sequence[BitTest], archive: Path) -> None:
    """Checkpoint, key and the job's end become visible together, or the checkpoint goes again.

    If the database breaks off in the midst of it, nobody knows which: the checkpoint stays, for the collection of garbage.
    """
    object_name = f"marked/{row.id}-{work.lease.attempt}.zip"
    work.context.storage.put(object_name, archive)
    checkpoint = models.Checkpoint(object_name, sha256_file(archive), archive.stat().st_size)
    try:
        with work.context.database.session() as session:
            work.lease.succeed(session, f"/v1/models/{row.id}")
            models.mark_ready(session, work.context.vault, row.tenant_id, row.id, key, panel, checkpoint)
    except LeaseLost:
        work.context.storage.delete(object_name)
        raise
