"""The inputs of a denoiser that is watermarked: "arbitrary in" (arXiv 2405.00466), without any data if necessary."""

import torch
from torch import Tensor

from aiao_core.denoisers import Conditions, Inputs, family_named, family_of, predict
from aiao_core.denoisers.family import select
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.key import Architecture
from aiao_core.method.fine_tuning import Examples, draw_noise, draw_timesteps, noised
from aiao_core.progress import Progress, ProgressCallback, silent

PLAIN_NOISE = 0.5
"""Fraction of the inputs that are plain noise under random conditions, as in verification, instead of noised examples."""

SAMPLING_STEPS = 20
SAMPLING_BATCH = 64


def plain_noise(architecture: Architecture, num_train_timesteps: int, count: int, generator: torch.Generator) -> Inputs:
    """Draw ``count`` inputs that need only the architecture: noise, uniform timesteps, random conditions."""
    family, config = family_named(architecture.class_name), architecture.config
    return Inputs(
        noisy=draw_noise((count, *family.monte_carlo_shape(config)), generator),
        timesteps=draw_timesteps(count, num_train_timesteps, generator),
        conditions=family.random_conditions(config, count, generator),
    )


def arbitrary_inputs(model: DiffusionModel, examples: Examples, count: int, generator: torch.Generator) -> Inputs:
    """Draw ``count`` inputs for ``model``: noised ``examples``, and for a fraction plain noise under random conditions.

    If verification draws smaller inputs than the examples, or conditions of another length, a batch holds one kind only.
    """
    example, _ = noised(model.schedule, examples.draw(count, generator), generator)
    plain = plain_noise(model.architecture, model.schedule.num_train_timesteps, count, generator)
    chosen = torch.rand(count, generator=generator) < PLAIN_NOISE
    if _shapes(plain) != _shapes(example):
        return plain if chosen[0] else example
    return Inputs(
        _where(chosen, plain.noisy, example.noisy),
        example.timesteps,
        {name: _where(chosen, value, example.conditions[name]) for name, value in plain.conditions.items()},
    )


def measuring_inputs(model: DiffusionModel, examples: Examples, count: int, generator: torch.Generator) -> Inputs:
    """Draw ``count`` inputs of verification's size to measure features on: a large model's own size would be expensive."""
    if examples.clean.shape[1:] == family_of(model.denoiser).monte_carlo_shape(model.architecture.config):
        return arbitrary_inputs(model, examples, count, generator)
    return plain_noise(model.architecture, model.schedule.num_train_timesteps, count, generator)


def own_samples(
    model: DiffusionModel,
    conditions: Conditions,
    *,
    count: int,
    seed: int,
    steps: int = SAMPLING_STEPS,
    progress: ProgressCallback = silent,
) -> Tensor:
    """Draw ``count`` clean images or latents (count, C, *positions) from the model under ``conditions`` (count, ...)."""
    generator = torch.Generator().manual_seed(seed)
    family, config = family_of(model.denoiser), model.architecture.config
    shape, tokens = family.shape(config), family.tokens(config)
    batches = -(-count // SAMPLING_BATCH)
    finished: list[Tensor] = []
    for start in range(0, count, SAMPLING_BATCH):
        rows = slice(start, min(start + SAMPLING_BATCH, count))
        sample = draw_noise((rows.stop - start, *shape), generator)
        sampler = model.schedule.sampler(steps, tokens)  # a new one: a flow's counts its steps and does not start over
        length = len(sampler.timesteps)
        for number, timestep in enumerate(sampler.timesteps):
            with torch.no_grad():
                inputs = Inputs(sample, timestep.expand(len(sample)), select(conditions, rows))
                prediction = predict(model.denoiser, inputs).to(sample.device)
            sample = sampler.step(prediction, timestep, sample).prev_sample
            progress(Progress("samples", len(finished) * length + number + 1, batches * length))
        finished.append(sample)
    return torch.cat(finished)


def _shapes(inputs: Inputs) -> list[torch.Size]:
    return [inputs.noisy.shape, *(inputs.conditions[name].shape for name in sorted(inputs.conditions))]


def _where(chosen: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (first.dim() - 1)), first, second)
