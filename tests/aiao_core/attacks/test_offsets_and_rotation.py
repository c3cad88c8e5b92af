import copy
from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from aiao_core.attacks import Thief
from aiao_core.attacks.offsets import head_rotation_and_offsets, offsets
from aiao_core.attacks.rotation import head_rotation
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import Diffusion
from aiao_core.errors import AttackNotPossible
from aiao_core.method.fine_tuning import Examples
from tests.support.families import CONFIGURATIONS, UNET, make_from
from tests.support.thieves import make_thief, predictions

QUERIES = {"to_q", "to_k"}
VALUES = {"to_v", "to_out.0"}
TEXT = {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
ROTATED = {
    "SD3": QUERIES | VALUES | TEXT,
    "SD3.5": VALUES | {"add_v_proj", "to_add_out"},
    "FLUX": VALUES | {"add_v_proj", "to_add_out", "proj_out"},
    "FLUX schnell": VALUES | {"add_v_proj", "to_add_out", "proj_out"},
}
"""Last words of the names of the layers whose weights a rotation changes, where they are others than QUERIES and VALUES. A norm
of queries and keys has weights for places in a head, so these stay."""

UNETS = {"conv1", "conv2", "conv_shortcut"}
OFFSET = {
    "unconditional": UNETS | {"to_k", "to_v", "to_out.0"},
    "class-conditional": UNETS | {"to_k", "to_v", "to_out.0"},
    "SD": UNETS | {"to_out.0", "proj_out", "net.2"},
    "SD 2": UNETS | {"to_out.0", "proj_out", "net.2"},
    "SDXL": UNETS | {"to_out.0", "proj_out", "net.2"},
    "DiT": {"to_k", "to_v", "to_out.0"},
    "PixArt": {"to_k", "to_v", "to_out.0"},
    "PixArt with sizes": {"to_k", "to_v", "to_out.0"},
    "SD3": {"to_k", "add_k_proj", "to_v", "add_v_proj", "to_out.0", "to_add_out"},
    "SD3.5": {"to_v", "add_v_proj", "to_out.0", "to_add_out"},
    "FLUX": {"to_v", "add_v_proj", "to_out.0", "to_add_out", "proj_out"},
    "FLUX schnell": {"to_v", "add_v_proj", "to_out.0", "to_add_out", "proj_out"},
}
"""Last words of the names of the layers whose biases offsets change. Stable Diffusion's keys and values have none."""


def changed(thief: Thief, result: nn.Module, kind: str) -> set[str]:
    """The last words of the names of the layers whose weights or biases an attack has changed."""
    before, after = thief.model.denoiser.state_dict(), result.state_dict()
    names = [name for name in before if not torch.equal(before[name], after[name])]
    assert names
    layers = [name.removesuffix(f".{kind}").split(".") for name in names if name.endswith(f".{kind}")]
    return {".".join(layer[-2:]) if layer[-1].isdigit() else layer[-1] for layer in layers}


def rounding(thief: Thief, result: nn.Module) -> float:
    """The largest change of a prediction, of the largest prediction."""
    before, after = predictions(thief, thief.model.denoiser), predictions(thief, result)
    return float((after - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_heads_turn_and_the_function_stays(family):
    thief = make_thief(family)
    result = head_rotation(thief)
    assert changed(thief, result, "weight") == ROTATED.get(family, QUERIES | VALUES)
    assert rounding(thief, result) < 1e-5


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_offsets_move_the_channels_and_the_function_stays(family):
    """The larger an offset, the more digits of a float32 it takes."""
    thief = make_thief(family)
    result = offsets(thief, size=3)
    assert changed(thief, result, "weight") == set()
    assert changed(thief, result, "bias") == OFFSET[family]
    assert rounding(thief, result) < 1e-5
    assert rounding(thief, offsets(thief, size=30)) < 2e-4
    both = head_rotation_and_offsets(thief, size=30)
    assert rounding(thief, both) < 2e-4
    assert changed(thief, both, "weight") == changed(thief, head_rotation(thief), "weight")


@pytest.mark.parametrize("attack", [head_rotation, partial(offsets, size=3), partial(head_rotation_and_offsets, size=3)])
def test_in_float64_the_function_stays_to_its_precision(attack):
    """So what is left in float32 is rounding, and not an offset that is not taken out."""
    thief = make_thief()
    exact = Thief(
        DiffusionModel(copy.deepcopy(thief.model.denoiser).double(), thief.model.schedule, thief.model.architecture),
        thief.examples,
    )
    model, result = exact.model.denoiser, attack(exact)
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor([10, 900])
    with torch.no_grad():
        before, after = (network(*inputs).sample for network in (model, result))
    assert (after - before).abs().max() < 1e-12 * before.abs().max()


@pytest.mark.parametrize("attack", [head_rotation, partial(offsets, size=3)])
def test_scaled_outputs_and_time_embeddings_are_respected(attack):
    blocks = {"mid_block_scale_factor": 1.5, "resnet_time_scale_shift": "scale_shift", "attention_head_dim": 4}
    model = make_from(UNet2DModel, CONFIGURATIONS["unconditional"][1] | UNET | blocks, Diffusion(DDPMScheduler()))
    thief = Thief(model, Examples(torch.zeros(1, 3, 8, 8), {}))
    assert rounding(thief, attack(thief)) < 1e-5


class Strange(nn.Module):
    """A denoiser of no known block."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    ("attack", "words"),
    [(head_rotation, "no heads to rotate"), (partial(offsets, size=3), "none of the blocks of Strange takes a constant out")],
)
def test_an_unknown_denoiser_is_refused(attack, words):
    thief = make_thief()
    model = DiffusionModel(Strange(), thief.model.schedule, thief.model.architecture)
    with pytest.raises(AttackNotPossible, match=words):
        attack(Thief(model, thief.examples))
