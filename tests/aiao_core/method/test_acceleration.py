import copy
import importlib.util

import pytest
import torch

from aiao_core.errors import EmbeddingFailed
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import randomly_conditioned
from aiao_core.method.inputs import plain_noise
from aiao_core.options import EmbeddingOptions
from tests.support.families import make


def embedded(name, **options):
    model = make(name)
    inputs = plain_noise(model.architecture, 1000, 4, torch.Generator().manual_seed(0))
    examples = randomly_conditioned(model.denoiser, inputs.noisy)
    chosen = EmbeddingOptions(steps=3, batch_size=4, layers=24, **options)
    return model.denoiser, embed(model, bytes(range(32)), examples=examples, options=chosen)


@pytest.mark.parametrize("name", ["unconditional", "SDXL", "SD3", "FLUX"])
@pytest.mark.parametrize("option", ["gradient_checkpointing", "offload_source"])
def test_saving_memory_changes_nothing(name, option):
    """Gradient checkpointing runs blocks again in the backward pass: the triggers must be there then too."""
    plain, saving = embedded(name)[0], embedded(name, **{option: True})[0]
    for (where, first), second in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(first, second), where


@pytest.mark.parametrize("name", ["unconditional", "SD3"])
def test_bf16_differs_by_its_precision_only_and_leaves_fp32_weights(name):
    (_, plain), (denoiser, rounded) = embedded(name), embedded(name, precision="bf16")
    assert plain.metrics["response"] != rounded.metrics["response"]
    assert plain.metrics["response"] == pytest.approx(rounded.metrics["response"], rel=0.02)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}
    assert embedded(name)[1].metrics == plain.metrics  # the next job is not rounded


@pytest.mark.parametrize("name", ["unconditional", "FLUX"])
def test_only_the_keys_layers_are_trained(name):
    before = copy.deepcopy(make(name).denoiser.state_dict())
    denoiser, embedding = embedded(name, train="key-layers")
    changed = {
        where.rpartition(".")[0] for where, value in denoiser.state_dict().items() if not torch.equal(value, before[where])
    }
    key_layers = {layer.name for layer in embedding.key.layers}
    assert changed
    assert changed <= key_layers
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimizer_that_the_worker_lacks_is_named():
    with pytest.raises(EmbeddingFailed, match=r"needs bitsandbytes.*or use adamw"):
        embedded("unconditional", optimizer="adamw-8bit")
