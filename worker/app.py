"""The Celery application.

    celery --app worker.app worker --concurrency 1

It takes jobs from every queue of the settings; ``--queues aiao.gpu`` picks some.

Tasks are acknowledged early on purpose: a broker re-delivers a late-acknowledged task that outlives its visibility timeout, and
an embedding outlives it. The database's lease brings a lost job back instead.
"""

import os
import signal
import sys
import threading
from typing import Any

from celery import Celery
from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)
from kombu import Exchange, Queue

from service.kit import logs, telemetry
from service.kit.kernel import hide_from_others
from service.kit.private_files import keep_new_files_private
from worker.gpu import only_gpu
from worker.sandbox.strength import has_namespaces, lacking
from worker.settings import own_settings

# Threads that wait for each other must not burn the cores meanwhile: where anything else runs on the machine, a training step
# takes several times as long. Read when torch is imported, which happens in the task's process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings = own_settings()
hide_from_others()
keep_new_files_private()

app = Celery("aiao", broker=settings.broker_url, include=["worker.tasks"])
app.conf.update(
    task_default_queue=settings.fleet.names[-1],
    task_queues=[Queue(name, Exchange(name), name) for name in settings.fleet.names],
    task_create_missing_queues=False,  # a worker that listens to an unknown queue is a mistake
    # An attempt that is still in the same step so long after its job has failed for its time will never notice.
    task_time_limit=settings.job_seconds + settings.lease_seconds if settings.job_seconds else None,
    task_ignore_result=True,
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_proc_alive_timeout=300,  # torch is imported meanwhile
)


@celeryd_init.connect
def look_for_the_gpu(**_: Any) -> None:
    if settings.gpu:
        only_gpu()


@celeryd_init.connect
def look_at_the_confinement(**_: Any) -> None:
    """Refuse to read clients' files where an attacker who takes over the reading could do what this worker may."""
    lacks = lacking()
    if lacks and not settings.allow_weak_confinement:
        raise SystemExit(
            f"this system lacks {' and '.join(lacks)}, without which a file of an attacker could take over this worker; start "
            "it on another kernel or, if you trust every client, set AIAO_ALLOW_WEAK_CONFINEMENT=true"
        )
    if lacks or not has_namespaces():
        what = " and ".join(lacks) or "namespaces for unprivileged users"
        print(f"clients' files are read without {what} here: docs/threat-model.md says what that means", file=sys.stderr)  # noqa: T201


@setup_logging.connect
def write_as_the_service_does(**_: Any) -> None:
    logs.configure(settings.log_format)


@worker_process_init.connect
def listen(**_: Any) -> None:
    """In each process that runs tasks: SIGUSR2 means that it must release its job at the next step."""
    from worker.metrics import serve
    from worker.running import STOPPING

    signal.signal(signal.SIGUSR2, lambda *_: STOPPING.set())  # first: until then it would end the process
    serve(settings)
    import worker.audit
    import worker.embed
    import worker.verify  # noqa: F401  # so that no job waits for torch

    telemetry.configure("aiao-worker", settings.credentials)


@worker_process_shutdown.connect
def send_the_last_spans(**_: Any) -> None:
    telemetry.close()


@celeryd_after_setup.connect
def release_in_time(instance: Any, **_: Any) -> None:
    """Told to stop, Celery waits for its tasks, however long they take: after the grace period they release their jobs."""

    def release() -> None:
        for process in instance.pool.info["processes"]:
            os.kill(process, signal.SIGUSR2)

    @worker_shutting_down.connect(weak=False)
    def wait(**_: Any) -> None:
        timer = threading.Timer(settings.grace_seconds, release)
        timer.daemon = True
        timer.start()
