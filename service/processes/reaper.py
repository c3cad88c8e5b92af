"""Queue lost jobs again, dispatch forgotten ones again, and now and then collect garbage.

    python -m service.processes.reaper

A process of its own, and not a Celery beat task: that would wait in the queue behind a long embedding.
"""

import logging
import signal
import threading
import time
from collections import defaultdict
from datetime import timedelta

from service.context import Context
from service.jobs.job_ended import discard_training_state, note_end, record_failure
from service.jobs.repository import LeaseRepository
from service.kit.database import utc_now
from service.kit.logs import configure
from service.kit.queues import GIB
from service.processes.garbage import collect
from service.settings import read_settings
from service.tables.jobs import Job

logger = logging.getLogger(__name__)

GARBAGE_SECONDS = 3600
"""Time between two collections of garbage, in seconds."""

NOTIFY_AGAIN_SECONDS = 30
"""Seconds that a queued job waits before it is dispatched again: its worker may simply be busy."""


def reap(context: Context) -> None:
    """Queue running jobs without a living worker again, up to the limit of attempts, and dispatch jobs that wait too long."""
    now = utc_now()
    lost: list[Job] = []
    forgotten: dict[str, list[Job]] = defaultdict(list)
    with context.database.session() as session:
        leases = LeaseRepository(session)
        for job in leases.to_reap(now, now - timedelta(seconds=NOTIFY_AGAIN_SECONDS)):
            if job.state == "running" and (job.cancel_requested or job.attempts_that_count >= context.settings.max_attempts):
                state = "canceled" if job.cancel_requested else "failed"
                error = None if job.cancel_requested else _worker_lost(job)
                if leases.change(job.id, "running", job.attempt, state=state, error=error, finished_at=now, lease_until=None):
                    record_failure(session, job, error or {"code": "canceled", "detail": "the job was canceled"})
                    discard_training_state(context.storage, job.id)
                    session.refresh(job)
                    note_end(session, job)
                    logger.warning("%s: %s, its worker is gone after attempt %d", job.id, state, job.attempt)
            elif leases.change(job.id, job.state, job.attempt, state="queued", lease_until=None, dispatched_at=now):
                waiting = lost if job.state == "running" else forgotten[context.settings.fleet.queue_for(job.memory_bytes)]
                waiting.append(job)
    # A message that waits wakes a worker for any job: more of them than jobs would fill the broker while workers are busy.
    missing = [job for queue, some in forgotten.items() for job in some[context.dispatcher.waiting(queue) :]]
    for job in lost + missing:
        logger.warning("%s: dispatched again, it was %s after attempt %d", job.id, job.state, job.attempt)
        context.dispatcher.notify(job)


def _worker_lost(job: Job) -> dict[str, str]:
    estimate = f" (its estimate is {job.memory_bytes / GIB:.1f} GiB)" if job.memory_bytes else ""
    return {
        "code": "worker-lost",
        "detail": f"the worker died {job.attempts_that_count} times over this job, perhaps for lack of memory{estimate}; "
        "try smaller options, or ask the operator for a larger worker",
    }


def main() -> None:
    settings = read_settings()
    configure(settings.log_format)
    context = Context.open(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    garbage_at = time.monotonic()
    while not stop.wait(context.settings.reap_seconds):
        try:
            reap(context)
            if time.monotonic() >= garbage_at:
                garbage_at = time.monotonic() + GARBAGE_SECONDS
                collect(context)
        except Exception:  # the database may be away for a while; the next round tries again
            logger.exception("this round failed")
    context.close()


if __name__ == "__main__":
    main()
