"""An untrained model of some thousand parameters, and the same with a mark: for everything that does not depend on training."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import Diffusion
from aiao_core.key import Architecture, OwnerKey
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples
from aiao_core.options import EmbeddingOptions
from demo_models.emoji.data import load_images
from tests.support.shared import made_once

SEED = bytes(range(32))
"""Seed of the mark."""

QUICK = EmbeddingOptions(steps=6, batch_size=4, probe_steps=3, samples=8, layers=24, checkpoint_every=2)
"""An embedding from end to end, which leaves no mark."""

MARKING = EmbeddingOptions(steps=200, batch_size=16, layers=39, learning_rate=3e-3)
"""Enough for the tiny model to carry a mark, in some seconds."""


def make_tiny_model(seed: int = 0, widths: tuple[int, int] = (8, 16)) -> DiffusionModel:
    torch.manual_seed(seed)
    denoiser = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    config = json.loads(json.dumps({name: value for name, value in denoiser.config.items() if not name.startswith("_")}))
    return DiffusionModel(
        denoiser.eval().requires_grad_(False), Diffusion(DDPMScheduler()), Architecture(class_name="UNet2DModel", config=config)
    )


def save_pipeline(model: DiffusionModel, folder: Path) -> Path:
    """Save the model's pipeline as its owner has it, and return the folder."""
    DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder)
    return folder


def make_tiny_examples() -> Examples:
    return Examples(load_images(without=["Flags"], size=8)[:64], {})


class MarkedModel(NamedTuple):
    """A model with a mark, and its key."""

    model: DiffusionModel
    key: OwnerKey


def make_marked(run_folder: Path, seed: int = 0) -> MarkedModel:
    """The tiny model with a mark. The first process of a test run that asks embeds it, and the others load it."""

    def make(folder: Path) -> None:
        model = make_tiny_model(seed)
        key = embed(model, SEED, examples=make_tiny_examples(), options=MARKING).key
        save_file(model.denoiser.state_dict(), folder / "weights.safetensors")
        (folder / "key.json").write_text(key.to_json())

    folder = made_once(run_folder / f"marked-{seed}", make)
    model = make_tiny_model(seed)
    model.denoiser.load_state_dict(load_file(folder / "weights.safetensors"))
    return MarkedModel(model, OwnerKey.from_json((folder / "key.json").read_text()))


def fine_tuned(model: DiffusionModel, amount: float = 0.02, seed: int = 3) -> nn.Module:
    """A relative of ``model`` that knows no key: every weight moved a little."""
    random = torch.Generator().manual_seed(seed)
    other = make_tiny_model().denoiser
    other.load_state_dict(model.denoiser.state_dict())
    for parameter in other.parameters():
        parameter.data += amount * parameter.data.std().nan_to_num(0) * torch.randn(parameter.shape, generator=random)
    return other
