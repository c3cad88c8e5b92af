"""The paper's figures about lazy layers on the shipped model (arXiv 2405.00466, Fig. 2 and Fig. 3).

    python -m benchmarks.lazy_layers [--steps 800] [--rate 2e-4]

Fine-tunes the model on "Animals & Nature", writes `benchmarks/results/lazy_layers.html`, and prints how well the short probe on
synthetic images, which an owner's embedding uses, foresees the lazy layers of this real fine-tuning.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.pipelines import load_model
from aiao_core.key import Layer
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import arbitrary_inputs
from aiao_core.method.key_selection import synthetic_examples
from aiao_core.method.lazy import Swap, change_density, laziest, probe, relative_changes, swap_experiment
from aiao_core.method.tracing import eligible_layers
from aiao_core.options import EmbeddingOptions
from aiao_core.reports.lazy_page import CHANGE_EDGES, to_html
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class FineTunedLayers:
    """What a fine-tuning does to each layer, by its name in execution order."""

    layers: list[Layer]
    changes: dict[str, float]
    """Relative, of each layer's weight."""
    densities: dict[str, NDArray[np.float64]]
    """Of the changes of single weights over :data:`CHANGE_EDGES` (Fig. 2)."""
    swaps: list[Swap]
    """How much of the fine-tuning k layers carry (Fig. 3)."""


def fine_tuned_layers(model: DiffusionModel, examples: Examples, *, steps: int, rate: float, seed: int = 0) -> FineTunedLayers:
    """Fine-tune a copy of ``model`` on ``examples`` at the learning rate ``rate`` and measure its layers."""
    inputs = arbitrary_inputs(model, examples, 64, torch.Generator().manual_seed(0))
    layers = eligible_layers(model.denoiser, inputs[:2])
    tuned = probe(model, examples, steps=steps, learning_rate=rate, seed=seed)
    counts = sorted({*range(0, len(layers) + 1, 5), len(layers)})
    return FineTunedLayers(
        layers,
        relative_changes(model.denoiser, tuned, layers),
        change_density(model.denoiser, tuned, layers, CHANGE_EDGES.tolist()),
        swap_experiment(model.denoiser, tuned, layers, counts, inputs=inputs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rate", type=float, default=2e-4)
    arguments = parser.parse_args()

    model, examples = load_model(MODEL), Examples(load_images(only=[THIEF_CATEGORY]), {})
    measured = fine_tuned_layers(model, examples, steps=arguments.steps, rate=arguments.rate)
    layers, changes, swaps = measured.layers, measured.changes, measured.swaps

    RESULTS.mkdir(exist_ok=True)
    page = RESULTS / "lazy_layers.html"
    title = f"The emoji model after {arguments.steps} steps of fine-tuning at {arguments.rate:g}"
    page.write_text(to_html(title, changes, measured.densities, swaps), encoding="utf-8")

    options = EmbeddingOptions()
    probed = relative_changes(
        model.denoiser,
        probe(model, synthetic_examples(model, options.seed), steps=options.probe_steps, seed=options.seed),
        layers,
    )
    lazy, foreseen = (set(laziest(found, 0.5)) for found in (changes, probed))
    print(f"{len(layers)} layers; relative change {min(changes.values()):.4f} to {max(changes.values()):.4f}")
    for swap in swaps:
        print(f"k = {swap.count:2d}  {swap.choice:8s} {swap.reproduced:6.1%}")
    print(f"lazy half foreseen by the probe: {len(lazy & foreseen)} of {len(lazy)} layers; ", end="")
    rank = spearmanr([changes[layer.name] for layer in layers], [probed[layer.name] for layer in layers])
    print(f"rank correlation {rank.statistic:.2f}")
    print(f"figures: {page}")


if __name__ == "__main__":
    main()
