import json
from typing import NamedTuple

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import Diffusion
from aiao_core.formats.pipelines import load_model
from aiao_core.key import Architecture, OwnerKey
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.key_selection import select_key
from aiao_core.options import EmbeddingOptions
from demo_models.emoji.data import MODEL, load_images


def make_tiny_model(seed: int = 0) -> DiffusionModel:
    """An untrained denoiser of some thousand parameters, for everything that does not depend on training."""
    torch.manual_seed(seed)
    denoiser = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    config = json.loads(json.dumps({name: value for name, value in denoiser.config.items() if not name.startswith("_")}))
    return DiffusionModel(
        denoiser.eval().requires_grad_(False), Diffusion(DDPMScheduler()), Architecture(class_name="UNet2DModel", config=config)
    )


@pytest.fixture
def tiny_model() -> DiffusionModel:
    return make_tiny_model()


@pytest.fixture
def tiny_examples() -> Examples:
    return Examples(load_images(without=["Flags"], size=8)[:64], {})


QUICK = EmbeddingOptions(steps=6, batch_size=4, probe_steps=3, samples=8, layers=24, checkpoint_every=2)


@pytest.fixture
def tiny_key(tiny_model: DiffusionModel, tiny_examples: Examples) -> OwnerKey:
    return select_key(tiny_model, bytes(range(32)), tiny_examples, QUICK)


MARKING = EmbeddingOptions(steps=200, batch_size=16, layers=39, learning_rate=3e-3)
"""Enough for the tiny model to carry a mark, in some seconds."""


class Marked(NamedTuple):
    """The tiny model with a mark. Every test of a session shares it: copy what you change."""

    source: nn.Module
    denoiser: nn.Module
    key: OwnerKey


@pytest.fixture(scope="session")
def marked() -> Marked:
    model = make_tiny_model()
    examples = Examples(load_images(without=["Flags"], size=8)[:64], {})
    key = embed(model, bytes(range(32)), examples=examples, options=MARKING).key
    return Marked(make_tiny_model().denoiser, model.denoiser, key)


@pytest.fixture(scope="session")
def emoji_examples() -> Examples:
    return Examples(load_images(without=["Flags", "Animals & Nature"]), {})


@pytest.fixture
def emoji_model() -> DiffusionModel:
    return load_model(MODEL)
