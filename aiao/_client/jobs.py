"""Embeddings, verifications and audits under way."""

from collections.abc import Callable, Iterator

from aiao._client.documents import AuditStart, Job, Registration, Submission, read
from aiao._client.errors import ClientError, JobCanceled, JobFailed
from aiao._client.stopping import check_stopped, pause
from aiao._client.transport import RECONNECT_SECONDS, Retries, Transport

HasJob = str | Job | Registration | Submission | AuditStart
"""A job, its identifier, or the answer of a call that started one."""


class Jobs:
    """Jobs of the service: every registration, verification and audit starts one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Job]:
        """Yield all jobs, newest first."""
        return self._transport.list("/v1/jobs", Job)

    def get(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return read(Job, self._transport.get(f"/v1/jobs/{job_id}").content)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a queued one at once, a running one at its next step. One that has ended stays as it is."""
        return read(Job, self._transport.post(f"/v1/jobs/{job_id}/cancel").content)

    def wait(self, job: HasJob, *, progress: Callable[[Job], None] | None = None) -> Job:
        """Follow a job until it has succeeded, and return it. ``progress`` is called with the job now and at every change.

        Raises :class:`JobFailed` with the job's error, :class:`JobCanceled`, and whatever ``progress`` raises, which ends the
        wait and not the job.
        """
        for latest in self.follow(job):
            if progress:
                progress(latest)
        if latest.state == "canceled":
            raise JobCanceled(f"{latest.id} was canceled")
        if latest.error:
            raise JobFailed(latest.error.code, latest.error.detail)
        return latest

    def follow(self, job: HasJob) -> Iterator[Job]:
        """Yield a job now and at every change until it has ended, however often the connection breaks.

        Raises :class:`ClientError` if the service stays away for about five minutes.
        """
        job_id, retries = _id_of(job), Retries()
        while True:
            try:
                for latest in self._events(job_id):
                    retries.progressed()
                    yield latest
                    if latest.finished:
                        return
                pause(RECONNECT_SECONDS)  # the service ended the stream, as it does when it stops
            except ClientError as error:
                retries.wait(error)

    def _events(self, job_id: str) -> Iterator[Job]:
        with self._transport.stream(f"/v1/jobs/{job_id}/events") as answer:
            for line in answer.iter_lines():
                check_stopped()
                if line.startswith("data:"):
                    yield read(Job, line.removeprefix("data:"))


def _id_of(job: HasJob) -> str:
    if isinstance(job, str):
        return job
    return job.id if isinstance(job, Job) else job.job.id
