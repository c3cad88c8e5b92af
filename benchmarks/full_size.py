"""What a full-size model costs: eligible layers, key size, embedding step, verification.

    python -m benchmarks.full_size [--models sd15 sdxl sd3-medium flux-dev] [--steps 2] [--batch 2] [--only-count]

The configurations are those of the published models, the weights random: what is measured does not depend on training. Every
model is counted on the meta device. Verification reads source and suspect in half precision, one after the other, with default
options; each measurement is a process of its own, on a GPU if there is one. What does not fit in memory is "not measured".
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

from aiao_core.denoisers import family_named, family_of
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import Diffusion, RectifiedFlow
from aiao_core.denoisers.weights import digest
from aiao_core.derivation import choose_layers
from aiao_core.formats.pipelines import build
from aiao_core.formats.suspects import load_suspect
from aiao_core.key import Architecture, Layer, OwnerKey
from aiao_core.method.acceleration import accelerator
from aiao_core.method.fine_tuning import randomly_conditioned
from aiao_core.method.inputs import plain_noise
from aiao_core.method.subpaths import SPAN
from aiao_core.method.tracing import eligible_layers
from aiao_core.options import EmbeddingOptions
from aiao_core.protocol import VERSION
from aiao_core.verification.verify import Subject, verify
from benchmarks.steps import FLOWS, RATE, measured, status_bytes, time_embedding, time_plain


@dataclass(frozen=True)
class FullSize:
    """A published configuration, and what makes its narrow twin: the same layers by the same names, in small."""

    class_name: str
    config: dict[str, Any]
    narrow: dict[str, Any]


MODELS = {
    "sd15": FullSize(
        "UNet2DConditionModel",
        {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 16},
    ),
    "sdxl": FullSize(
        "UNet2DConditionModel",
        {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {"block_out_channels": [32, 64, 64], "cross_attention_dim": 16, "attention_head_dim": [2, 2, 2]},
    ),
    "sd3-medium": FullSize(
        "SD3Transformer2DModel",
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
        {"attention_head_dim": 4, "caption_projection_dim": 96, "joint_attention_dim": 16, "pooled_projection_dim": 16},
    ),
    "flux-dev": FullSize(
        "FluxTransformer2DModel",
        {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": [16, 56, 56],
        },
        {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": [2, 2, 4]},
    ),
}
KEY_LAYERS = EmbeddingOptions().layers
SPARE_BYTES = 2 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each kind")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only-count", action="store_true")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "CPU"
    memory = torch.cuda.mem_get_info()[0] if gpu else psutil.virtual_memory().available
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {memory / 1e9:.0f} GB of memory free\n")
    for name in arguments.models:
        size = count(name)
        if arguments.only_count:
            continue
        if 4 * size > memory - SPARE_BYTES:
            print("  verification: not measured, the weights do not fit in memory")
        else:
            print_verification(name)
        if 20 * size > memory - SPARE_BYTES:
            print("  embedding: not measured, weights, gradients and AdamW's state do not fit in memory")
        else:
            print_steps(name, arguments.batch, arguments.steps)


def count(name: str) -> int:
    """Print the eligible layers and the size of a key; returns the number of parameters."""
    full = build(_architecture(name))
    parameters = sum(value.numel() for value in full.parameters())
    layers = _eligible(name)
    key = _key(name, layers)
    widths = sorted(layer.channels for layer in layers)
    print(
        f"{name}: {parameters / 1e6:.0f} M parameters, {len(layers)} eligible layers of {widths[0]} to {widths[-1]} channels, "
        f"a key of {len(key.layers)} layers has {len(key.subpaths)} subpaths, {key.bits} bits, "
        f"{len(key.to_json()) / 1024:.0f} KiB as a file",
        flush=True,
    )
    return parameters


def _architecture(name: str) -> Architecture:
    return Architecture(class_name=MODELS[name].class_name, config=MODELS[name].config)


def _eligible(name: str) -> list[Layer]:
    """The eligible layers, found by running the narrow twin; their channels are the full model's."""
    narrow = Architecture(class_name=MODELS[name].class_name, config=MODELS[name].config | MODELS[name].narrow)
    torch.manual_seed(0)
    twin = family_named(narrow.class_name).denoiser.from_config(narrow.config).eval()  # type: ignore[attr-defined]
    found = eligible_layers(twin, plain_noise(narrow, 1000, 2, torch.Generator().manual_seed(0)))
    full = build(_architecture(name))
    return [Layer(name=layer.name, channels=len(full.get_parameter(f"{layer.name}.weight"))) for layer in found]


def _key(name: str, layers: list[Layer]) -> OwnerKey:
    """A key as the selection would make it, but for laziness and reach, which depend on training."""
    seed = bytes(range(32))
    chosen = choose_layers(seed, [layer.name for layer in layers], KEY_LAYERS)
    places = [place for place, layer in enumerate(layers) if layer.name in chosen]
    subpaths = tuple((i, j) for j in range(len(places)) for i in range(j) if places[j] - places[i] >= SPAN * len(layers))
    return OwnerKey(seed, _architecture(name), 1000, tuple(layers[place] for place in places), subpaths)


def print_verification(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "suspect.safetensors"
        measured(_with_peak, _save, name, file)
        seconds, peak = measured(_with_peak, _verify, name, file)
    print(f"  verification from a file in half precision: {seconds:.0f} s, peak {peak / 1e9:.1f} GB", flush=True)


def print_steps(name: str, batch: int, steps: int) -> None:
    plain, plain_peak = measured(_with_peak, _plain_steps, name, batch, steps)
    print(f"  plain fine-tuning step, batch {batch}: {plain:.2f} s, peak {plain_peak / 1e9:.1f} GB", flush=True)
    for train in ("all", "key-layers"):
        try:
            ours, peak = measured(_with_peak, _embedding_steps, name, batch, steps, train)
        except (BrokenProcessPool, torch.OutOfMemoryError):
            print(f"  embedding step, training {train}: not measured, it ran out of memory", flush=True)
            continue
        print(
            f"  embedding step, training {train}: {ours:.2f} s, ratio {ours / plain:.2f}; "
            f"peak {peak / 1e9:.1f} GB, ratio {peak / plain_peak:.2f}",
            flush=True,
        )


def _with_peak(task: Callable[..., float], *arguments: Any) -> tuple[float, float]:
    seconds = task(*arguments)
    if torch.cuda.is_available():
        return seconds, float(torch.cuda.max_memory_allocated())
    return seconds, status_bytes("VmHWM")


def _save(name: str, file: Path) -> float:
    denoiser = build(_architecture(name))
    device = accelerator().device
    generator = torch.Generator(device).manual_seed(0)
    state = {}
    for where, value in denoiser.state_dict().items():
        spread = 0.5 / max(1, value[0].numel()) ** 0.5 if value.dim() > 1 else 0.02
        state[where] = (torch.randn(value.shape, generator=generator, device=device) * spread).half()
        if where.endswith("weight") and value.dim() == 1:
            state[where] += 1
    save_file(state, file)
    return 0.0


def _verify(name: str, file: Path) -> float:
    device = accelerator().device
    read = lambda: load_suspect(file, _architecture(name)).denoiser.to(device)  # noqa: E731
    key = _key(name, _eligible(name)).bound(digest(read().state_dict()), VERSION)
    start = time.perf_counter()
    verify(read, key, subject=Subject("suspect", "file", weights="sha256:0"), source=read, registration="service")
    return time.perf_counter() - start


def _model(name: str) -> DiffusionModel:
    architecture = _architecture(name)
    flow = architecture.class_name in FLOWS
    torch.manual_seed(0)
    with accelerator().device:
        denoiser = family_named(architecture.class_name).denoiser.from_config(architecture.config)  # type: ignore[attr-defined]
    return DiffusionModel(denoiser.eval(), RectifiedFlow(1000) if flow else Diffusion(DDPMScheduler()), architecture)


def _examples(model: DiffusionModel, batch: int) -> Any:
    shape = family_of(model.denoiser).shape(model.architecture.config)
    return randomly_conditioned(model.denoiser, torch.randn(batch, *shape))


def _plain_steps(name: str, batch: int, steps: int) -> float:
    model = _model(name)
    model.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    return time_plain(model, _examples(model, batch), steps)


def _embedding_steps(name: str, batch: int, steps: int, train: str) -> float:
    model = _model(name)
    options = EmbeddingOptions.model_validate(
        {"batch_size": batch, "train": train, "gradient_checkpointing": True, "learning_rate": RATE}
    )
    return time_embedding(model, _key(name, _eligible(name)), _examples(model, batch), options, steps)


if __name__ == "__main__":
    main()
