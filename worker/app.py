"""The Celery application.

    celery --app worker.app worker --concurrency 1 --queues aiao

Tasks are acknowledged early on purpose: a broker re-delivers a late-acknowledged task that outlives its visibility timeout, and
an embedding outlives it. The database's lease brings a lost job back instead.
"""

import os

from celery import Celery

from service.settings import Settings

# Threads that wait for each other must not burn the cores meanwhile: where anything else runs on the machine, a training step
# takes several times as long. Read when torch is imported, which happens in the task's process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings = Settings()

app = Celery("aiao", broker=settings.broker_url, include=["worker.tasks"])
app.conf.update(
    task_default_queue=settings.queue,
    task_ignore_result=True,
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)
