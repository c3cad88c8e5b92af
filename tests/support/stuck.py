"""A ticking worker whose verifications never end and never look whether they should.

celery --app tests.support.stuck worker
"""

import sys
import time

from tests.support.ticking import app
from worker.running import Work

__all__ = ["app"]


def hang(work: Work) -> None:
    time.sleep(3600)


sys.modules["worker.verify"].verify_suspect = hang  # type: ignore[attr-defined]
