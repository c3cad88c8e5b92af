"""A small trained model in a pipeline folder, in which a mark is embedded in seconds: for tests of the whole system.

It is four times as wide as the tiny model, and a key has fewer layers than there: each key is random, and a match and the proof
of each must hold with a wide margin.
"""

from pathlib import Path
from typing import Any

EMBEDDING: dict[str, Any] = {
    "steps": 200, "batch_size": 8, "learning_rate": 1.5e-3, "layers": 16, "samples": 32, "checkpoint_every": 10
}  # fmt: skip
"""Enough for a mark beyond 10^-40, beside the source and without it. Of five keys 80% of the bits and more were right, and from
the weights 58% and less could be read; with half the steps a key in ten comes near a limit."""


def make(folder: Path) -> Path:
    """Train the model until noise in its weights shows in what it predicts, and save its pipeline in ``folder``."""
    # Imported here, for many read the options and few make the model.
    from aiao_core.method.fine_tuning import Examples, fine_tune
    from demo_models.emoji.data import load_images
    from tests.support.tiny_models import make_tiny_model, save_pipeline

    model = make_tiny_model(widths=(32, 64))
    fine_tune(model, Examples(load_images(without=["Flags"], size=8), {}), steps=80, learning_rate=4e-3, batch_size=32)
    return save_pipeline(model, folder)
