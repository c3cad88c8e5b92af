import copy
from dataclasses import replace
from typing import NamedTuple

import pytest
from safetensors.torch import load_file
from torch import nn

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.pipelines import load_model
from aiao_core.key import OwnerKey
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.key_selection import select_key
from aiao_core.options import EmbeddingOptions
from demo_models.emoji.data import MODEL, load_images
from tests.support.places import GOLDEN
from tests.support.tiny_models import QUICK, SEED, MarkedModel, make_marked, make_tiny_examples, make_tiny_model


@pytest.fixture
def tiny_model() -> DiffusionModel:
    return make_tiny_model()


@pytest.fixture
def tiny_examples() -> Examples:
    return make_tiny_examples()


@pytest.fixture
def tiny_key(tiny_model: DiffusionModel, tiny_examples: Examples) -> OwnerKey:
    return select_key(tiny_model, SEED, tiny_examples, QUICK)


@pytest.fixture
def old_key(tiny_key: OwnerKey) -> OwnerKey:
    """The key as version 2 has it."""
    return replace(tiny_key, version=2, binding=None)


class Marked(NamedTuple):
    """The tiny model before and after a mark. Every test of a session shares it: copy what you change."""

    source: nn.Module
    denoiser: nn.Module
    key: OwnerKey


@pytest.fixture(scope="session")
def marked(run_folder) -> Marked:
    model, key = make_marked(run_folder)
    return Marked(make_tiny_model().denoiser, model.denoiser, key)


@pytest.fixture(scope="session")
def old_marked() -> Marked:
    """The tiny model with a mark of version 2, as the last release that embedded such marks left it."""
    model = make_tiny_model()
    model.denoiser.load_state_dict(load_file(GOLDEN / "marked-v2.safetensors"))
    return Marked(make_tiny_model().denoiser, model.denoiser, OwnerKey.from_json((GOLDEN / "marked-v2.key.json").read_text()))


@pytest.fixture(scope="session")
def emoji_examples() -> Examples:
    return Examples(load_images(without=["Flags", "Animals & Nature"]), {})


@pytest.fixture
def emoji_model() -> DiffusionModel:
    return load_model(MODEL)


@pytest.fixture(scope="session")
def embedded(emoji_examples) -> MarkedModel:
    """The emoji model after a short embedding, a minute of work. Tests share it: copy what you change.

    After 300 steps 98% of the bits are right; after 100 to 200 it depends on the processor's rounding, 85% to 98%.
    """
    model = load_model(MODEL)
    options = EmbeddingOptions(steps=300, batch_size=8, layers=12)
    return MarkedModel(model, embed(model, SEED, examples=emoji_examples, options=options).key)


@pytest.fixture
def emoji_marked(embedded) -> MarkedModel:
    return copy.deepcopy(embedded)
