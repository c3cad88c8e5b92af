"""The tasks. Torch is imported in the task's process only, so that the parent stays small and forks cleanly.

A message names a task and a job, for workers of older versions. Here it wakes a worker, which runs the job whose turn it is in
the message's queue.
"""

from typing import Any

from worker.app import app
from worker.running import Task, run_next


@app.task(name="worker.embed", bind=True)
def embed(self: Any, job_id: str) -> None:
    """Run the next job."""
    _wake(self)


@app.task(name="worker.audit", bind=True)
def audit(self: Any, job_id: str) -> None:
    """Run the next job."""
    _wake(self)


@app.task(name="worker.verify", bind=True)
def verify(self: Any, job_id: str) -> None:
    """Run the next job."""
    _wake(self)


def _wake(task: Any) -> None:
    # Before a job is taken: a worker that cannot do it must leave it to others.
    import worker.audit
    import worker.embed
    import worker.verify  # noqa: F401

    run_next(task.request.delivery_info["routing_key"], _task_of)


def _task_of(kind: str) -> Task:
    """Return what does a job of this kind."""
    if kind == "embed":  # embed a registered model's watermark
        from worker.embed import embed_model

        return embed_model
    if kind == "audit":  # attack a registered model and test what is left
        from worker.audit import audit_model

        return audit_model
    from worker.verify import verify_suspect  # test a suspect

    return verify_suspect
