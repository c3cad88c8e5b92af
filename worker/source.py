"""What a registered model's source tells a test."""

from aiao_core.acceleration import accelerator
from aiao_core.alignment import Reference, reference
from aiao_core.archives import opened
from aiao_core.checkpoints import load_model
from aiao_core.key import OwnerKey
from service.artifacts.tables import Artifact
from service.telemetry import span
from worker.running import Work


@span("read source")
def source_features(work: Work, source: Artifact, key: OwnerKey) -> Reference:
    """What permuted channels are recognised by. The source itself goes again: a verification holds one model at a time."""
    with opened(work.fetch(source), work.limits) as folder:
        return reference(load_model(folder).denoiser.to(accelerator().device), key)
