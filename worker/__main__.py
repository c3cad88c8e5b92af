"""Start a worker, as ``celery --app worker.app worker`` does.

    python -P -m worker --concurrency 1

The user's own files in the working folder have no say. Celery's command puts that folder first on Python's path while it
imports the application, and would take a ``worker.py`` there for it.
"""

import sys

import worker.tasks  # noqa: F401  # before Celery imports it in that way
from worker.app import app

if __name__ == "__main__":
    app.worker_main(["worker", *sys.argv[1:]])
