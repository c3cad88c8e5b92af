"""What one embedding step costs against one plain fine-tuning step of the same batch, on every family of denoisers.

    python -m benchmarks.steps [--batch 8] [--steps 4] [--train all key-layers]

The shipped models, and models of the other families with random weights, some 5 to 30 M parameters each. Time is the mean of
the two kinds of steps where they differ: noised examples at the model's size, and plain noise at verification's size. Memory is
the growth of the process's peak over the loaded model. Each measurement is a process of its own.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from aiao_core.denoisers import Inputs, family_named, family_of
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import Diffusion, RectifiedFlow
from aiao_core.formats.pipelines import load_model
from aiao_core.key import Architecture, OwnerKey
from aiao_core.method.embedding import Training
from aiao_core.method.fine_tuning import Examples, fine_tune, randomly_conditioned
from aiao_core.method.inputs import plain_noise
from aiao_core.method.key_selection import select_key
from aiao_core.options import EmbeddingOptions

EXAMPLES = Path(__file__).parent.parent / "demo_models"
FLOWS = ("SD3Transformer2DModel", "FluxTransformer2DModel")
UNET: dict[str, Any] = {
    "sample_size": 32,
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [64, 128, 192],
    "cross_attention_dim": 128,
    "attention_head_dim": 8,
}
TRANSFORMER: dict[str, Any] = {"num_attention_heads": 6, "attention_head_dim": 48, "num_layers": 6, "sample_size": 32}
TEXT: dict[str, Any] = {"joint_attention_dim": 128, "pooled_projection_dim": 128}
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "SDXL": (
        "UNet2DConditionModel",
        UNET
        | {
            "transformer_layers_per_block": [1, 1, 2],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 320,
        },
    ),
    "FLUX": (
        "FluxTransformer2DModel",
        TEXT
        | {
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 4,
            "attention_head_dim": 48,
            "num_attention_heads": 6,
            "axes_dims_rope": [8, 20, 20],
        },
    ),
    "PixArt": ("PixArtTransformer2DModel", TRANSFORMER | {"cross_attention_dim": 288, "caption_channels": 128}),
    "DiT": ("DiTTransformer2DModel", TRANSFORMER | {"in_channels": 4, "out_channels": 8}),
}
EMOJI = "UNet2D (emoji)"
SHIPPED = {EMOJI: "emoji/model", "SD (emoji_text)": "emoji_text/unet", "SD3 (emoji_text)": "emoji_text/transformer"}
SIDE = 32
RATE = 1e-5


@dataclass(frozen=True)
class Cost:
    seconds: float
    """Of one step."""
    memory: float
    """Bytes, at the peak."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="measured steps of each kind")
    parser.add_argument("--train", nargs="+", choices=["all", "key-layers"], default=["all", "key-layers"])
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {arguments.batch}\n")
    print(
        f"{'model':18s} {'parameters':>10s}  {'trained':10s}  {'plain step':>10s}  {'embedding':>9s}  time ratio  memory ratio"
    )
    for name in (*SHIPPED, *RANDOM):
        size = sum(value.numel() for value in model_named(name).denoiser.parameters())
        for train in arguments.train:
            plain, ours = compared(name, arguments.batch, arguments.steps, train)
            print(
                f"{name:18s} {size / 1e6:8.1f} M  {train:10s}  {plain.seconds * 1000:7.0f} ms  {ours.seconds * 1000:6.0f} ms  "
                f"{ours.seconds / plain.seconds:10.2f}  {ours.memory / plain.memory:12.2f}",
                flush=True,
            )


def compared(name: str, batch: int, steps: int, train: str) -> tuple[Cost, Cost]:
    """A plain fine-tuning step and an embedding step of the model of this name."""
    key = measured(chosen_key, name)
    return measured(plain_steps, name, batch, steps), measured(embedding_steps, name, key, batch, steps, train)


def model_named(name: str) -> DiffusionModel:
    if name in SHIPPED:
        return load_model(EXAMPLES / SHIPPED[name])
    class_name, config = RANDOM[name]
    torch.manual_seed(0)
    denoiser_class: Any = family_named(class_name).denoiser
    denoiser = denoiser_class.from_config(config).eval()
    schedule = RectifiedFlow(1000) if class_name in FLOWS else Diffusion(DDPMScheduler())
    return DiffusionModel(denoiser, schedule, Architecture(class_name=class_name, config=dict(denoiser.config)))


def examples_for(model: DiffusionModel, count: int) -> Examples:
    channels, height, width = family_of(model.denoiser).shape(model.architecture.config)
    return randomly_conditioned(model.denoiser, torch.randn(count, channels, min(height, SIDE), min(width, SIDE)))


def measured(task: Callable[..., Any], *arguments: Any) -> Any:
    """``task`` in a process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def plain_steps(name: str, batch: int, steps: int) -> Cost:
    model = model_named(name)
    examples = examples_for(model, batch)
    with growth() as memory:
        return Cost(time_plain(model, examples, steps), memory())


def time_plain(model: DiffusionModel, examples: Examples, steps: int) -> float:
    """Seconds of a fine-tuning step on all of ``examples``, after a first one."""
    times: list[float] = []
    fine_tune(
        model,
        examples,
        steps=steps + 1,
        learning_rate=RATE,
        batch_size=len(examples),
        progress=lambda _: times.append(time.perf_counter()),
    )
    return (times[-1] - times[0]) / steps


def chosen_key(name: str) -> OwnerKey:
    model = model_named(name)
    return select_key(model, bytes(range(32)), examples_for(model, 8), EmbeddingOptions())


def embedding_steps(name: str, key: OwnerKey, batch: int, steps: int, train: str) -> Cost:
    model = model_named(name)
    examples = examples_for(model, batch)
    options = EmbeddingOptions.model_validate({"batch_size": batch, "train": train, "learning_rate": RATE})
    with growth() as memory:
        return Cost(time_embedding(model, key, examples, options, steps), memory())


def time_embedding(model: DiffusionModel, key: OwnerKey, examples: Examples, options: EmbeddingOptions, steps: int) -> float:
    """Seconds of an embedding step on all of ``examples``, the mean of the two kinds of steps, after a first one of each."""
    training = Training(model, key, examples, options)
    noise = plain_noise(model.architecture, 1000, len(examples), torch.Generator().manual_seed(0))
    kinds = [Inputs(examples.clean, noise.timesteps, examples.conditions), noise]
    for inputs in kinds:
        training.update(inputs)
    start = time.perf_counter()
    for _ in range(steps):
        for inputs in kinds:
            training.update(inputs)
    return (time.perf_counter() - start) / (steps * len(kinds))


@contextmanager
def growth() -> Iterator[Callable[[], float]]:
    """Measure how far the peak memory of this process rises in the block over what it held before, in bytes."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        yield lambda: float(torch.cuda.max_memory_allocated() - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status_bytes("VmRSS")
    yield lambda: status_bytes("VmHWM") - before


def status_bytes(name: str) -> float:
    """``VmRSS`` or ``VmHWM``, the peak, of this process. Not ``ru_maxrss``: that one survives from the parent process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024.0


if __name__ == "__main__":
    main()
