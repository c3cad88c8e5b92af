"""Memory and speed of the embedding, so that full-size models fit: accelerate, bf16, 8-bit AdamW, an offloaded source."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from accelerate import Accelerator, cpu_offload
from accelerate.state import AcceleratorState
from torch import nn

from aiao_core.errors import EmbeddingFailed
from aiao_core.key import OwnerKey
from aiao_core.options import EmbeddingOptions


def accelerator(precision: Literal["fp32", "bf16"] = "fp32") -> Accelerator:
    """Return accelerate's view of the machine: its device, and the arithmetic of the training."""
    AcceleratorState._reset_state(reset_partial_state=True)  # the last job's precision may differ
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")


def frozen_source(denoiser: nn.Module, machine: Accelerator, options: EmbeddingOptions) -> nn.Module:
    """Copy ``denoiser`` for the targets of the training: never trained, in bf16 if the arithmetic is."""
    source = copy.deepcopy(denoiser).requires_grad_(False).eval()
    if options.precision == "bf16":
        source.to(torch.bfloat16)  # what autocast would compute with
    if options.offload_source:
        cpu_offload(source, execution_device=machine.device)
    else:
        source.to(machine.device)
    return source


def trained_parameters(denoiser: nn.Module, key: OwnerKey, options: EmbeddingOptions) -> list[nn.Parameter]:
    """Unfreeze and return the parameters that the embedding trains; freeze all others."""
    denoiser.requires_grad_(False)
    modules: Sequence[nn.Module] = [denoiser]
    if options.train == "key-layers":
        modules = [denoiser.get_submodule(layer.name) for layer in key.layers]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def make_optimizer(parameters: Sequence[nn.Parameter], options: EmbeddingOptions) -> torch.optim.Optimizer:
    """Make an AdamW (Loshchilov and Hutter 2019), fused, or with its state in 8 bits (Dettmers et al. 2022).

    Raises :class:`EmbeddingFailed` if the options ask for 8 bits and bitsandbytes is not installed.
    """
    settings: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": 0}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise EmbeddingFailed(
            "the optimizer adamw-8bit needs bitsandbytes, which this worker lacks; install it there, or use adamw"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **settings)
    return optimizer
