"""The layers that fine-tuning leaves alone (arXiv 2405.00466, Fig. 2 and Fig. 3).

Fine-tuning changes a few busy layers much and most layers hardly. A short probe fine-tuning on data other than the owner's
tells them apart; the paper's watermark goes into the lazy ones.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.key import Layer
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.progress import ProgressCallback, silent


def probe(
    model: DiffusionModel,
    examples: Examples,
    *,
    steps: int,
    learning_rate: float = 2e-4,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> nn.Module:
    """Return a copy of ``model.denoiser`` after ``steps`` steps of fine-tuning on ``examples``."""
    tuned = copy.deepcopy(model.denoiser)
    fine_tune(
        replace(model, denoiser=tuned),
        examples,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=min(16, len(examples)),
        seed=seed,
        stage="probe",
        progress=progress,
    )
    return tuned


def synthetic_images(count: int, *, size: tuple[int, ...], channels: int, seed: int) -> Tensor:
    """Draw the built-in probe set: soft random shapes on plain grounds, (count, channels, *size) float32 in [-1, 1]."""
    random = np.random.Generator(np.random.PCG64(seed))
    axes, plain = len(size), (channels, *[1] * len(size))
    grid = [places / length for places, length in zip(np.indices(size), size, strict=True)][::-1]  # columns first
    images = np.empty((count, channels, *size))
    for image in images:
        image[:] = random.uniform(-1, 1, plain)
        for _ in range(3):
            drawn = random.uniform([0] * axes + [0.1] * axes, [1] * axes + [0.5] * axes)
            parts = zip(grid, drawn[:axes], drawn[axes:], strict=True)
            distance = sum(((places - center) / radius) ** 2 for places, center, radius in parts)
            cover = 1 / (1 + np.exp(np.clip(8 * (distance - 1), -50, 50)))
            image += cover * (random.uniform(-1, 1, plain) - image)
    return torch.from_numpy(images).float()


def relative_changes(source: nn.Module, tuned: nn.Module, layers: Sequence[Layer]) -> dict[str, float]:
    """Return ``||W' - W||_F / ||W||_F`` of every layer's weight, by name (the measure is this project's)."""
    changes = {}
    for layer in layers:
        before, after = _weight(source, layer.name), _weight(tuned, layer.name)
        changes[layer.name] = float((after - before).norm() / before.norm().clamp_min(1e-12))
    return changes


def laziest(changes: dict[str, float], fraction: float) -> list[str]:
    """List the ``fraction`` of the layers with the least relative change (at least two), in the order of ``changes``."""
    count = max(2, round(len(changes) * fraction))
    lazy = set(sorted(changes, key=lambda name: changes[name])[:count])
    return [name for name in changes if name in lazy]


def change_density(
    source: nn.Module, tuned: nn.Module, layers: Sequence[Layer], edges: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """Return the density of the changes of single weights, per layer (Fig. 2).

    A change is ``|w' - w|`` in units of the root mean square weight of its layer; the result has, for each of the
    ``len(edges) - 1`` bins, the fraction of the layer's weights that fall in it.
    """
    densities = {}
    for layer in layers:
        before, after = _weight(source, layer.name), _weight(tuned, layer.name)
        change = (after - before).abs() / before.square().mean().sqrt().clamp_min(1e-12)
        counts, _ = np.histogram(change.cpu().numpy(), bins=np.asarray(edges))
        densities[layer.name] = counts / change.numel()
    return densities


@dataclass(frozen=True)
class Swap:
    """The part of the fine-tuned behavior that ``count`` layers carry: 1 is all of it, 0 none (Fig. 3)."""

    choice: str
    count: int
    reproduced: float


def swap_experiment(
    source: nn.Module,
    tuned: nn.Module,
    layers: Sequence[Layer],
    counts: Sequence[int],
    *,
    inputs: Inputs,
    seed: int = 0,
) -> list[Swap]:
    """Copy k layers of the fine-tuned model into its source and compare the predictions (Fig. 3).

    For each k of ``counts``: the k busiest, k random and the k laziest layers. Reproduced is
    ``1 - ||eps_swapped - eps_tuned||^2 / ||eps_source - eps_tuned||^2`` over ``inputs``;
    parameters outside ``layers`` (norms, embeddings, first and last layer) stay the source's.
    """
    changes = relative_changes(source, tuned, layers)
    lazy_first = sorted(changes, key=lambda name: changes[name])
    shuffled = np.random.default_rng(seed).permutation(lazy_first).tolist()
    with torch.no_grad():
        target = predict(tuned, inputs)
        distance = (predict(source, inputs) - target).square().mean()
        swaps = []
        for count in counts:
            for choice, names in (
                ("busiest", lazy_first[len(lazy_first) - count :]),
                ("random", shuffled[:count]),
                ("laziest", lazy_first[:count]),
            ):
                error = (predict(swap(source, tuned, names), inputs) - target).square().mean()
                swaps.append(Swap(choice, count, float(1 - error / distance)))
    return swaps


def swap(source: nn.Module, tuned: nn.Module, names: Collection[str]) -> nn.Module:
    """Return a copy of ``source`` with the weights and biases of the layers ``names`` taken from ``tuned``."""
    swapped = copy.deepcopy(source)
    for name in names:
        swapped.get_submodule(name).load_state_dict(tuned.get_submodule(name).state_dict())
    return swapped


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(f"{name}.weight").detach().float()
