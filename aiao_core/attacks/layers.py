"""The layers that attacks change."""

import torch
from torch import nn

from aiao_core.attacks.thief import Thief
from aiao_core.key import Layer
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import Convolution, eligible_layers

Weighted = Convolution | nn.Linear


def weighted_layers(denoiser: nn.Module) -> list[Weighted]:
    """List every convolution and linear layer, time and text embeddings too: layers found without a run of the model."""
    return [module for module in denoiser.modules() if isinstance(module, Weighted)]


def key_layers(thief: Thief) -> list[Layer]:
    """List the layers that an owner's key may use, in execution order: tracing them takes the model alone."""
    model = thief.model
    inputs = plain_noise(model.architecture, model.schedule.num_train_timesteps, 2, torch.Generator().manual_seed(0))
    return eligible_layers(model.denoiser, inputs)


def modules_of(denoiser: nn.Module, layers: list[Layer]) -> list[Weighted]:
    """Look up the modules of ``layers``."""
    named = dict(denoiser.named_modules())
    return [module for layer in layers if isinstance(module := named[layer.name], Weighted)]
