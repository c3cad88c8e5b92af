"""The tables of original names, against diffusers' conversions and against the arithmetic of adapters on the original rows."""

import functools
import re

import pytest
import torch
from diffusers.loaders import single_file_utils as diffusers
from safetensors.torch import save_file
from torch import Tensor, nn

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.adapters import merge
from aiao_core.formats.original_layouts import LAYOUTS, original_names
from aiao_core.formats.suspects import load_suspect
from tests.support import more_families
from tests.support import original_layout as tiny

MODELS = {
    "SD 1": tiny.tiny_unet,
    "SDXL": tiny.tiny_sdxl,
    "SD 3": tiny.tiny_sd3,
    "SD 3.5": functools.partial(tiny.tiny_sd3, qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    "FLUX": functools.partial(tiny.tiny_flux, guidance_embeds=True),
    "Wan": tiny.tiny_wan,
    "Wan for images": functools.partial(tiny.tiny_wan, image_dim=8, added_kv_proj_dim=24),
} | {
    name: functools.partial(lambda name: more_families.make(name).denoiser, name)
    for name in ("Chroma", "FLUX.2", "Z-Image", "Lumina 2", "AuraFlow", "Sana", "LTX", "HunyuanVideo")
}
every_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def model(name: str) -> nn.Module:
    """Every number differs from every other, so that exchanged rows show."""
    torch.manual_seed(0)
    made = MODELS[name]()
    for value in made.state_dict().values():
        value.normal_()
    return made.requires_grad_(False)


def truth(name: str) -> dict[str, Tensor]:
    return {tensor: value.clone() for tensor, value in model(name).state_dict().items()}


def names(name: str):
    return original_names(type(model(name)).__name__, truth(name))


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[tensor], expected[tensor]) for tensor in expected)


def test_every_layout_is_tested():
    assert {type(model(name)).__name__ for name in MODELS} == set(LAYOUTS)


@every_model
def test_writing_and_reading_the_original_layout_is_exact(name):
    original = names(name).from_diffusers(truth(name))
    assert equal(names(name).to_diffusers(original, truth(name), name), truth(name))


@pytest.mark.parametrize("name", ["SD 1", "SDXL", "SD 3", "SD 3.5", "FLUX"])
def test_the_tables_say_what_was_written_out_by_hand(name):
    assert equal(names(name).from_diffusers(truth(name)), tiny.to_original(model(name)))


CONVERSIONS = {
    "SD 3": diffusers.convert_sd3_transformer_checkpoint_to_diffusers,
    "SD 3.5": diffusers.convert_sd3_transformer_checkpoint_to_diffusers,
    "FLUX.2": diffusers.convert_flux2_transformer_checkpoint_to_diffusers,
    "Wan": diffusers.convert_wan_transformer_to_diffusers,
    "Wan for images": diffusers.convert_wan_transformer_to_diffusers,
    "Z-Image": diffusers.convert_z_image_transformer_checkpoint_to_diffusers,
    "AuraFlow": diffusers.convert_auraflow_transformer_checkpoint_to_diffusers,
    "Sana": diffusers.convert_sana_transformer_to_diffusers,
    "LTX": diffusers.convert_ltx_transformer_checkpoint_to_diffusers,
}
UNUSED = {
    "Sana": {"pos_embed": torch.ones(1), "y_embedder.y_embedding": torch.ones(1)},
    "Z-Image": {"norm_final.weight": torch.ones(1)},
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_the_tables_say_what_diffusers_converts(name):
    original = names(name).from_diffusers(truth(name)) | UNUSED.get(name, {})
    assert equal(CONVERSIONS[name](dict(original)), truth(name))
    assert equal(names(name).to_diffusers(original, truth(name), name), truth(name))


FIXED_WIDTHS = {
    "FLUX": (diffusers.convert_flux_transformer_checkpoint_to_diffusers, r"\.linear1\.", 7 * 3072),
    "Chroma": (diffusers.convert_chroma_transformer_checkpoint_to_diffusers, r"\.linear1\.", 7 * 3072),
    "HunyuanVideo": (diffusers.convert_hunyuan_video_transformer_to_diffusers, r"single_blocks\.\d+\.linear1\.", 7 * 3072),
    "Lumina 2": (diffusers.convert_lumina2_to_diffusers, r"\.qkv\.", 2304 + 2 * 768),
}


@pytest.mark.parametrize("name", FIXED_WIDTHS)
def test_the_tables_say_what_diffusers_converts_but_for_its_one_width(name):
    """diffusers cuts the fused rows for the width of the published model alone, so it gets rows of that number."""
    convert, fused, rows = FIXED_WIDTHS[name]
    original = names(name).from_diffusers(truth(name))
    found = convert(original | {tensor: torch.empty(rows, 1) for tensor in original if re.search(fused, tensor)})
    cut = re.compile(r"(single_transformer_blocks\.\d+|(layers|\w+_refiner)\.\d+)\.(attn\.to_[qkv]|proj_mlp)\.")
    assert equal(*({tensor: value for tensor, value in all_.items() if not cut.match(tensor)} for all_ in (found, truth(name))))


def adapted(kind: str, weight: Tensor, bias: Tensor | None) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """The parts of an adapter for a layer, and the layer's weight and bias after it, by the adapters' own papers."""
    out, width, *kernel = weight.shape
    pixels = torch.Size(kernel).numel()
    match kind:
        case "LoRA" | "DoRA":
            down, up = torch.randn(2, width, *kernel), torch.randn(out, 2, *[1] * len(kernel))
            changed = weight + (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * 3 / 2
            parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(3.0)}
            if kind == "DoRA":
                lengths = torch.rand(out, *[1] * (weight.dim() - 1)) + 0.5
                norms = changed.flatten(1).norm(dim=1).reshape(lengths.shape)
                return parts | {"dora_scale": lengths}, changed * lengths / norms, bias
            return parts, changed, bias
        case "LoKr":
            rows = 2 if out % 2 == 0 else 1
            small, block = torch.randn(rows, 1), torch.randn(out // rows, width, *kernel)
            change = torch.kron(small, block.flatten(1)).reshape(out, width * pixels)
            return {"lokr_w1": small, "lokr_w2": block}, weight + change.reshape(weight.shape), bias
        case "full":
            change = torch.randn(weight.shape)
            if bias is None:
                return {"diff": change}, weight + change, bias
            shift = torch.randn(bias.shape)
            return {"diff": change, "diff_b": shift}, weight + change, bias + shift
    raise AssertionError(kind)


@every_model
@pytest.mark.parametrize(
    ("kind", "spelling"),
    [("LoRA", "diffusion_model."), ("LoRA", ""), ("DoRA", "base_model.model."), ("LoKr", "lycoris_"), ("full", "lora_unet_")],
)
def test_an_adapter_by_original_names_changes_the_original_rows(name, kind, spelling):
    torch.manual_seed(1)
    base = truth(name)
    original = names(name).from_diffusers(base)
    layers = layers_of(original)
    adapter: dict[str, Tensor] = {}
    for layer in layers:
        parts, weight, bias = adapted(kind, original[f"{layer}.weight"], original.get(f"{layer}.bias"))
        called = spelling + (layer.replace(".", "_") if spelling.endswith("_") else layer)
        adapter |= {f"{called}.{part}": value for part, value in parts.items()}
        original[f"{layer}.weight"] = weight
        if bias is not None:
            original[f"{layer}.bias"] = bias
    merged = merge(base, adapter, class_name=type(model(name)).__name__)
    expected = names(name).to_diffusers(original, base, name)
    assert merged.layers == len(layers)
    assert merged.changed == set(layers_of(base))
    for tensor, value in merged.weights.items():
        torch.testing.assert_close(value, expected[tensor], atol=1e-4, rtol=1e-4)


def layers_of(weights: dict[str, Tensor]) -> list[str]:
    """The linear and convolution layers."""
    return [
        tensor.removesuffix(".weight") for tensor, value in weights.items() if tensor.endswith(".weight") and value.dim() > 1
    ]


def lora(layer: str, out: int, width: int) -> dict[str, Tensor]:
    return {f"{layer}.lora_A.weight": torch.randn(2, width), f"{layer}.lora_B.weight": torch.randn(out, 2)}


def test_a_fused_layer_and_a_part_of_it_are_two_adapters():
    adapter = lora("double_blocks.0.img_attn.qkv", 48, 16) | lora("transformer_blocks.0.attn.to_k", 16, 16)
    with pytest.raises(InvalidCheckpoint, match=r"layer transformer_blocks\.0\.attn\.to_k has two adapters .*; submit one"):
        merge(truth("FLUX"), adapter, class_name="FluxTransformer2DModel")


def test_a_control_lora_is_named():
    adapter = lora("transformer.x_embedder", 16, 8) | lora("transformer.transformer_blocks.0.attn.to_k", 16, 16)
    with pytest.raises(InvalidCheckpoint, match="takes 8 input channels, where the base model takes 4, as a control LoRA"):
        merge(truth("FLUX"), adapter, class_name="FluxTransformer2DModel")


@pytest.mark.parametrize("rows", [0, 47, 49])
def test_fused_rows_of_another_number_are_for_another_model(rows):
    with pytest.raises(WrongArchitecture, match=r"double_blocks\.0\.img_attn\.qkv: .* does not fit the shape \(48, 16\)"):
        merge(truth("FLUX"), lora("double_blocks.0.img_attn.qkv", rows, 16), class_name="FluxTransformer2DModel")
    original = names("FLUX").from_diffusers(truth("FLUX")) | {"double_blocks.0.img_attn.qkv.weight": torch.randn(rows, 16)}
    with pytest.raises(
        WrongArchitecture, match=rf"qkv.weight has the shape \({rows}, 16\), but 48 rows in the registered model"
    ):
        names("FLUX").to_diffusers(original, truth("FLUX"), "FLUX")


def test_a_tensor_by_two_spellings_is_refused():
    original = names("FLUX").from_diffusers(truth("FLUX"))
    twice = {"double_blocks.0.img_attn.norm.query_norm.weight": original["double_blocks.0.img_attn.norm.query_norm.scale"]}
    with pytest.raises(WrongArchitecture, match="is there by two names; keep one of them"):
        names("FLUX").to_diffusers(original | twice, truth("FLUX"), "FLUX")


def test_xlabs_names_of_flux():
    adapter, expected = {}, truth("FLUX")
    layers = {
        "double_blocks.1.processor.qkv_lora1": ("transformer_blocks.1.attn", ["to_q", "to_k", "to_v"]),
        "double_blocks.1.processor.qkv_lora2": ("transformer_blocks.1.attn", ["add_q_proj", "add_k_proj", "add_v_proj"]),
        "double_blocks.0.processor.proj_lora1": ("transformer_blocks.0.attn", ["to_out.0"]),
        "double_blocks.0.processor.proj_lora2": ("transformer_blocks.0.attn", ["to_add_out"]),
        "single_blocks.2.processor.qkv_lora": ("single_transformer_blocks.2.attn", ["to_q", "to_k", "to_v"]),
        "single_blocks.1.processor.proj_lora": ("single_transformer_blocks.1", ["proj_out"]),
    }
    for layer, (block, parts) in layers.items():
        width = expected[f"{block}.{parts[0]}.weight"].shape[1]
        down, up = torch.randn(2, width), torch.randn(16 * len(parts), 2)
        adapter |= {f"{layer}.down.weight": down, f"{layer}.up.weight": up}
        for part, rows in zip(parts, (up @ down).split(16), strict=True):
            expected[f"{block}.{part}.weight"] += rows
    merged = merge(truth("FLUX"), adapter, class_name="FluxTransformer2DModel")
    for tensor, value in expected.items():
        torch.testing.assert_close(merged.weights[tensor], value)


ORIGINAL_FILES = [name for name in MODELS if name not in ("Wan for images", "SD 3.5")]


@pytest.mark.parametrize("name", ORIGINAL_FILES)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_single_file_in_the_original_layout_is_a_suspect(tmp_path, name, prefix):
    """Also of families whose names begin as another's: HunyuanVideo's as FLUX's, Sana's as PixArt's."""
    made = MODELS[name]()
    for value in made.parameters():
        nn.init.normal_(value, std=0.1)
    expected = made.state_dict()
    original = original_names(type(made).__name__, expected).from_diffusers(expected) | UNUSED.get(name, {})
    save_file({prefix + tensor: value for tensor, value in original.items()}, tmp_path / "model.safetensors")
    suspect = load_suspect(tmp_path / "model.safetensors", tiny.architecture_of(made))
    assert equal(suspect.denoiser.state_dict(), expected)
    assert "single file in the original" in suspect.form
