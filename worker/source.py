"""The source of a registered model: the model before the watermark, a control of every test."""

from torch import nn

from aiao_core.formats.suspects import load_source as load
from aiao_core.key import Architecture
from aiao_core.method.acceleration import accelerator
from service.kit.telemetry import span
from service.tables.artifacts import Artifact
from worker.running import Work


@span("read source")
def load_source(work: Work, source: Artifact, like: Architecture) -> nn.Module:
    """Load the denoiser of a registered model's source."""
    return load(work.fetch(source), like, work.limits).to(accelerator().device)
