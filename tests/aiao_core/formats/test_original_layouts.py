import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.key import Architecture
from tests.support.original_layout import architecture_of, tiny_flux, tiny_sd3, tiny_sdxl, tiny_unet, to_diffusers, to_original

PREFIX = "model.diffusion_model."
COMPANIONS = {
    "first_stage_model.decoder.conv_in.weight": torch.ones(2),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.ones(2),
    "conditioner.embedders.1.model.ln_final.weight": torch.ones(2),
    "alphas_cumprod": torch.ones(2),
}


def unlike_any_other(denoiser: nn.Module) -> nn.Module:
    """Every number differs from every other, so that exchanged tensors show."""
    torch.manual_seed(0)
    for value in denoiser.state_dict().values():
        value.normal_()
    return denoiser.requires_grad_(False)


DENOISERS = {
    "SD 1": unlike_any_other(tiny_unet()),
    "one layer per block": unlike_any_other(tiny_unet(layers_per_block=1)),
    "class embedding": unlike_any_other(tiny_unet(layers_per_block=1, num_class_embeds=3)),
    "SDXL": unlike_any_other(tiny_sdxl()),
    "SD 3": unlike_any_other(tiny_sd3()),
    "SD 3.5": unlike_any_other(tiny_sd3(qk_norm="rms_norm", dual_attention_layers=(0, 1))),
    "FLUX": unlike_any_other(tiny_flux()),
    "FLUX with guidance": unlike_any_other(tiny_flux(guidance_embeds=True)),
}
ORIGINALS = {name: to_original(denoiser) for name, denoiser in DENOISERS.items()}
every_denoiser = pytest.mark.parametrize("name", DENOISERS)


def architecture(name: str) -> Architecture:
    return architecture_of(DENOISERS[name])


def prefixed(weights, prefix=PREFIX):
    return {prefix + name: value for name, value in weights.items()}


def check_equal(found, name: str) -> None:
    expected = DENOISERS[name].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[tensor], expected[tensor]) for tensor in expected)


@every_denoiser
@pytest.mark.parametrize("prefix", [PREFIX, "diffusion_model.", ""])
def test_the_round_trip_is_exact(name, prefix):
    weights = prefixed(ORIGINALS[name], prefix) | (COMPANIONS if prefix else {})
    before = dict(weights)
    found, form = to_diffusers(weights, architecture(name))
    check_equal(found, name)
    assert form.startswith("single file in the original ")
    assert weights == before


def test_the_form_names_the_family():
    forms = {name: to_diffusers(ORIGINALS[name], architecture(name))[1] for name in ("SDXL", "SD 3", "FLUX")}
    assert forms == {
        "SDXL": "single file in the original Stable Diffusion layout",
        "SD 3": "single file in the original Stable Diffusion 3 layout",
        "FLUX": "single file in the original FLUX layout",
    }


@every_denoiser
def test_the_type_is_kept(name):
    found, _ = to_diffusers({tensor: value.half() for tensor, value in ORIGINALS[name].items()}, architecture(name))
    assert {value.dtype for value in found.values()} == {torch.float16}


def averages(name: str, factor: float = 1):
    flat = {f"model_ema.diffusion_model{tensor.replace('.', '')}": value * factor for tensor, value in ORIGINALS[name].items()}
    return flat | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


@pytest.mark.parametrize("name", ["SD 1", "class embedding", "SDXL"])
def test_moving_averages_count_only_when_alone(name):
    check_equal(to_diffusers(prefixed(ORIGINALS[name]) | averages(name, 2), architecture(name))[0], name)
    found, form = to_diffusers(averages(name) | COMPANIONS, architecture(name))
    check_equal(found, name)
    assert form == "single file in the original Stable Diffusion layout, moving averages (EMA)"


@every_denoiser
@pytest.mark.parametrize("prefix", ["", "unet.", PREFIX])
def test_diffusers_names_need_no_conversion(name, prefix):
    weights = prefixed(DENOISERS[name].state_dict(), prefix)
    assert to_diffusers(weights | {"vae.decoder.conv_in.weight": torch.ones(1)}, architecture(name)) is None


@pytest.mark.parametrize(
    "weights", [{}, {"some.weight": torch.ones(2)}, {"blocks.0.attn.qkv_x.weight": torch.eye(2).to_sparse()}]
)
def test_unknown_names_are_left_to_the_caller(weights):
    assert to_diffusers(weights, architecture("SD 1")) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FLUX", r"FLUX \(double_blocks, single_blocks\)"),
        ("SD 3", r"Stable Diffusion 3 \(joint_blocks\)"),
        ("SDXL", r"Stable Diffusion \(input_blocks, middle_block, output_blocks\)"),
    ],
)
@pytest.mark.parametrize("registered", ["SD 1", "SD 3", "FLUX", "UNet2DModel"])
def test_another_family_is_named(name, words, registered):
    like = architecture(registered) if registered in DENOISERS else Architecture(class_name=registered, config={})
    if like.class_name != architecture(name).class_name:
        with pytest.raises(
            WrongArchitecture, match=f"a single file of {words}, but the registered model is a {like.class_name};"
        ):
            to_diffusers(prefixed(ORIGINALS[name]) | COMPANIONS, like)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("first_stage_model.decoder.conv_in.weight", "a VAE alone"),
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "a VAE alone"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "a text encoder alone"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder alone"),
        ("transformer.resblocks.0.mlp.c_fc.weight", "a text encoder alone"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("distilled_guidance_layer.in_proj.bias", "Chroma"),
        ("single_stream_modulation.lin.weight", "FLUX.2"),
        ("t_block.1.weight", "PixArt"),
        ("y_embedder.embedding_table.weight", "DiT"),
        ("attention_y_norm.weight", "Sana"),
        ("patchify_proj.weight", "LTX-Video"),
        ("model.diffusion_model.cap_embedder.0.weight", "Lumina 2"),
    ],
)
@pytest.mark.parametrize("registered", ["SD 1", "FLUX"])
def test_a_file_without_such_a_denoiser_is_named(tensor, words, registered):
    with pytest.raises(WrongArchitecture, match=rf"single file of {words}\b"):
        to_diffusers({tensor: torch.ones(2)}, architecture(registered))


@pytest.mark.parametrize(
    ("tensor", "class_name"),
    [("t_block.1.weight", "PixArtTransformer2DModel"), ("y_embedder.embedding_table.weight", "DiTTransformer2DModel")],
)
def test_a_layout_without_a_converter_is_named(tensor, class_name):
    with pytest.raises(InvalidCheckpoint, match=r"in its original layout .* which is not read here; convert it"):
        to_diffusers({tensor: torch.ones(2)}, Architecture(class_name=class_name, config={}))


def test_a_control_net_shares_names_with_a_denoiser():
    weights = ORIGINALS["SD 1"] | {"input_hint_block.0.weight": torch.ones(2)}
    with pytest.raises(WrongArchitecture, match=r"a ControlNet \(input_hint_block\)"):
        to_diffusers(weights, architecture("SD 1"))
    both = prefixed(ORIGINALS["SD 1"]) | prefixed(weights, "control_model.")
    check_equal(to_diffusers(both, architecture("SD 1"))[0], "SD 1")


def test_the_registered_configuration_decides():
    with pytest.raises(WrongArchitecture, match=r"the tensor .* has no place in a single file .* registered configuration"):
        to_diffusers(ORIGINALS["SDXL"], architecture("SD 1"))
    with pytest.raises(WrongArchitecture, match=r"the tensor .* has the shape .* rows in the"):
        to_diffusers(ORIGINALS["FLUX"], architecture_of(tiny_flux(num_attention_heads=1)))


@given(name=st.sampled_from(list(DENOISERS)), data=st.data())
@settings(max_examples=100, deadline=None)
def test_only_what_a_missing_tensor_holds_is_missing_in_the_result(name, data):
    lost = data.draw(st.sampled_from(list(ORIGINALS[name])))
    weights = {tensor: value for tensor, value in ORIGINALS[name].items() if tensor != lost}
    found, _ = to_diffusers(weights, architecture(name))
    expected = DENOISERS[name].state_dict()
    assert sum(expected[tensor].numel() for tensor in expected.keys() - found.keys()) == ORIGINALS[name][lost].numel()
    assert all(torch.equal(found[tensor], expected[tensor]) for tensor in found)


@pytest.mark.parametrize("name", ["SD 1", "SD 3", "FLUX"])
def test_half_a_denoiser_is_refused(name):
    for head in {"input_blocks", "double_blocks", "single_blocks"}:
        part = {tensor: value for tensor, value in ORIGINALS[name].items() if not tensor.startswith(head)}
        if len(part) < len(ORIGINALS[name]):
            with pytest.raises(WrongArchitecture, match=r"only .* the checkpoint is incomplete"):
                to_diffusers(part, architecture(name))


HOSTILE_NUMBERS = ("999999999", "-5", "1" * 100, "9" * 5000, "007", "x", "", "1.1", "²")


@pytest.mark.parametrize(
    "name", [name if name in {"SD 1", "FLUX"} else pytest.param(name, marks=pytest.mark.slow) for name in DENOISERS]
)
@pytest.mark.parametrize("number", HOSTILE_NUMBERS, ids=lambda number: repr(number[:9]))
def test_hostile_numbers_in_names(name, number):
    names = [tensor for tensor in ORIGINALS[name] if re.match(r"\w+_blocks\.1\.", tensor)]
    for hostile in {re.sub(r"_blocks\.1\.", f"_blocks.{number}.", tensor, count=1) for tensor in names}:
        try:
            found, _ = to_diffusers(ORIGINALS[name] | {hostile: torch.ones(1)}, architecture(name))
        except WrongArchitecture:
            continue
        assert found.keys() - DENOISERS[name].state_dict().keys()  # a name that whoever fills the denoiser refuses


@every_denoiser
@pytest.mark.parametrize("stranger", ["junk.weight", "a.model.diffusion_model.out.0.weight", "conv_in.weight"])
def test_what_does_not_belong_to_the_denoiser_is_refused(name, stranger):
    with pytest.raises(WrongArchitecture, match=stranger):
        to_diffusers(prefixed(ORIGINALS[name] | {stranger: torch.ones(1)}), architecture(name))


def test_a_tensor_that_only_claims_memory_is_not_copied():
    weights = ORIGINALS["FLUX"] | {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1).expand(3 << 40, 1)}
    with pytest.raises(InvalidCheckpoint, match="repeat or share"):
        to_diffusers(weights, architecture("FLUX"))
    shared = torch.zeros(1000)
    with pytest.raises(InvalidCheckpoint, match="repeat or share"):
        to_diffusers(dict.fromkeys(ORIGINALS["FLUX"], shared), architecture("FLUX"))


@given(name=st.sampled_from(list(DENOISERS)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_damage_gives_weights_or_a_typed_error(name, data):
    weights = dict(ORIGINALS[name])
    names = list(weights)
    for _ in range(data.draw(st.integers(1, 3))):
        tensor = data.draw(st.sampled_from(names))
        match data.draw(st.sampled_from(["drop", "shape", "rename", "exchange"])):
            case "drop":
                weights.pop(tensor, None)
            case "shape":
                weights[tensor] = torch.zeros(data.draw(st.sampled_from([(), (0,), (1,), (2, 2), (3, 1, 1)])))
            case "rename":
                parts = tensor.split(".")
                parts[data.draw(st.integers(0, len(parts) - 1))] = data.draw(st.sampled_from([*HOSTILE_NUMBERS, "3", "weight"]))
                weights[".".join(parts)] = weights.pop(tensor, torch.zeros(1))
            case "exchange":
                weights[tensor] = torch.zeros(weights[data.draw(st.sampled_from(list(weights)))].shape)
    try:
        result = to_diffusers(weights, architecture(name))
    except InvalidCheckpoint:
        return
    assert result is None or all(isinstance(value, torch.Tensor) for value in result[0].values())
