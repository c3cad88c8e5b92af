"""Liveness, readiness and figures for an operator's monitoring."""

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from service.database import utc_now
from service.errors import NotReady, responses
from service.jobs.repository import LeaseRepository
from service.tokens.dependencies import PlatformDep

router = APIRouter(tags=["health"])


class Metrics:
    """The figures of one API process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "aiao_request_seconds", "Answered requests and their time", ["method", "route", "status"], registry=self.registry
        )
        self.jobs = Gauge("aiao_jobs", "Unfinished jobs by kind and state", ["kind", "state"], registry=self.registry)
        self.oldest = Gauge(
            "aiao_oldest_job_seconds",
            "Age of the oldest unfinished job by kind and state",
            ["kind", "state"],
            registry=self.registry,
        )


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Is the process alive?")
def healthz() -> Health:
    return Health()


@router.get("/readyz", summary="Do database, broker and storage answer?", responses=responses(503))
def readyz(platform: PlatformDep) -> Health:
    """503 names the part that does not answer."""
    checks: dict[str, Callable[[], None]] = {
        "database": platform.database.ping,
        "broker": platform.doorbell.ping,
        "storage": platform.storage.ping,
    }
    for name, check in checks.items():
        try:
            check()
        except Exception as error:
            raise NotReady(f"the {name} does not answer ({type(error).__name__})") from error
    return Health()


METRICS = Metrics()


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(platform: PlatformDep) -> Response:
    """Answered requests of this process, and unfinished jobs by kind and state."""
    with platform.database.reading() as session:
        unfinished = LeaseRepository(session).unfinished()
    for gauge in (METRICS.jobs, METRICS.oldest):
        gauge.clear()
    for kind, state, count, oldest in unfinished:
        METRICS.jobs.labels(kind, state).set(count)
        METRICS.oldest.labels(kind, state).set((utc_now() - oldest).total_seconds())
    return Response(generate_latest(METRICS.registry), media_type=CONTENT_TYPE_LATEST)
