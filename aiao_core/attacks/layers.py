"""The layers that attacks change."""

import torch
from torch import nn

from aiao_core.attacks.thief import Thief
from aiao_core.key import Layer
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import eligible_layers

Weighted = nn.Conv2d | nn.Linear


def weighted_layers(denoiser: nn.Module) -> list[Weighted]:
    """Every convolution and linear layer, time and text embeddings too: what a thief changes who looks at weights alone."""
    return [module for module in denoiser.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def key_layers(thief: Thief) -> list[Layer]:
    """The layers that an owner's key may use, in the order in which they run: everybody who has the model can trace them."""
    model = thief.model
    inputs = plain_noise(model.architecture, model.schedule.num_train_timesteps, 2, torch.Generator().manual_seed(0))
    return eligible_layers(model.denoiser, inputs)


def modules_of(denoiser: nn.Module, layers: list[Layer]) -> list[Weighted]:
    """The modules of ``layers``."""
    named = dict(denoiser.named_modules())
    return [module for layer in layers if isinstance(module := named[layer.name], nn.Conv2d | nn.Linear)]
