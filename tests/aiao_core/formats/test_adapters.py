import contextlib
import copy
import json
import math
import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from hypothesis import given, settings
from hypothesis import strategies as st
from lycoris import create_lycoris
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.adapter_layers import MAX_RANK
from aiao_core.formats.adapter_names import is_adapter
from aiao_core.formats.adapters import layer_names, merge
from aiao_core.formats.original_layouts import original_names
from tests.support.families import CONDITIONED, make

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TARGETS = ["to_q", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "conv_shortcut", "time_emb_proj", "conv_in"]


@pytest.fixture(scope="module")
def tiny_unet() -> UNet2DConditionModel:
    return make("SD").denoiser


@pytest.fixture
def unet(tiny_unet) -> UNet2DConditionModel:
    return copy.deepcopy(tiny_unet)


@pytest.fixture
def base(unet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in unet.state_dict().items()}


def randomise(module: nn.Module) -> None:
    """Give an adapter an effect, which it starts without."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "magnitude" in name or "dora_scale" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            elif name.endswith(".scalar"):
                parameter.fill_(0.7)
            elif name.endswith((".rescale", ".w_norm", ".b_norm")) or re.fullmatch(r"lycoris_\w+\.(weight|bias)", name):
                parameter.add_(0.3 * torch.rand_like(parameter))
            elif any(kind in name for kind in ("lora_", "hada_", "lokr_", "oft_")):
                parameter.normal_(std=0.4)


@torch.no_grad()
def output(unet: nn.Module, condition: dict[str, Tensor] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sample, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 3, 12, generator=generator)
    return unet(sample, 5, text, added_cond_kwargs=condition).sample


def check(merged, unet, adapted: Tensor, base, condition=None) -> None:
    """The base with the merged weights computes what the library computes with its adapter, and not what the base does."""
    plain = copy.deepcopy(unet)
    plain.load_state_dict(base)
    before = output(plain, condition)
    plain.load_state_dict(merged.weights)
    torch.testing.assert_close(output(plain, condition), adapted, atol=2e-4, rtol=2e-4)
    assert (before - adapted).abs().max() > 0.01
    changed = {name for name, value in merged.weights.items() if value is not base[name]}
    assert changed
    assert all(merged.weights[name].dtype == torch.float32 for name in changed)


PEFT = {
    "LoRA": LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS),
    "LoRA with rslora": LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=TARGETS),
    "LoRA with patterns": LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=TARGETS,
        rank_pattern={"conv1": 5, f"^{QUERY}": 4},
        alpha_pattern={"n1.to_q": 99, "attn1.to_q": 7, "^conv_in": 4, "^conv1": 9},
    ),
    "LoRA with a bias": LoraConfig(r=2, lora_alpha=3, lora_bias=True, target_modules=["to_out.0", "conv1", "conv_in"]),
    "DoRA": LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=TARGETS),
    "LoHa": LoHaConfig(r=2, alpha=3, target_modules=TARGETS),
    "LoHa with effective convolutions": LoHaConfig(r=2, alpha=3, use_effective_conv2d=True, target_modules=TARGETS),
    "LoKr": LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    "LoKr of two full factors": LoKrConfig(
        r=32, alpha=3, target_modules=TARGETS, rank_pattern={"to_q": 24}, alpha_pattern={"conv1": 9}
    ),
    "LoKr of low rank": LoKrConfig(
        r=1, alpha=3, decompose_both=True, decompose_factor=4, use_effective_conv2d=True, target_modules=TARGETS
    ),
    "OFT": OFTConfig(r=0, oft_block_size=4, target_modules=ATTENTION),
    "OFT by the exact transform": OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, target_modules=ATTENTION),
    "OFT of three terms": OFTConfig(r=0, oft_block_size=4, num_cayley_neumann_terms=3, target_modules=ATTENTION),
    "OFT with shared blocks": OFTConfig(r=0, oft_block_size=4, block_share=True, target_modules=ATTENTION),
    "OFT with bounds": OFTConfig(r=0, oft_block_size=4, coft=True, eps=0.5, target_modules=ATTENTION),
}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*alpha_pattern keys:RuntimeWarning", "ignore:.*have invalid shape")
@pytest.mark.parametrize("name", PEFT)
def test_peft_forward(unet, base, tmp_path, name):
    model = get_peft_model(unet, copy.deepcopy(PEFT[name]))
    randomise(model)
    model.save_pretrained(tmp_path)
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    merged = merge(base, adapter, json.loads((tmp_path / "adapter_config.json").read_text()))
    check(merged, UNet2DConditionModel.from_config(unet.config).eval(), output(unet), base)
    assert merged.kind == name.split()[0].replace("DoRA", "LoRA")
    assert merged.layout == "PEFT"
    assert merged.form.startswith(f"PEFT {merged.kind}")
    assert merged.left_out == 0
    assert is_adapter(adapter)


# LyCORIS's own get_merged_weight() scales LoHa and LoKr twice; its forward pass, with which they are trained, does not.
LYCORIS = {
    "LoRA": {"algo": "lora"},
    "LoRA with Tucker convolutions": {"algo": "lora", "use_tucker": True},
    "LoRA with DoRA": {"algo": "lora", "dora_wd": True},
    "LoRA with DoRA on the input": {"algo": "lora", "dora_wd": True, "wd_on_output": False},
    "LoHa": {"algo": "loha"},
    "LoHa with Tucker convolutions": {"algo": "loha", "use_tucker": True, "use_scalar": True},
    "LoHa with DoRA": {"algo": "loha", "dora_wd": True},
    "LoKr": {"algo": "lokr", "factor": 4},
    "LoKr of two full factors": {"algo": "lokr", "full_matrix": True},
    "LoKr of low rank": {"algo": "lokr", "factor": 8, "decompose_both": True, "linear_dim": 1, "conv_dim": 1},
    "LoKr with Tucker convolutions": {"algo": "lokr", "use_tucker": True, "conv_dim": 1, "unbalanced_factorization": True},
    "LoKr with DoRA": {"algo": "lokr", "dora_wd": True},
    "OFT": {"algo": "diag-oft"},
    "OFT with a bound and lengths": {"algo": "diag-oft", "constraint": 0.01, "rescaled": True},
    "OFT of butterflies": {"algo": "boft"},
    "full difference": {"algo": "full"},
    "LoRA and norms": {"algo": "lora", "train_norm": True},
}


@pytest.mark.long
@pytest.mark.parametrize("name", LYCORIS)
def test_lycoris_forward(unet, base, tmp_path, name):
    plain = copy.deepcopy(unet)
    options = {"linear_dim": 2, "linear_alpha": 3, "conv_dim": 3, "conv_alpha": 2, "preset": "full"} | LYCORIS[name]
    network = create_lycoris(unet, **options)
    network.apply_to()
    randomise(network)
    network.save_weights(tmp_path / "adapter.safetensors", None, None)
    adapter = load_file(tmp_path / "adapter.safetensors")
    merged = merge(base, adapter)
    check(merged, plain, output(unet), base)
    assert name.partition(" with ")[0].partition(" of ")[0] in (merged.kind, "LoRA and norms")
    assert merged.layout == "kohya"
    assert merged.layers == len(network.loras)
    assert is_adapter(adapter)


TEXT_ENCODER = {
    f"text_model.encoder.layers.0.self_attn.q_proj.lora_{side}.weight": torch.zeros(shape)
    for side, shape in {"A": (2, 8), "B": (8, 2)}.items()
}


def read_metadata(file) -> dict:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["lora_adapter_metadata"])


def test_save_lora_family_of_diffusers(unet, base, tmp_path):
    plain = copy.deepcopy(unet)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS))
    randomise(unet)
    unet.save_lora_adapter(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    check(merge(base, load_file(file), read_metadata(file)), plain, output(unet), base)


def test_save_lora_weights_of_diffusers(unet, base, tmp_path):
    plain = copy.deepcopy(unet)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS)
    unet.add_adapter(config)
    randomise(unet)
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(unet),
        text_encoder_lora_layers=TEXT_ENCODER,
        unet_lora_adapter_metadata=config.to_dict(),
        text_encoder_lora_adapter_metadata=LoraConfig(r=9, lora_alpha=9).to_dict(),
    )
    file = tmp_path / "pytorch_lora_weights.safetensors"
    merged = merge(base, load_file(file), read_metadata(file))
    check(merged, plain, output(unet), base)
    assert merged.left_out == len(TEXT_ENCODER)


OLD_NAMES = {
    "lora": [(".lora_A.", ".lora.down."), (".lora_B.", ".lora.up.")],
    "lora_linear_layer": [(".lora_A.", ".lora_linear_layer.down."), (".lora_B.", ".lora_linear_layer.up.")],
    "processor": [
        (".to_out.0.", ".to_out."),
        (".to_", ".processor.to_"),
        (".lora_A.", "_lora.down."),
        (".lora_B.", "_lora.up."),
    ],
}


@pytest.mark.parametrize("style", OLD_NAMES)
def test_names_of_older_diffusers_versions(unet, base, style):
    plain, loaded = copy.deepcopy(unet), copy.deepcopy(unet)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=ATTENTION))
    randomise(unet)
    adapter = {}
    for name, value in get_peft_model_state_dict(unet).items():
        for new, old in OLD_NAMES[style]:
            name = name.replace(new, old)
        adapter[f"unet.{name}"] = value
    merged = merge(base, adapter)
    assert merged.layout == "diffusers"
    check(merged, plain, output(unet), base)
    if style != "lora_linear_layer":  # which current diffusers versions no longer load into a UNet
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(adapter, None, loaded)
        torch.testing.assert_close(output(loaded), output(unet))


def test_kohya_names_written_by_diffusers(unet, base):
    plain = copy.deepcopy(unet)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS))
    randomise(unet)
    adapter = convert_state_dict_to_kohya({f"unet.{name}": value for name, value in get_peft_model_state_dict(unet).items()})
    assert "lora_unet_mid_block_resnets_0_conv1.alpha" in adapter
    merged = merge(base, adapter)
    assert merged.layout == "kohya"
    check(merged, plain, output(unet), base)


SGM_NAMES = [
    "time_embed_0",
    "time_embed_2",
    "label_emb_0_0",
    "label_emb_0_2",
    "input_blocks_0_0",
    "input_blocks_1_0_in_layers_2",
    "input_blocks_2_0_out_layers_3",
    "input_blocks_3_0_op",
    "input_blocks_4_0_skip_connection",
    "input_blocks_4_0_emb_layers_1",
    "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "input_blocks_5_1_proj_in",
    "middle_block_0_in_layers_2",
    "middle_block_1_transformer_blocks_0_ff_net_0_proj",
    "middle_block_2_out_layers_3",
    "output_blocks_0_1_transformer_blocks_0_attn2_to_out_0",
    "output_blocks_2_2_conv",
    "output_blocks_4_0_skip_connection",
    "output_blocks_5_0_out_layers_3",
    "out_2",
]


def test_the_names_of_sdxl_files_as_diffusers_loads_them():
    torch.manual_seed(0)
    sdxl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
    blocks = {
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": True,
    }
    unet = UNet2DConditionModel(**CONDITIONED | blocks | sdxl).eval()
    condition = {"text_embeds": torch.ones(2, 8), "time_ids": torch.ones(2, 6)}
    plain, base = copy.deepcopy(unet), {name: value.clone() for name, value in unet.state_dict().items()}
    table, adapter = layer_names(base, original_names("UNet2DConditionModel", base)), {}
    for name in SGM_NAMES:
        out, *rest = base[f"{table[name][0].parts[0]}.weight"].shape
        adapter[f"lora_unet_{name}.lora_down.weight"] = torch.randn(2, *rest)
        adapter[f"lora_unet_{name}.lora_up.weight"] = torch.randn(out, 2, *[1] * (len(rest) - 1))
        adapter[f"lora_unet_{name}.alpha"] = torch.tensor(0.5)
    merged = merge(base, adapter, class_name="UNet2DConditionModel")
    converted, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(dict(adapter), unet_config=unet.config)
    StableDiffusionXLLoraLoaderMixin.load_lora_into_unet(converted, alphas, unet)
    check(merged, plain, output(unet, condition), base, condition)
    assert merged.layers == len(SGM_NAMES)
    assert merged.weights.keys() == base.keys()


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([(), (1,), (3,), (1, 1), (3, 3), (2, 3)]))


@settings(max_examples=150, deadline=None)
@given(
    shape=SHAPES,
    rank=st.integers(1, 14),
    alpha=st.none() | st.floats(-8, 8, width=32),
    kind=st.sampled_from(["lora", "hada", "lokr"]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_products_of_every_shape(shape, rank, alpha, kind, seed, data):
    out, width, kernel = shape
    torch.manual_seed(seed)

    def factors(out: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        left, right = torch.randn(out, rank), torch.randn(rank, width, *kernel)
        return left, right, torch.einsum("or,r...->o...", left, right)

    if kind == "lora":
        up, down, expected = factors(out, width)
        parts = {"lora_up.weight": up.reshape(out, rank, *[1] * len(kernel)), "lora_down.weight": down}
    elif kind == "hada":
        (a1, b1, first), (a2, b2, second) = factors(out, width), factors(out, width)
        parts = {"hada_w1_a": a1, "hada_w1_b": b1.flatten(1), "hada_w2_a": a2, "hada_w2_b": b2.flatten(1)}
        expected = first * second
    else:
        rows = data.draw(st.sampled_from([n for n in range(1, out + 1) if out % n == 0]))
        columns = data.draw(st.sampled_from([n for n in range(1, width + 1) if width % n == 0]))
        small = torch.randn(rows, columns)
        left, right, large = factors(out // rows, width // columns)
        whole = data.draw(st.booleans())
        parts = {"lokr_w1": small} | ({"lokr_w2": large} if whole else {"lokr_w2_a": left, "lokr_w2_b": right.flatten(1)})
        expected = torch.cat([torch.cat([small[i, j] * large for j in range(columns)], 1) for i in range(rows)], 0)
        if whole:
            rank = alpha = None
    if alpha is not None:
        parts["alpha"] = torch.tensor(alpha)
        expected = expected * alpha / rank
    base = {"block.to_q.weight": torch.randn(out, width, *kernel)}
    merged = merge(base, {f"lora_unet_block_to_q.{part}": value for part, value in parts.items()})
    torch.testing.assert_close(merged.weights["block.to_q.weight"], base["block.to_q.weight"] + expected, atol=1e-4, rtol=1e-4)


def lora(layer: str = QUERY, rank: int = 2, size: int = 16) -> dict[str, Tensor]:
    name = "lora_unet_" + layer.replace(".", "_")
    return {f"{name}.lora_down.weight": torch.randn(rank, size), f"{name}.lora_up.weight": torch.randn(size, rank)}


def test_the_base_is_kept_and_shared(base):
    half = {name: value.half() for name, value in base.items()}
    before = {name: value.clone() for name, value in half.items()}
    adapter = lora() | {"lora_te1_text_model_encoder.lora_down.weight": torch.full((1,), torch.nan)}
    merged = merge(half, adapter)
    assert merged.form == "kohya LoRA of rank 2 for 1 layer"
    assert (merged.layers, merged.left_out, len(adapter)) == (1, 1, 3)
    assert all(torch.equal(half[name], value) for name, value in before.items())
    changed = [name for name, value in merged.weights.items() if value is not half[name]]
    assert changed == [f"{QUERY}.weight"]
    down, up, _ = adapter.values()
    torch.testing.assert_close(merged.weights[changed[0]], half[changed[0]].float() + up @ down)


def test_several_kinds_and_ranks_in_one_file(base):
    adapter = lora() | lora(QUERY.replace("to_q", "to_k"), rank=5)
    name = "lora_unet_mid_block_resnets_0_time_emb_proj"
    adapter |= {f"{name}.lokr_w1": torch.ones(4, 4), f"{name}.lokr_w2": torch.ones(4, 8), f"{name}.alpha": torch.tensor(9.0)}
    merged = merge(base, adapter)
    assert (merged.kind, merged.form) == ("LoKr and LoRA", "kohya LoKr and LoRA of rank 2 to 5 for 3 layers")
    layer = "mid_block.resnets.0.time_emb_proj.weight"
    torch.testing.assert_close(merged.weights[layer], base[layer] + 1)


DOWN, UP = lora()
NAME = DOWN.partition(".")[0]
HUGE = torch.zeros(1).expand(1 << 40)
HADA = {f"{NAME}.hada_w{part}": torch.ones(16, 16) for part in ("1_a", "1_b", "2_a", "2_b")}
ERRORS = [
    (
        lora() | lora("mid_block.other.to_q", rank=3),
        WrongArchitecture,
        "a kohya LoRA of rank 2 to 3 for 2 layers, but it targets layer lora_unet_mid_block_other_to_q .* does not have; "
        "it was made for another base model",
    ),
    (lora("conv_norm_out"), WrongArchitecture, r"layer conv_norm_out: .* does not fit the shape \(8,\)"),
    (lora("input_blocks.9.1.proj_in"), WrongArchitecture, "targets layer lora_unet_input_blocks_9_1_proj_in"),
    (lora(size=320), WrongArchitecture, rf"layer {QUERY}: {UP} has the shape \(320, 2\), .* \(16, 16\) in the base model"),
    (lora() | {DOWN: torch.ones(2, 320)}, WrongArchitecture, rf"{DOWN} has the shape \(2, 320\)"),
    (lora() | {UP: torch.ones(16, 3)}, WrongArchitecture, rf"{UP} has the shape \(16, 3\)"),
    ({DOWN: torch.ones(2, 16)}, InvalidCheckpoint, f"layer {QUERY} has no lora_up; the file is incomplete"),
    ({UP: torch.ones(16, 2)}, InvalidCheckpoint, f"layer {QUERY} has no lora_down; the file is incomplete"),
    ({f"{NAME}.alpha": torch.tensor(1.0)}, InvalidCheckpoint, f"layer {QUERY} has an alpha only"),
    ({f"{NAME}.lokr_w2": torch.ones(4, 4)}, InvalidCheckpoint, f"layer {QUERY} has no lokr_w1_a"),
    ({f"{NAME}.lokr_w1": torch.ones(4, 4)}, InvalidCheckpoint, f"layer {QUERY} has no lokr_w2_b"),
    (lora() | {UP: torch.ones(16, 2, dtype=torch.int8)}, InvalidCheckpoint, f"{UP} is of type torch.int8"),
    (lora() | {UP: torch.ones(16, 2, dtype=torch.complex64)}, InvalidCheckpoint, "is of type torch.complex64"),
    (lora() | {UP: torch.ones(16, 2).to_sparse()}, InvalidCheckpoint, f"layer {QUERY}: {UP}"),
    (lora() | {UP: torch.ones(16, 2, device="meta")}, InvalidCheckpoint, f"layer {QUERY}: {UP}"),
    (lora() | {UP: torch.full((16, 2), torch.nan)}, InvalidCheckpoint, f"{UP} holds NaN or infinite"),
    (lora() | {DOWN: torch.full((2, 16), 1e300, dtype=torch.float64)}, InvalidCheckpoint, f"{DOWN} holds NaN or infinite"),
    (lora() | {f"{NAME}.alpha": torch.tensor(torch.inf)}, InvalidCheckpoint, r"alpha holds NaN or infinite"),
    (lora() | {f"{NAME}.alpha": torch.ones(2)}, InvalidCheckpoint, r"alpha has the shape \(2,\)"),
    ({DOWN: torch.full((2, 16), 1e30), UP: torch.full((16, 2), 1e30)}, InvalidCheckpoint, "infinite weights after the merge"),
    ({f"text_encoder.{n}": v for n, v in TEXT_ENCODER.items()}, InvalidCheckpoint, "all 2 tensors .* text encoders"),
    ({f"lora_te2_{n}": v for n, v in lora().items()}, InvalidCheckpoint, "submit the base model instead"),
    (
        lora() | {f"{NAME}.a1.weight": torch.ones(1)},
        InvalidCheckpoint,
        f"the tensor {NAME}.a1.weight .* belongs to a GLoRA adapter; merge it",
    ),
    (
        lora() | {f"{NAME}.glue": torch.ones(1)},
        InvalidCheckpoint,
        f"the tensor {NAME}.glue .* belongs to a kind of adapter that is not read; merge it",
    ),
    (lora() | {f"{NAME}.oft_blocks": torch.ones(1)}, InvalidCheckpoint, "oft_blocks does not go with its other tensors"),
    ({"lycoris_conv_norm_out.w_norm": torch.ones(9)}, WrongArchitecture, r"w_norm has the shape \(9,\), .* \(8,\) in the base"),
    ({f"{NAME}.diff": torch.ones(16, 15)}, WrongArchitecture, r"diff has the shape \(16, 15\)"),
    ({f"{NAME}.diff_b": torch.ones(16)}, WrongArchitecture, "has no bias in the base model"),
    ({f"{NAME}.oft_blocks": torch.ones(2, 4, 4)}, WrongArchitecture, r"oft_blocks has the shape \(2, 4, 4\)"),
    ({f"{NAME}.oft_blocks": torch.ones(2, 8, 4)}, WrongArchitecture, r"oft_blocks has the shape \(2, 8, 4\)"),
    ({f"{NAME}.oft_blocks": torch.ones(9, 8, 2, 2)}, WrongArchitecture, r"oft_blocks has the shape \(9, 8, 2, 2\)"),
    ({f"{NAME}.oft_blocks": HUGE.expand(16, 1, -1)}, WrongArchitecture, "oft_blocks has the shape"),
    ({f"{NAME}.oft_R.weight": torch.ones(2, 27)}, WrongArchitecture, r"oft_R.weight has the shape \(2, 27\)"),
    ({f"{NAME}.oft_R.weight": HUGE.expand(2, -1)}, WrongArchitecture, "oft_R.weight has the shape"),
    ({f"{NAME}.rescale": torch.ones(16, 1)}, InvalidCheckpoint, "an rescale only; the file is incomplete"),
    (lora() | {f"{NAME}.lokr_t1": torch.ones(2, 2)}, InvalidCheckpoint, "lokr_t1 does not go with its other tensors"),
    (lora() | HADA, InvalidCheckpoint, "hada_w1_a does not go with its other tensors"),
    (lora() | {f"lycoris_{n[10:]}": v for n, v in lora().items()}, InvalidCheckpoint, f"{NAME[10:]} has two adapters"),
    (lora() | {DOWN: HUGE.expand(1 << 20, -1)}, InvalidCheckpoint, "has the rank 1048576; supported"),
    (lora(rank=MAX_RANK + 1), InvalidCheckpoint, "has the rank"),
    (lora(rank=0), InvalidCheckpoint, "has the rank 0"),
    (lora() | {DOWN: HUGE}, InvalidCheckpoint, "has the rank"),
    (lora() | {UP: HUGE.expand(16, -1)}, WrongArchitecture, f"{UP} has the shape"),
    (lora() | {f"{NAME}.lora_mid.weight": HUGE.expand(2, -1)}, WrongArchitecture, "lora_mid.weight has the shape"),
    (HADA | {f"{NAME}.hada_w2_b": HUGE.expand(16, -1)}, WrongArchitecture, "hada_w2_b has the shape"),
    (HADA | {f"{NAME}.hada_t1": HUGE.expand(16, -1)}, WrongArchitecture, "hada_t1 has the shape"),
    ({f"{NAME}.lokr_w1": HUGE.expand(2, -1)}, WrongArchitecture, "lokr_w1 has the shape"),
    ({f"{NAME}.lokr_w1": torch.ones(0, 4)}, WrongArchitecture, "lokr_w1 has the shape"),
    ({f"{NAME}.lokr_w1": torch.ones(4, 0)}, WrongArchitecture, "lokr_w1 has the shape"),
    ({f"{NAME}.lokr_w1": torch.ones(2, 2), f"{NAME}.lokr_w2": HUGE}, WrongArchitecture, "lokr_w2 has the shape"),
    ({f"{NAME}.lokr_w1_{side}": HUGE.expand(2, -1) for side in "ab"}, WrongArchitecture, "lokr_w1_a has the shape"),
    (lora() | {f"{NAME}.dora_scale": torch.ones(1, 17)}, WrongArchitecture, "dora_scale has the shape"),
    (
        lora() | {f"{NAME}.{part}": torch.ones(16, 1) for part in ("dora_scale", "lora_magnitude_vector")},
        InvalidCheckpoint,
        "lora_magnitude_vector does not go with its other tensors",
    ),
]


@pytest.mark.parametrize(("adapter", "error", "words"), ERRORS)
def test_a_wrong_adapter_says_what_it_is_and_what_is_wrong(base, adapter, error, words):
    with pytest.raises(error, match=words):
        merge(base, adapter)
    assert is_adapter(adapter) or "alpha only" in words or "rescale only" in words


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (
            {f"{QUERY}.lora_{side}.{name}.weight": torch.ones(16, 16) for side in "AB" for name in ("a", "b")},
            "submit one adapter",
        ),
        (
            {f"{QUERY}.lora_A.weight": torch.ones(2, 16), f"{QUERY}.lora_B.weight": torch.ones(16, 2)}
            | {f"{QUERY}.lora_B.bias": torch.ones(16)},
            f"a PEFT LoRA of rank 2 for 1 layer, but layer {QUERY} has no bias",
        ),
    ],
)
def test_peft_names_that_cannot_be_merged(base, adapter, words):
    with pytest.raises(InvalidCheckpoint, match=words):
        merge(base, adapter)


def test_parameters_of_a_pickle_ask_for_no_gradients(base):
    merged = merge(base, {name: nn.Parameter(value) for name, value in lora().items()})
    assert not merged.weights[f"{QUERY}.weight"].requires_grad


@pytest.mark.parametrize(
    "prefix", ["", "unet.", "transformer.", "base_model.model.", "base_model.model.unet.", "diffusion_model."]
)
@pytest.mark.parametrize("layer", [QUERY, "middle_block.1.transformer_blocks.0.attn1.to_q"])
def test_prefixes_of_dotted_names(base, prefix, layer):
    down, up = lora().values()
    adapter = {f"{prefix}{layer}.lora_A.default.weight": down, f"{prefix}{layer}.lora_B.default.weight": up}
    merged = merge(base, adapter, class_name="UNet2DConditionModel")
    torch.testing.assert_close(merged.weights[f"{QUERY}.weight"], base[f"{QUERY}.weight"] + up @ down)


def test_an_underscore_that_may_be_a_dot(base):
    base |= {"block.to_q.weight": torch.ones(16, 16), "block_to.q.weight": torch.ones(16, 16)}
    with pytest.raises(InvalidCheckpoint, match=r"may be any of block\.to_q, block_to\.q"):
        merge(base, lora("block.to_q"))


PEFT_LORA = {f"{QUERY}.lora_A.weight": torch.ones(2, 16), f"{QUERY}.lora_B.weight": torch.ones(16, 2)}
PEFT_OFT = {f"{QUERY}.oft_R.weight": torch.ones(2, 28)}
FULL_LOKR = {f"{QUERY}.lokr_w1": torch.ones(4, 4), f"{QUERY}.lokr_w2": torch.ones(4, 4)}


@pytest.mark.parametrize(
    ("adapter", "config", "words"),
    [
        (PEFT_LORA, {"lora_alpha": "8"}, "no usable number for lora_alpha"),
        (PEFT_LORA, {"lora_alpha": True}, "no usable number for lora_alpha"),
        (PEFT_LORA, {"lora_alpha": math.nan}, "no usable number for lora_alpha"),
        (PEFT_LORA, {"unet.lora_alpha": 10**400}, "no usable number for lora_alpha"),
        (PEFT_LORA, {"lora_alpha": 8, "alpha_pattern": {"to_q": None}}, "no usable number for lora_alpha or alpha_pattern"),
        (PEFT_LORA, {"lora_alpha": 8, "alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern that is not a table of layer names"),
        (PEFT_LORA, {"lora_alpha": 8, "alpha_pattern": ["to_q"]}, "alpha_pattern that is not a table of layer names"),
        (FULL_LOKR, {"alpha": 8}, "no rank r of at least 1"),
        (FULL_LOKR, {"alpha": 8, "r": -2}, "no rank r of at least 1"),
        (PEFT_LORA, {"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        (PEFT_LORA, {"init_lora_weights": []}, "path_initial_model_for_weight_conversion"),
        (PEFT_OFT, {"num_cayley_neumann_terms": 10**9}, "no num_cayley_neumann_terms from 1 to 64"),
        (PEFT_OFT, {"num_cayley_neumann_terms": True}, "no num_cayley_neumann_terms from 1 to 64"),
        (PEFT_OFT, {"coft": True, "eps": "1"}, r"bounds the rotations \(coft\) by no usable eps"),
        (PEFT_OFT, {"coft": True, "eps": 10**400}, r"bounds the rotations \(coft\) by no usable eps"),
    ],
)
def test_a_configuration_that_cannot_be_used(base, adapter, config, words):
    with pytest.raises(InvalidCheckpoint, match=words):
        merge(base, adapter, config)


PART_NAMES = [
    "lora_down.weight",
    "lora_up.weight",
    "lora_mid.weight",
    "alpha",
    "dora_scale",
    "lora_B.bias",
    "lora_magnitude_vector",
    "diff",
    "diff_b",
    "w_norm",
    "b_norm",
    "oft_blocks",
    "rescale",
    "oft_R.weight",
]
PART_NAMES += [
    f"{kind}_{part}" for kind in ("hada", "lokr") for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")
]


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(PART_NAMES) | st.text(max_size=8),
        st.lists(st.sampled_from([0, 1, 2, 4, 6]), max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_any_adapter_merges_or_says_why_not(parts):
    base = {"layer.weight": torch.ones(4, 6), "layer.bias": torch.ones(4)}
    with contextlib.suppress(InvalidCheckpoint):
        merge(base, {f"lora_unet_layer.{part}": torch.ones(shape) for part, shape in parts.items()})


def test_a_full_checkpoint_is_no_adapter(base):
    assert not is_adapter(base)
    assert not is_adapter([*base, "mix.alpha"])
    assert not is_adapter([])
    assert is_adapter(["lora_unet_mid_block_attentions_0_proj_in.oft_blocks"])


@pytest.mark.parametrize(
    "name",
    [
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight",
        "lycoris_text_model_encoder_layers_0.lokr_w1",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_down.weight",
        "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_down.weight",
        "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.diff",
        "bundle_emb.someone.string_to_param.*",
        "clip_l",
        "emb_params",
    ],
)
def test_what_is_not_for_the_denoiser_is_left_out(base, name):
    merged = merge(base, lora() | {name: torch.full((3,), torch.nan)})
    assert (merged.layers, merged.left_out, merged.changed) == (1, 1, {QUERY})
    assert is_adapter(lora() | {name: torch.ones(1)})
