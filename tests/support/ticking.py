"""A worker whose jobs only tick, for tests of what happens to jobs and not in them: it starts without torch, in a second.

    celery --app tests.support.ticking worker

Leases, heartbeats, cancelling, releasing, training checkpoints and the end of a job are the real worker's.
"""

import sys
import time
from types import ModuleType
from typing import Any

from aiao_core.formats.digests import sha256_file
from aiao_core.key import encode_secret
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import Progress
from service.keys import service as keys
from service.kit.telemetry import span
from service.models.repository import ModelRepository
from service.models.service import Checkpoint, mark_ready
from service.verifications.service import counted, record_report
from tests.support.processes import HURRY
from worker.running import Work
from worker.training_state import TrainingState

TICK_SECONDS = 0.02


def embed_model(work: Work) -> None:
    """Count to the steps of the options, and keep the count now and then, from which another attempt goes on."""
    from tests.support.rows import a_key

    job, context = work.job, work.context
    with context.database.session() as session:
        model = ModelRepository(session, job.tenant_id).get(job.subject_id)
        key = a_key(encode_secret(keys.seed_of(session, context.vault, job.tenant_id, model.id, job.id)))
    options, state = EmbeddingOptions.model_validate(model.options), TrainingState(context.storage, job.id, work.scratch)
    count, kept, hurry = work.scratch / "count", state.load(), context.settings.data_dir / HURRY
    with span("run"):
        for step in range(int(kept.read_text()) + 1 if kept else 1, options.steps + 1):
            time.sleep(0 if hurry.exists() else TICK_SECONDS)
            work.progress(Progress("embedding", step, options.steps))
            if step % options.checkpoint_every == 0:
                count.write_text(str(step))
                state.save(count)
    with span("store"):
        count.write_text(str(options.steps))
        name = f"marked/{model.id}-{work.lease.attempt}.zip"
        context.storage.put(name, count)
        with context.database.session() as session:
            work.lease.succeed(session, f"/v1/models/{model.id}")
            checkpoint = Checkpoint(name, sha256_file(count), count.stat().st_size)
            mark_ready(session, context.vault, job.tenant_id, model.id, key, (), checkpoint)


def verify_suspect(work: Work) -> None:
    """Find the mark in every suspect, at once."""
    from tests.support.rows import a_report

    job, report = work.job, a_report()
    with work.context.database.session() as session:
        counts = counted(session, job.tenant_id, job.subject_id, report.suspect_weights)
        record_report(session, job.tenant_id, job.subject_id, report.model_copy(update={"tests": counts}))
        work.lease.succeed(session, f"/v1/verifications/{job.subject_id}")


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


# Where the worker looks for its own tasks. Their modules, and torch, are never imported.
sys.modules["worker.embed"] = _module("worker.embed", embed_model=embed_model)
sys.modules["worker.verify"] = _module("worker.verify", verify_suspect=verify_suspect)
sys.modules["worker.audit"] = _module("worker.audit")

from worker.app import app  # noqa: E402

__all__ = ["app"]
