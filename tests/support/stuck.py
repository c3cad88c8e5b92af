"""A worker whose verifications never end and never look whether they should.

celery --app tests.support.stuck worker
"""

import time
from typing import Any

from celery.signals import worker_process_init

from worker.app import app
from worker.running import Work

__all__ = ["app"]


def hang(work: Work) -> None:
    time.sleep(3600)


@worker_process_init.connect
def verify_for_ever(**_: Any) -> None:
    import worker.verify

    worker.verify.verify_suspect = hang
