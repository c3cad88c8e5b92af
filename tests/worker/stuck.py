"""A worker whose verifications never end and never look whether they should.

celery --app tests.worker.stuck worker
"""

import time

from worker.app import app
from worker.running import Work, run

__all__ = ["app"]


def hang(work: Work) -> None:
    time.sleep(3600)


@app.task(name="worker.verify")
def verify(job_id: str) -> None:
    run(job_id, hang)
