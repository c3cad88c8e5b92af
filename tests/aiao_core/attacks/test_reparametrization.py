from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from aiao_core.attacks import Thief
from aiao_core.attacks.layers import key_layers
from aiao_core.attacks.reparametrization import channel_permutation, reparametrization, sign_flips_and_scales
from aiao_core.denoisers import predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import Diffusion
from aiao_core.errors import AttackNotPossible
from aiao_core.formats.pipelines import load_model
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import channel_axis, trace
from demo_models.emoji.data import MODEL, load_images
from tests.support import more_families
from tests.support.families import CONFIGURATIONS, UNET, make_from
from tests.support.thieves import make_thief, predictions

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
PARTS = {
    channel_permutation: ("conv1", "conv2", ".net.", "proj_mlp", *ATTENTION),
    sign_flips_and_scales: ("conv1", *ATTENTION),
    reparametrization: ("conv1", "conv2", ".net.", "proj_mlp", *ATTENTION),
}
"""Parts of the names of the layers that each attack changes: behind an activation there are no signs to flip."""

HIDDEN = ("conv1", "to_q", "to_k", "to_v")
"""The layers of the emoji model whose own output channels are hidden."""


def inside(thief: Thief, attack: Callable[[Thief], nn.Module]) -> list[str]:
    return [layer.name for layer in key_layers(thief) if any(part in layer.name for part in PARTS[attack])]


def changed(thief: Thief, result: nn.Module, names: list[str]) -> list[str]:
    before, after = thief.model.denoiser.state_dict(), result.state_dict()
    return [name for name in names if not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])]


def assert_same_function(thief: Thief, result: nn.Module) -> None:
    before, after = predictions(thief, thief.model.denoiser), predictions(thief, result)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))


@pytest.mark.parametrize("attack", PARTS)
@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_the_weights_change_and_the_function_stays(family, attack):
    thief = make_thief(family)
    result = attack(thief)
    names = inside(thief, attack)
    assert len(changed(thief, result, names)) > len(names) / 2
    assert_same_function(thief, result)


@pytest.mark.parametrize("attack", PARTS)
def test_a_time_embedding_that_scales_and_shifts_is_respected(attack):
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    model = make_from(UNet2DModel, UNET | blocks | {"resnet_time_scale_shift": "scale_shift"}, Diffusion(DDPMScheduler()))
    for parameter in model.denoiser.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    thief = Thief(model, Examples(torch.zeros(1, 3, 8, 8), {}))
    result = attack(thief)
    assert changed(thief, result, inside(thief, attack))
    assert_same_function(thief, result)


@pytest.fixture(scope="module")
def emoji_thief() -> Thief:
    return Thief(load_model(MODEL), Examples(load_images(only=["Flags"]), {}))


@pytest.mark.parametrize("attack", PARTS)
def test_of_the_emoji_model_every_layer_in_a_block_changes(emoji_thief, attack):
    result = attack(emoji_thief)
    names = inside(emoji_thief, attack)
    assert len(names) > 25
    assert changed(emoji_thief, result, names) == names
    assert_same_function(emoji_thief, result)


def test_most_hidden_features_of_the_emoji_model_stray(emoji_thief):
    names = [name for name in inside(emoji_thief, reparametrization) if name.endswith(HIDDEN)]
    inputs = plain_noise(emoji_thief.model.architecture, 1000, 2, torch.Generator().manual_seed(0))
    features = []
    for denoiser in (emoji_thief.model.denoiser, reparametrization(emoji_thief)):
        with torch.no_grad(), trace(denoiser, capture=names) as captured:
            predict(denoiser, inputs)
        features.append(captured)
    for name in names:
        axis = channel_axis(emoji_thief.model.denoiser.get_submodule(name))
        before, after = (captured[name].movedim(axis, 0).flatten(1) for captured in features)
        moved = (after - before).norm(dim=1) > 0.1 * before.norm(dim=1)
        assert moved.float().mean() > 0.7, name


class Strange(nn.Module):
    """A denoiser of no known block."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize("attack", PARTS)
def test_an_unknown_denoiser_is_refused(emoji_thief, attack):
    model = DiffusionModel(Strange(), emoji_thief.model.schedule, emoji_thief.model.architecture)
    with pytest.raises(AttackNotPossible, match="none of the blocks of Strange"):
        attack(Thief(model, emoji_thief.examples))


@pytest.mark.parametrize("name", ["Chroma", "Sana", "Stable Audio", "Wan"])
def test_other_attentions_are_changed_as_far_as_their_output_stays(name):
    """Linear ones, ones that turn channels by their place, and ones of a class of their own."""
    model = more_families.make(name)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.denoiser.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    noise = plain_noise(model.architecture, 1000, 4, generator)
    thief = Thief(model, Examples(noise.noisy, noise.conditions), seed=0)
    before = predictions(thief, model.denoiser)
    after = predictions(thief, reparametrization(thief))
    assert float((after - before).norm()) < 1e-4 * float(before.norm())


def test_an_attention_with_layers_of_its_own_is_left_alone():
    model = more_families.make("HiDream")
    noise = plain_noise(model.architecture, 1000, 4, torch.Generator().manual_seed(0))
    with pytest.raises(AttackNotPossible):
        reparametrization(Thief(model, Examples(noise.noisy, noise.conditions), seed=0))
