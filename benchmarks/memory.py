"""Estimates of a job's memory (aiao_core/sizing.py) against what is counted and measured.

    python -m benchmarks.memory

Activations are counted on tensors without memory: the full-size models of benchmarks/full_size.py and the small ones of
benchmarks/steps.py, at the sizes they are made for. An embedding step of the small models is measured, in a process of its own.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aiao_core import sizing
from aiao_core.denoisers import Inputs, family_named, predict
from aiao_core.key import Architecture
from aiao_core.options import EmbeddingOptions
from aiao_core.sizing import DenoiserSize
from benchmarks.full_size import MODELS
from benchmarks.steps import RANDOM, SHIPPED, SIDE, chosen_key, embedding_steps, measured, model_named, status_bytes

TOKENS = 128
BATCH = 8
STEPS = 2


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"a process that has imported all that a worker's does: {measured(_worker) / 1e9:.2f} GB\n")
    print("activations of one sample in a training step, in bytes for each position and each square root of a parameter")
    print(f"{'model':18s} {'parameters':>10s}  {'counted':>7s}  {'estimate':>8s}  {'checkpointed':>12s}  {'estimate':>8s}")
    for name, architecture in _architectures():
        size, counted = _counted(architecture, checkpointing=False)
        _, checkpointed = _counted(architecture, checkpointing=True)
        estimate = sizing.activation_bytes(architecture.class_name)
        print(
            f"{name:18s} {size / 1e6:8.1f} M  {counted:7.1f}  {estimate:8d}  {checkpointed:12.1f}  "
            f"{estimate / sizing.CHECKPOINTED:8.1f}",
            flush=True,
        )
    print(f"\nembedding steps in batches of {BATCH}: weights, optimizer and activations, without the process")
    for name in (*SHIPPED, *RANDOM):
        found, estimate = _measured(name)
        print(f"{name:18s}  measured {found / 1e6:6.0f} MB  estimate {estimate / 1e6:6.0f} MB", flush=True)


def _worker() -> float:
    import worker.audit
    import worker.embed
    import worker.verify  # noqa: F401

    return status_bytes("VmHWM")


def _architectures() -> Iterator[tuple[str, Architecture]]:
    for name, full in MODELS.items():
        yield name, Architecture(class_name=full.class_name, config=full.config)
    for name in (*SHIPPED, *RANDOM):
        yield name, model_named(name).architecture


def _counted(architecture: Architecture, *, checkpointing: bool) -> tuple[int, float]:
    """The number of parameters, and what the backward pass of one sample more has to keep."""
    few, many = (_kept(architecture, batch, checkpointing=checkpointing) for batch in (1, 3))
    _, *positions = family_named(architecture.class_name).shape(architecture.config)
    return few[0], (many[1] - few[1]) / 2 / math.prod(positions) / few[0] ** 0.5


def _kept(architecture: Architecture, batch: int, *, checkpointing: bool) -> tuple[int, int]:
    """The number of parameters, and the bytes that are kept of a batch."""
    family = family_named(architecture.class_name)
    random = family.random_conditions(architecture.config, batch, torch.Generator().manual_seed(0))
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        denoiser: Any = family.denoiser.from_config(architecture.config).train()  # type: ignore[attr-defined]
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        conditions = {name: torch.zeros(_captioned(name, value), dtype=value.dtype) for name, value in random.items()}
        noisy = torch.zeros(batch, *family.shape(denoiser.config))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            predict(denoiser, Inputs(noisy, torch.zeros(batch, dtype=torch.long), conditions))
        weights = {parameter.untyped_storage()._cdata for parameter in denoiser.parameters()}
        size = sum(parameter.numel() for parameter in denoiser.parameters())
        return size, sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)


def _captioned(name: str, value: torch.Tensor) -> tuple[int, ...]:
    """The shape of a condition with captions of their full length."""
    batch, *rest = value.shape
    return (batch, TOKENS, *rest[1:]) if name == "encoder_hidden_states" else (batch, *rest)


def _measured(name: str) -> tuple[float, float]:
    model = model_named(name)
    parameters = sum(value.numel() for value in model.denoiser.parameters())
    _, height, width = family_named(model.architecture.class_name).shape(model.architecture.config)
    positions = min(height, SIDE) * min(width, SIDE)
    options = EmbeddingOptions(batch_size=BATCH)
    estimate = sizing.of_embedding(DenoiserSize(model.architecture.class_name, parameters, positions, 0), options) or 0
    cost = measured(embedding_steps, name, measured(chosen_key, name), BATCH, STEPS, "all")
    return 4 * parameters + cost.memory, float(estimate - sizing.PROCESS_BYTES)


if __name__ == "__main__":
    main()
