"""The figures of one worker, for Prometheus, at AIAO_METRICS_PORT of the process that runs its tasks."""

import sys

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from service.settings import Settings

JOB_SECONDS = Histogram(
    "aiao_job_seconds",
    "How long attempts at jobs took, by kind and how they ended",
    ["kind", "outcome"],
    buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000),
)
VERDICTS = Counter("aiao_verdicts", "Verdicts of verifications", ["verdict"])
GPU_BYTES = Gauge("aiao_gpu_memory_bytes", "Largest GPU memory that the last job took")


def serve(settings: Settings) -> None:
    """Answer Prometheus, if the settings name a port."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port)


def note_gpu_memory() -> None:
    """After a job, keep the largest GPU memory that torch took, and count from zero again."""
    torch = sys.modules.get("torch")  # a job that did without it took none
    if torch and torch.cuda.is_available():
        GPU_BYTES.set(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
