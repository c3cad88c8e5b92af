"""A registered model's source: the model before the watermark, a control of every test and what tells moved channels."""

from torch import nn

from aiao_core.formats.archives import opened
from aiao_core.formats.pipelines import load_model
from aiao_core.method.acceleration import accelerator
from service.kit.telemetry import span
from service.tables.artifacts import Artifact
from worker.running import Work


@span("read source")
def load_source(work: Work, source: Artifact) -> nn.Module:
    """The denoiser of a registered model's source."""
    with opened(work.fetch(source), work.limits) as folder:
        return load_model(folder).denoiser.to(accelerator().device)
