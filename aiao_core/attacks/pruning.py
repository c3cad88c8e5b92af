"""Pruning: of small weights, of small channels, and of channels that the thief's data leaves silent."""

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from aiao_core.attacks.layers import Weighted, key_layers, modules_of, weighted_layers
from aiao_core.attacks.thief import Thief
from aiao_core.denoisers import predict
from aiao_core.method.fine_tuning import fine_tune, noised
from aiao_core.method.tracing import channel_axis, trace

ACTIVITY_EXAMPLES = 64
"""Noised examples on which a channel's activity is measured."""


def magnitude_pruning(thief: Thief, *, share: float) -> nn.Module:
    """Set the ``share`` of each layer's weights with the least magnitude to zero (Han et al. 2015).

    Layer by layer rather than over the whole model, because a layer of small weights would vanish.
    """
    pruned = thief.copy().denoiser
    for layer in weighted_layers(pruned):
        flat = layer.weight.data.view(-1)
        flat[flat.abs().argsort()[: round(share * len(flat))]] = 0
    return pruned


def structured_pruning(thief: Thief, *, share: float) -> nn.Module:
    """Set the ``share`` of each layer's output channels whose weights have the least L1 norm to zero (Li et al. 2017).

    The shapes stay, so that the result is still a checkpoint of its architecture. The layers are those that a key may use.
    """
    pruned = thief.copy().denoiser
    for module in modules_of(pruned, key_layers(thief)):
        _silence(module, _least(module.weight.data.flatten(1).abs().sum(1), share))
    return pruned


def fine_pruning(thief: Thief, *, share: float, steps: int, learning_rate: float) -> nn.Module:
    """Silence the ``share`` of each layer's channels that are least active on the thief's data, then fine-tune the others.

    Liu et al. (2018) prune the last convolution of a classifier; here it is every layer that a key may use.
    """
    model = thief.copy()
    layers = key_layers(thief)
    hooks = []
    with thief.seeded() as generator:
        inputs, _ = noised(model.schedule, thief.examples.draw(ACTIVITY_EXAMPLES, generator), generator)
        with torch.no_grad(), trace(model.denoiser, capture=[layer.name for layer in layers], stop=True) as features:
            predict(model.denoiser, inputs)
        for layer, module in zip(layers, modules_of(model.denoiser, layers), strict=True):
            activity = features[layer.name].abs().movedim(channel_axis(module), 0).flatten(1).mean(1)
            channels = _least(activity, share)
            _silence(module, channels)
            for parameter in module.parameters():
                hooks.append(_keep_at_zero(parameter, channels))
        fine_tune(model, thief.examples, steps=steps, learning_rate=learning_rate, seed=thief.seed, progress=thief.progress)
    for hook in hooks:
        hook.remove()
    return model.denoiser


def _least(values: Tensor, share: float) -> Tensor:
    """Return the indices of the least ``share`` of ``values`` (C,)."""
    return values.argsort()[: round(share * len(values))]


def _silence(module: Weighted, channels: Tensor) -> None:
    """Make a layer output zero at ``channels``."""
    module.weight.data[channels] = 0
    if module.bias is not None:
        module.bias.data[channels] = 0


def _keep_at_zero(parameter: nn.Parameter, channels: Tensor) -> RemovableHandle:
    """Block the gradient of ``channels`` of a parameter until the hook is removed."""
    parameter.requires_grad_(True)  # a hook needs it
    hook: RemovableHandle = parameter.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: gradient.index_fill(0, channels, 0)
    )
    return hook
