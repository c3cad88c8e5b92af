"""Run one attempt at a job: take the lease, keep it, end it. In every case the scratch folder goes and the worker stays."""

import errno
import logging
import math
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import InterfaceError, OperationalError

from aiao_core.errors import AiaoError
from aiao_core.formats.archives import DISK_FULL, Limits
from aiao_core.progress import Progress
from service.artifacts.repository import ArtifactRepository
from service.context import Context
from service.jobs.job_ended import discard_training_state
from service.jobs.leases import CancelRequested, Lease, LeaseLost
from service.jobs.repository import LeaseRepository
from service.jobs.service import FINAL
from service.kit import telemetry
from service.kit.database import Database
from service.kit.logs import bound
from service.tables.artifacts import Artifact
from service.tables.jobs import Job
from service.vault.key_encryption import VaultError
from worker.metrics import JOB_SECONDS, note_gpu_memory
from worker.scratch import scratch_folder, without_folders
from worker.settings import own_settings

logger = logging.getLogger(__name__)

STOPPING = threading.Event()
"""Set in a worker's process that has to stop."""

TRANSIENT_ERRORS = (OperationalError, InterfaceError, BaseError, VaultError)
"""The database, the storage or the key service does not answer: by no fault of the job."""

ARTIFACT_ID = re.compile(r"\bart_\w+")

OUT_OF_MEMORY = {
    "code": "out-of-memory",
    "detail": "the worker, or its GPU, has not the memory that this job needs; for an embedding choose a smaller batch_size or "
    "gradient_checkpointing, or ask the operator for a larger worker",
}


class WorkerStopping(Exception):
    """This worker has to stop; another one goes on with the job."""


class Work:
    """The things that a task may use: job, context, scratch folder, and the lease that its progress keeps checking."""

    def __init__(self, context: Context, job: Job, lease: Lease, scratch: Path) -> None:
        self.context, self.job, self.lease, self.scratch = context, job, lease, scratch
        self.pace = Pace()
        self.filenames: dict[str, str] = {}
        """Of the artifacts that were fetched, by id: what the client calls the files."""
        self.limits = Limits(total_bytes=context.settings.max_unpacked_bytes)

    def artifact(self, artifact_id: str) -> Artifact:
        with self.context.database.read_session() as session:
            return ArtifactRepository(session, self.job.tenant_id).get(artifact_id)

    def fetch(self, artifact: Artifact) -> Path:
        """Return the artifact as a file in the scratch folder, under its id and not the name that the client gave it."""
        path = self.scratch / artifact.id
        self.filenames[artifact.id] = artifact.filename
        if not path.exists():  # what was read is mapped, and must stay as it is
            self.download(artifact.object_name, path)
        return path

    def room(self) -> Path:
        """Make a folder in the scratch folder for one confined child, which may write there alone."""
        return Path(tempfile.mkdtemp(prefix="room-", dir=self.scratch))

    @telemetry.span("fetch")
    def download(self, key: str, file: Path) -> None:
        """Write the object ``key`` to ``file``."""
        self.context.storage.download(key, file)

    def by_clients_names(self, sentence: str) -> str:
        """Return a sentence of an error with the client's names of the files that were fetched, in the place of their ids."""
        renamed = ARTIFACT_ID.sub(lambda match: self.filenames.get(match[0], match[0]), sentence)
        return str(AiaoError(renamed))  # printable, and not too long: a name is the client's word

    def progress(self, progress: Progress) -> None:
        """Keep the figures of a step for the heartbeat, and raise if this attempt should stop. No step costs a query."""
        self.pace.note(progress)
        self.check()

    def check(self) -> None:
        """Raise if this attempt should stop, as the heartbeat found."""
        if STOPPING.is_set():
            raise WorkerStopping
        self.lease.check()


Task = Callable[[Work], None]


class Pace:
    """The latest progress and how long the stage will take at the pace so far."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] | None = None
        self._stage, self._began, self._first = "", 0.0, 0

    def note(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._began, self._first = progress.stage, now, progress.step
            telemetry.event(progress.stage)
        done = progress.step - self._first
        left = (now - self._began) / done * (progress.total - progress.step) if done else None
        self._latest = asdict(progress) | {"seconds_left": left and round(left, 1)}

    def latest(self) -> dict[str, Any] | None:
        return self._latest


def run_next(queue: str, task_of: Callable[[str], Task]) -> None:
    """Run the job whose turn it is in ``queue``, by the task of its kind; other workers may have left none."""
    context = _context()
    settings = context.settings
    if lease := Lease.take_next(context.database, settings.fleet.share_of(queue), settings.lease_seconds):
        run(lease, task_of(lease.job.kind))


def run(lease: Lease, task: Task) -> None:
    """Run ``task`` as an attempt at a job."""
    context, job_id = _context(), lease.job_id
    if context.settings.torch_threads:
        import torch

        torch.set_num_threads(context.settings.torch_threads)
    job, start = lease.job, time.monotonic()
    named: dict[str, Any] = {"job_id": job_id, "tenant_id": job.tenant_id, "attempt": lease.attempt}
    request = {"request_id": job.request_id} if job.request_id else {}
    with (
        bound(**request),
        bound(**named),
        telemetry.span(f"process worker.{job.kind}", SpanKind.CONSUMER, parent=job.traceparent),
    ):
        telemetry.note(kind=job.kind, **named)
        try:
            outcome = _attempt(context, lease, task)
            telemetry.note(outcome=outcome)
            logger.info("%s: %s in attempt %d", job_id, outcome, lease.attempt)
        finally:
            with _ending(job_id):
                if _job(context.database, job_id).state in FINAL:
                    discard_training_state(context.storage, job_id)
        JOB_SECONDS.labels(job.kind, outcome).observe(time.monotonic() - start)
        note_gpu_memory()


def _attempt(context: Context, lease: Lease, task: Task) -> str:
    """Run ``task``, note in the database how it ended, and return that in a word."""
    job_id, settings = lease.job_id, context.settings
    work: Work | None = None
    try:
        with scratch_folder(settings.scratch_dir, job_id) as scratch:
            work = Work(context, lease.job, lease, scratch)
            with _heartbeat(work):
                task(work)
        return "succeeded"
    except LeaseLost:
        return "timed out" if lease.timed_out else "lost its lease"
    except CancelRequested:
        with _ending(job_id):
            lease.cancel()
        return "canceled"
    except WorkerStopping:
        with _ending(job_id):
            lease.release()
            context.dispatcher.notify(lease.job)
        return "handed back"
    except AiaoError as error:
        telemetry.failed(error)
        with _ending(job_id):
            detail = without_folders(str(error), settings.scratch_dir, settings.data_dir)
            lease.fail({"code": error.code, "detail": work.by_clients_names(detail) if work else detail})
        return "refused"
    except Exception as error:
        telemetry.failed(error)
        transient = _is_transient(error)
        logger.exception("%s: attempt %d failed", job_id, lease.attempt)
        if _out_of_memory(error):
            with _ending(job_id):
                lease.fail(OUT_OF_MEMORY)
            return "out of memory"
        what = "could not go on" if transient else "failed"
        detail = f"the worker {what} ({type(error).__name__}); the operator finds the cause in its log under {job_id}"
        with _ending(job_id):
            if transient:
                lease.retry_later(settings.max_attempts, {"code": "worker-lost", "detail": detail})
            else:
                lease.fail({"code": "internal-error", "detail": detail})
        return "interrupted" if transient else "failed"


def _out_of_memory(error: Exception) -> bool:
    """Return whether the machine or its GPU ran out of memory: torch says it in a RuntimeError."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in ("out of memory", "allocate memory"))


def _is_transient(error: Exception) -> bool:
    """Return whether the error is transient: another attempt may succeed."""
    if isinstance(error, OSError):
        return error.errno in (*DISK_FULL, errno.EIO)
    return isinstance(error, TRANSIENT_ERRORS) or "No space left" in str(error)  # as safetensors says it


@contextmanager
def _ending(job_id: str) -> Iterator[None]:
    """End an attempt in the block if its lease holds and everything answers; if not, the reaper finds the job."""
    try:
        yield
    except LeaseLost:
        return
    except TRANSIENT_ERRORS:
        logger.exception("%s: its end cannot be noted", job_id)


def _took_too_long(seconds: float) -> dict[str, str]:
    return {
        "code": "time-limit",
        "detail": f"the job was not done after {seconds:g} seconds, the longest that this service lets one run; use fewer "
        "steps or a smaller model, or ask the operator for more time or a faster worker",
    }


@cache
def _context() -> Context:
    return Context.open(own_settings())


def _job(database: Database, job_id: str) -> Job:
    with database.read_session() as session:
        job = LeaseRepository(session).get(job_id)
    if job is None:
        raise LeaseLost(job_id)
    return job


@contextmanager
def _heartbeat(work: Work) -> Iterator[None]:
    """Renew the lease and write the progress from a thread of its own, also while one step takes long.

    The next step stops if a renewal finds the lease lost or the job canceled. Once the attempt has had its time, the job fails
    here, even in the midst of a step.
    """
    stop, settings = threading.Event(), work.context.settings
    deadline = time.monotonic() + (settings.job_seconds or math.inf)

    def beat() -> None:
        while not stop.wait(settings.heartbeat_seconds):
            try:
                if time.monotonic() > deadline:
                    work.lease.time_out(_took_too_long(settings.job_seconds))
                    return
                if not work.lease.renew(work.pace.latest()):
                    return
            except LeaseLost:
                return
            except Exception:  # the database may be away for a moment; the lease outlives that
                logger.exception("%s: no heartbeat", work.job.id)

    thread = threading.Thread(target=beat, name=f"heartbeat-{work.job.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
