"""Attempts at a job in the process of the test."""

from collections.abc import Callable

from service.jobs.leases import Lease
from worker import running
from worker.running import Work


def run(job_id: str, task: Callable[[Work], None]) -> None:
    """Run ``task`` as a worker does, as the next attempt at this job, if it is queued."""
    context = running._context()
    lease = Lease.take(context.database, job_id, context.settings.lease_seconds)
    if lease:
        running.run(lease, task)
