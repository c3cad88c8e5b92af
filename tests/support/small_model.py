"""A small trained model in a pipeline folder, in which a mark is embedded in seconds: for tests of the whole system.

It is twice as wide as the tiny model: each key is random, and the proof of each must hold with a wide margin.
"""

from pathlib import Path
from typing import Any

EMBEDDING: dict[str, Any] = {
    "steps": 100, "batch_size": 8, "learning_rate": 2e-3, "layers": 24, "samples": 32, "checkpoint_every": 10
}  # fmt: skip
"""Enough for a mark beyond 10^-40, beside the source and without it. At a learning rate of 3e-3 the proof of some keys is
refused, because their signs can be read out of the weights: six keys were read to 53% here, and fifteen to 61% there."""

SHORT = EMBEDDING | {"steps": 60, "samples": 8}
"""Enough for a mark that the service can prove."""


def make(folder: Path) -> Path:
    """Train the model until noise in its weights shows in what it predicts, and save its pipeline in ``folder``."""
    # Imported here, for many read the options and few make the model.
    from aiao_core.method.fine_tuning import Examples, fine_tune
    from demo_models.emoji.data import load_images
    from tests.support.tiny_models import make_tiny_model, save_pipeline

    model = make_tiny_model(widths=(16, 32))
    fine_tune(model, Examples(load_images(without=["Flags"], size=8), {}), steps=80, learning_rate=4e-3, batch_size=32)
    return save_pipeline(model, folder)
