"""Liveness, readiness and figures, for an operator's monitoring."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from service.auth.dependencies import ContextDep
from service.jobs.repository import LeaseRepository
from service.kit.database import utc_now
from service.kit.errors import NotReady, responses

router = APIRouter(tags=["health"])


class Metrics:
    """The figures of one API process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "aiao_request_seconds", "Answered requests and their time", ["method", "route", "status"], registry=self.registry
        )
        labels = ["kind", "state", "queue"]
        self.jobs = Gauge("aiao_jobs", "Unfinished jobs by kind, state and queue", labels, registry=self.registry)
        self.oldest = Gauge(
            "aiao_oldest_job_seconds",
            "Age of the oldest unfinished job by kind, state and queue",
            labels,
            registry=self.registry,
        )


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:  # which waits for no thread that other requests have
    return Health()


@router.get("/readyz", summary="Do database, broker and storage answer?", responses=responses(503))
def readyz(context: ContextDep) -> Health:
    """503 names the part that does not answer."""
    checks: dict[str, Callable[[], None]] = {
        "database": context.database.ping,
        "broker": context.dispatcher.ping,
        "storage": context.storage.ping,
    }
    for name, check in checks.items():
        try:
            check()
        except Exception as error:
            raise NotReady(f"the {name} does not answer ({type(error).__name__})") from error
    return Health()


METRICS = Metrics()


def count_answer(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answer of this process, and the time until it began."""
    METRICS.requests.labels(method, route, status).observe(seconds)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(context: ContextDep) -> Response:
    """Answered requests of this process, and unfinished jobs by kind, state and queue."""
    with context.database.read_session() as session:
        unfinished = LeaseRepository(session).unfinished()
    counts: Counter[tuple[str, str, str]] = Counter()
    oldest: dict[tuple[str, str, str], datetime] = {}
    for kind, state, memory_bytes, count, created_at in unfinished:
        labels = kind, state, context.settings.fleet.queue_for(memory_bytes)
        counts[labels] += count
        oldest[labels] = min(created_at, oldest.get(labels, created_at))
    for gauge in (METRICS.jobs, METRICS.oldest):
        gauge.clear()
    for labels, count in counts.items():
        METRICS.jobs.labels(*labels).set(count)
        METRICS.oldest.labels(*labels).set((utc_now() - oldest[labels]).total_seconds())
    return Response(generate_latest(METRICS.registry), media_type=CONTENT_TYPE_LATEST)
