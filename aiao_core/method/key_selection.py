"""Choose a new key's layers, by the key among all or the lazy ones, and the subpaths that the trigger reaches (this project).

Nothing here depends on the response signs or on how well a response was learned: the exact test rests on that.
"""

from collections.abc import Sequence

import torch

from aiao_core.denoisers import family_of
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.weights import digest
from aiao_core.derivation import choose_layers
from aiao_core.errors import EmbeddingFailed
from aiao_core.key import Layer, OwnerKey
from aiao_core.method.fine_tuning import Examples, randomly_conditioned
from aiao_core.method.inputs import measuring_inputs
from aiao_core.method.lazy import laziest, probe, relative_changes, synthetic_images
from aiao_core.method.subpaths import Subpaths, all_subpaths, reach, spanning, widest
from aiao_core.method.tracing import eligible_layers
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import ProgressCallback, silent
from aiao_core.protocol import LIMIT_LOG10_P, VERSION
from aiao_core.statistics import MAX_READINGS, log10_binomial_tail

REACH_SHARE = 0.2
"""Fraction of the subpaths, widest reach first, that carry the watermark."""

PROBE_IMAGES = 256
REACH_INPUTS = 8


def select_key(
    model: DiffusionModel,
    seed: bytes,
    examples: Examples,
    options: EmbeddingOptions,
    progress: ProgressCallback = silent,
    *,
    beacon: str | None = None,
) -> OwnerKey:
    """Select the owner key of ``seed`` (32 bytes) for ``model``, the source, and bind it to the model's weights.

    ``examples`` make the inputs on which the reach is measured; the probe uses synthetic examples. ``beacon`` is a public
    random value, as :class:`aiao_core.key.Binding` has it. Raises :class:`EmbeddingFailed` if no subpath is left,
    or too few bits for any suspect to be a match.
    """
    generator = torch.Generator().manual_seed(options.seed)
    inputs = measuring_inputs(model, examples, REACH_INPUTS, generator)
    eligible = eligible_layers(model.denoiser, inputs[:2])
    chosen = choose_layers(seed, candidate_layers(model, eligible, options, progress), options.layers)
    layers = tuple(layer for layer in eligible if layer.name in chosen)

    def key_with(subpaths: Subpaths) -> OwnerKey:
        return OwnerKey(seed, model.architecture, model.schedule.num_train_timesteps, layers, subpaths)

    usable = spanning(key_with(all_subpaths(len(layers))), [layer.name for layer in eligible])
    subpaths = widest(reach(model.denoiser, key_with(usable), inputs, progress=progress), REACH_SHARE)
    if not subpaths:
        raise EmbeddingFailed(
            f"none of the {len(layers)} layers of the key reaches another one; ask for more layers or a larger lazy_fraction"
        )
    key = key_with(subpaths).bound(digest(model.denoiser.state_dict()), VERSION, beacon)
    if log10_binomial_tail(key.bits, key.bits, MAX_READINGS) > LIMIT_LOG10_P:
        raise EmbeddingFailed(
            f"the key has {key.bits} bits: so few prove nothing at log10 p {LIMIT_LOG10_P:.1f}, were all of them right; ask "
            f"for more layers than {options.layers} or a larger lazy_fraction"
        )
    return key


def candidate_layers(
    model: DiffusionModel, eligible: Sequence[Layer], options: EmbeddingOptions, progress: ProgressCallback
) -> list[str]:
    """List the layers that a key may choose from, in execution order: the laziest, by a short fine-tuning, or all."""
    if options.lazy_fraction == 1:
        return [layer.name for layer in eligible]
    examples = synthetic_examples(model, options.seed)
    tuned = probe(model, examples, steps=options.probe_steps, seed=options.seed, progress=progress)
    return laziest(relative_changes(model.denoiser, tuned, eligible), options.lazy_fraction)


def synthetic_examples(model: DiffusionModel, seed: int) -> Examples:
    """Make the built-in probe set: soft shapes of the model's size and channels, under random conditions."""
    channels, *size = family_of(model.denoiser).monte_carlo_shape(model.architecture.config)
    shapes = synthetic_images(PROBE_IMAGES, size=tuple(size), channels=channels, seed=seed)
    return randomly_conditioned(model.denoiser, shapes, seed)
