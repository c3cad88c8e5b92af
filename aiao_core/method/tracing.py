"""Look inside a denoiser: capture the output of named layers, edit it, stop early, and always unhook.

    with trace(denoiser, capture=["mid_block.attentions.0.to_q"], stop=True) as features:
        denoiser(noisy, timesteps)
    features["mid_block.attentions.0.to_q"]  # (B, positions, C)

Everything else in this library sees features through this module. The idea of one context manager that keeps, edits and
stops is that of ``baukit.nethook`` (Bau 2022).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.errors import TracingError
from aiao_core.key import Layer

Edit = Callable[[Tensor], Tensor]

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class _Stop(Exception):
    """A way out of the forward pass once the last wanted feature is there; never seen outside this module."""


@contextmanager
def trace(
    denoiser: nn.Module,
    *,
    capture: Collection[str] = (),
    edit: Mapping[str, Edit] | None = None,
    stop: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Hook layers for the forward passes inside the ``with`` block and yield their outputs by name.

    ``capture`` names the layers whose output is kept: (B, C, *positions) of a convolution, (B, *positions, C) of a linear
    layer. ``edit`` replaces the output of a layer by a function of it before the network goes on (and before it is
    captured). With ``stop`` the block is left as soon as every captured layer has run, so nothing may follow the forward
    pass inside it. The hooks are removed however the block ends. Raises :class:`TracingError` for a layer that does not exist.
    """
    edit = edit or {}
    features: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            if name in edit:
                output = edit[name](output)
            if name in capture:
                features[name] = output
                if stop and len(features) == len(capture):
                    raise _Stop
            return output

        return hook

    handles = []
    try:
        for name in {*capture, *edit}:
            handles.append(_submodule(denoiser, name).register_forward_hook(hook_for(name)))
        yield features
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()


def eligible_layers(denoiser: nn.Module, inputs: Inputs) -> list[Layer]:
    """List the layers that a key may use, in execution order (definitions of the method, this project).

    A layer is a convolution or an ``nn.Linear`` that runs exactly once in a forward pass, on every input and at positions, and
    whose output depends on the noisy input: time and text embeddings do not. The first and the last such layer, which read x_t
    and write the prediction, are left out. Found by two passes over ``inputs`` and over other noise in the same conditions,
    never by names.
    Raises :class:`TracingError` if fewer than two layers remain.
    """
    dependent = [layer for layer, depends in positional_layers(denoiser, inputs) if depends]
    if len(dependent) < 4:
        raise TracingError(
            f"{type(denoiser).__name__} has {len(dependent)} convolution or linear layers that depend on its input; "
            "the method needs at least 4. Is this the denoiser, and not another part of the pipeline?"
        )
    return dependent[1:-1]


def positional_layers(denoiser: nn.Module, inputs: Inputs) -> list[tuple[Layer, bool]]:
    """List every layer that runs exactly once in a forward pass, on every input and at positions, in execution order.

    Which these are follows from the architecture alone. Beside each: whether its output depends on the noisy input, which the
    weights have a say in.
    """
    runs: list[list[tuple[str, Tensor]]] = []
    modules = {name: module for name, module in denoiser.named_modules() if isinstance(module, Convolution | nn.Linear)}
    with torch.no_grad():
        for batch in (inputs, replace(inputs, noisy=inputs.noisy.flip(0).neg())):
            order: list[tuple[str, Tensor]] = []
            handles = [
                module.register_forward_hook(lambda _m, _i, output, name=name, order=order: order.append((name, output)))
                for name, module in modules.items()
            ]
            try:
                predict(denoiser, batch)
            finally:
                for handle in handles:
                    handle.remove()
            runs.append(order)
    names = [name for name, _ in runs[0]]
    return [
        (Layer(name=name, channels=first.shape[channel_axis(modules[name])]), not torch.equal(first, second))
        for (name, first), (_, second) in zip(*runs, strict=True)
        if names.count(name) == 1 and first.dim() > 2 and len(first) == len(inputs)
    ]


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of the channels in a layer's output: 1 after a convolution, -1 after a linear layer."""
    return 1 if isinstance(layer, Convolution) else -1


def check_layers(denoiser: nn.Module, layers: Collection[Layer]) -> None:
    """Raise :class:`TracingError` unless ``denoiser`` has every layer of a key with its number of channels."""
    for layer in layers:
        module = _submodule(denoiser, layer.name)
        channels = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
        if channels != layer.channels:
            raise TracingError(
                f"layer {layer.name} has {channels} channels, but the key was made for {layer.channels}; "
                "this checkpoint is of another size than the registered model"
            )


def _submodule(denoiser: nn.Module, name: str) -> nn.Module:
    try:
        return denoiser.get_submodule(name)
    except AttributeError:
        raise TracingError(
            f"{type(denoiser).__name__} has no layer named {name}; this checkpoint is of another architecture "
            "than the registered model"
        ) from None
