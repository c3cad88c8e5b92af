"""Copies of a registered model that take other inputs are tested on what they share with it."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from aiao_core.errors import WrongArchitecture
from aiao_core.formats.suspects import Suspect, load_suspect
from tests.support.original_layout import architecture_of, tiny_flux, tiny_sd3, tiny_unet, tiny_wan, to_original

GUIDANCE = "time_text_embed.guidance_embedder."


def registered(make, **config) -> nn.Module:
    torch.manual_seed(0)
    return make(**config).eval().requires_grad_(False)


def load(path, model: nn.Module) -> Suspect:
    return load_suspect(path, architecture_of(model))


def same(suspect: Suspect, model: nn.Module, without: str = "nothing") -> bool:
    found, expected = suspect.denoiser.state_dict(), model.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected if not name.startswith(without)
    )


def widened(weights: dict[str, torch.Tensor], name: str, further: int) -> dict[str, torch.Tensor]:
    value = weights[name]
    return weights | {name: torch.cat([value, torch.randn(value.shape[0], further, *value.shape[2:])], 1)}


@pytest.mark.parametrize(
    ("make", "tensor"),
    [
        (tiny_unet, "conv_in.weight"),
        (tiny_sd3, "pos_embed.proj.weight"),
        (tiny_flux, "x_embedder.weight"),
        (tiny_wan, "patch_embedding.weight"),
    ],
)
@pytest.mark.parametrize("further", [1, 5])
def test_further_input_channels_are_left_out(tmp_path, make, tensor, further):
    model = registered(make)
    save_file(widened(model.state_dict(), tensor, further), tmp_path / "copy.safetensors")
    suspect = load(tmp_path / "copy.safetensors", model)
    assert same(suspect, model)
    assert f"its {further} further input channels, as models for inpainting or editing have them, left out" in suspect.form


def test_an_inpainting_model_in_the_original_layout(tmp_path):
    model = registered(tiny_unet)
    save_file(widened(to_original(model), "input_blocks.0.0.weight", 5), tmp_path / "inpainting.safetensors")
    suspect = load(tmp_path / "inpainting.safetensors", model)
    assert same(suspect, model)
    assert "single file in the original Stable Diffusion layout, its 5 further input channels" in suspect.form


def test_a_folder_of_a_copy_with_an_input_for_guidance(tmp_path):
    model = registered(tiny_unet)
    lcm = UNet2DConditionModel.from_config(model.config, time_cond_proj_dim=16)
    lcm.load_state_dict(model.state_dict(), strict=False)
    lcm.save_pretrained(tmp_path / "unet")
    suspect = load(tmp_path, model)
    assert same(suspect, model)
    assert "time_embedding.cond_proj, an input for guidance that the registered model does not have, left out" in suspect.form


@pytest.mark.parametrize("original", [True, False])
def test_guidance_that_the_registered_model_does_not_have(tmp_path, original):
    guided, model = registered(tiny_flux, guidance_embeds=True), registered(tiny_flux)
    model.load_state_dict({name: value for name, value in guided.state_dict().items() if not name.startswith(GUIDANCE)})
    save_file(to_original(guided) if original else guided.state_dict(), tmp_path / "copy.safetensors")
    suspect = load(tmp_path / "copy.safetensors", model)
    assert same(suspect, model)
    assert "guidance_embedder, an input for guidance that the registered model does not have, left out" in suspect.form


@pytest.mark.parametrize("original", [True, False])
def test_a_copy_without_guidance_computes_what_it_does_without_it(tmp_path, original):
    model = registered(tiny_flux, guidance_embeds=True)
    plain = registered(tiny_flux)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith(GUIDANCE)})
    save_file(to_original(plain) if original else plain.state_dict(), tmp_path / "copy.safetensors")
    suspect = load(tmp_path / "copy.safetensors", model)
    assert same(suspect, model, without=GUIDANCE)
    assert f"without {GUIDANCE[:-1]}, the registered model's input for guidance: nothing is added" in suspect.form
    inputs = {
        "hidden_states": torch.randn(2, 6, 4),
        "encoder_hidden_states": torch.randn(2, 3, 8),
        "pooled_projections": torch.randn(2, 8),
        "timestep": torch.tensor([0.1, 0.9]),
        "img_ids": torch.zeros(6, 3),
        "txt_ids": torch.zeros(3, 3),
    }
    with torch.no_grad():
        found = suspect.denoiser(**inputs, guidance=torch.tensor([3.5, 1.0])).sample
        torch.testing.assert_close(found, plain(**inputs).sample)


def test_part_of_an_input_for_guidance_is_an_incomplete_checkpoint(tmp_path):
    model = registered(tiny_flux, guidance_embeds=True)
    weights = {name: value for name, value in model.state_dict().items() if name != f"{GUIDANCE}linear_2.bias"}
    save_file(weights, tmp_path / "copy.safetensors")
    with pytest.raises(WrongArchitecture, match=r"guidance_embedder\.linear_2 is missing"):
        load(tmp_path / "copy.safetensors", model)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (9, 9, 3, 3), (8, 9, 1, 1), (8, 9), (8,), ()])
def test_another_difference_of_the_first_layer_is_another_architecture(tmp_path, shape):
    model = registered(tiny_unet)
    save_file(model.state_dict() | {"conv_in.weight": torch.zeros(shape)}, tmp_path / "copy.safetensors")
    with pytest.raises(WrongArchitecture, match=r"conv_in\.weight has the shape"):
        load(tmp_path / "copy.safetensors", model)


def test_a_base_with_other_inputs_takes_an_adapter(tmp_path):
    model = registered(tiny_unet)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    save_file(widened(model.state_dict(), "conv_in.weight", 5), tmp_path / "model.safetensors")
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    expected = copy.deepcopy(model)
    expected.get_parameter(f"{layer}.weight").data += up @ down
    found = load(tmp_path, model).denoiser.state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found[name], value)
