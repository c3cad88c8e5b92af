"""Wake a worker, because a job waits. The database decides which one is next; the reaper repeats a message that gets lost."""

import logging
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError
from opentelemetry.trace import SpanKind

from service.kit.queues import Fleet
from service.kit.telemetry import span

logger = logging.getLogger(__name__)


class Waiting(Protocol):
    """A job that waits in the database."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def memory_bytes(self) -> int | None: ...


class Dispatcher:
    """A Celery producer that knows its tasks only by name, so that the API needs nothing of the worker."""

    def __init__(self, broker_url: str, fleet: Fleet) -> None:
        self._celery = Celery(broker=broker_url, set_as_current=False)
        self._celery.conf.update(
            broker_connection_timeout=2,
            broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 5, "max_retries": 1},
        )
        self._fleet = fleet

    def notify(self, job: Waiting) -> None:
        """Send the job to the queue whose workers have the memory that it needs."""
        try:
            with span(f"send worker.{job.kind}", SpanKind.PRODUCER):
                self._celery.send_task(
                    f"worker.{job.kind}",
                    args=[job.id],
                    queue=self._fleet.queue_for(job.memory_bytes),
                    retry=False,
                    ignore_result=True,
                )
        except (OperationalError, OSError) as error:
            logger.warning("the broker did not take %s: %s. The reaper will send it again", job.id, error)

    def waiting(self, queue: str) -> int:
        """Count the messages of a queue that no worker has taken yet; 0 if the broker cannot say."""
        try:
            with self._celery.connection_for_read() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue, passive=True).message_count)
        except Exception:  # there is no such queue yet, or the broker is away
            return 0

    def ping(self) -> None:
        """Raise if the broker does not answer."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)

    def close(self) -> None:
        self._celery.close()
