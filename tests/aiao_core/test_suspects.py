"""Every form in which a copy of a model is found, written by real libraries, against the denoiser's own tensors."""

import copy
import json
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from aiao_core import suspects
from aiao_core.archives import opened
from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.key import Architecture
from aiao_core.suspects import load_suspect, read_denoiser
from tests.aiao_core.families import make
from tests.aiao_core.original_layout import to_original

MODELS = {name: make(name) for name in ("unconditional", "SD", "SDXL", "SD3", "FLUX")}
every_family = pytest.mark.parametrize("name", MODELS)
with_original_layout = pytest.mark.parametrize("name", ["SD", "SDXL", "SD3", "FLUX"])
PREFIX = "model.diffusion_model."
COMPANIONS = {
    "first_stage_model.decoder.conv_in.weight": torch.ones(2),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.ones(2),
    "alphas_cumprod": torch.ones(2),
}


def denoiser(name: str) -> nn.Module:
    return MODELS[name].denoiser


def architecture(name: str) -> Architecture:
    return MODELS[name].architecture


def truth(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of a family's denoiser, as they are after being stored in ``dtype``."""
    return {tensor: value.to(dtype).float() for tensor, value in denoiser(name).state_dict().items()}


def original(name: str) -> dict[str, Tensor]:
    return {tensor: value.contiguous() for tensor, value in to_original(denoiser(name)).items()}


def check(suspect, expected: dict[str, Tensor]) -> None:
    found = suspect.denoiser.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert {value.dtype for value in found.values()} == {torch.float32}


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return folder.with_suffix(".zip")


@every_family
@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_folders_that_save_pretrained_writes(tmp_path, name, variant, sharded, safe):
    dtype = {None: torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[variant]
    part = "unet" if name in ("unconditional", "SD", "SDXL") else "transformer"
    copy.deepcopy(denoiser(name)).to(dtype).save_pretrained(
        tmp_path / "model" / part, variant=variant, safe_serialization=safe, max_shard_size="20KB" if sharded else "5GB"
    )
    assert bool(list((tmp_path / "model" / part).glob("*.index*"))) == sharded
    for path in (tmp_path / "model", tmp_path / "model" / part):
        suspect = load_suspect(path, architecture(name))
        check(suspect, truth(name, dtype))
        assert suspect.form == "sharded " * sharded + ("safetensors" if safe else "PyTorch pickle")
    with opened(zipped(tmp_path / "model")) as path:
        check(load_suspect(path, architecture(name)), truth(name, dtype))


def test_a_plain_checkpoint_counts_where_variants_are_beside_it(tmp_path):
    other = make("SD", seed=1).denoiser
    for variant in ("fp16", "bf16", "non_ema"):
        other.save_pretrained(tmp_path, variant=variant)
    denoiser("SD").save_pretrained(tmp_path)
    check(load_suspect(tmp_path, architecture("SD")), truth("SD"))


@every_family
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt"])
def test_a_bare_file(tmp_path, name, suffix):
    path = tmp_path / f"bare{suffix}"
    save_file(truth(name), path) if suffix == ".safetensors" else torch.save(denoiser(name).state_dict(), path)
    suspect = load_suspect(path, architecture(name))
    check(suspect, truth(name))
    assert suspect.form == ("safetensors" if suffix == ".safetensors" else "PyTorch pickle")


@with_original_layout
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_a_single_file_in_the_original_layout(tmp_path, name, suffix, prefix):
    weights = {prefix + tensor: value.half() for tensor, value in original(name).items()} | (COMPANIONS if prefix else {})
    path = tmp_path / f"model{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"epoch": 3, "state_dict": weights}, path)
    suspect = load_suspect(path, architecture(name))
    check(suspect, truth(name, torch.float16))
    assert "single file in the original" in suspect.form
    with opened(zipped(path.parent)) as folder:
        check(load_suspect(folder, architecture(name)), truth(name, torch.float16))


@with_original_layout
def test_an_fp8_single_file(tmp_path, name):
    stored = {PREFIX + tensor: value.to(torch.float8_e4m3fn) for tensor, value in original(name).items()}
    save_file(stored, tmp_path / "model.safetensors")
    suspect = load_suspect(tmp_path / "model.safetensors", architecture(name))
    check(suspect, truth(name, torch.float8_e4m3fn))
    assert suspect.form.startswith("safetensors, fp8 weights, single file in the original")


def write_gguf(path: Path, weights: dict[str, Tensor], kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16) -> Path:
    writer = gguf.GGUFWriter(path, "diffusion")
    for name, value in weights.items():
        writer.add_tensor(name, gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@every_family
def test_a_gguf_file(tmp_path, name):
    layouts = {"diffusers": truth(name)} | ({} if name == "unconditional" else {"original": original(name)})
    for layout, weights in layouts.items():
        suspect = load_suspect(write_gguf(tmp_path / f"{layout}.gguf", weights), architecture(name))
        check(suspect, truth(name, torch.float16))
        assert suspect.form.startswith("GGUF")


# Adapters


TARGETS = {
    "unconditional": ["to_q", "conv1"],
    "SD": ["to_q", "to_out.0", "conv1"],
    "SDXL": ["to_q", "ff.net.2"],
    "SD3": ["to_q", "add_k_proj"],
    "FLUX": ["to_q", "proj_mlp"],
}
CONFIGS = {
    "LoRA": lambda targets: LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False),
    "LoHa": lambda targets: LoHaConfig(r=2, alpha=3, target_modules=targets, init_weights=False),
    "LoKr": lambda targets: LoKrConfig(r=2, alpha=3, target_modules=targets, init_weights=False),
}


def adapt(folder: Path, name: str, kind: str = "LoRA", seed: int = 0) -> dict[str, Tensor]:
    """Save an adapter for a family with PEFT, and return the weights that PEFT itself merges."""
    torch.manual_seed(seed)
    model = get_peft_model(copy.deepcopy(denoiser(name)), CONFIGS[kind](TARGETS[name]))
    model.save_pretrained(folder)
    return dict(model.merge_and_unload().state_dict())


def check_merged(suspect, expected: dict[str, Tensor], name: str) -> None:
    found = suspect.denoiser.state_dict()
    for tensor in expected:
        torch.testing.assert_close(found[tensor], expected[tensor], msg=lambda text, tensor=tensor: f"{tensor}: {text}")
    assert any(not torch.equal(found[tensor], value) for tensor, value in truth(name).items())


def base_of(name: str):
    return lambda: (dict(denoiser(name).state_dict()), "the registered model")


@every_family
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_is_merged_into_the_given_base(tmp_path, name, kind):
    expected = adapt(tmp_path / "adapter", name, kind)
    suspect = load_suspect(tmp_path / "adapter", architecture(name), base_of(name))
    check_merged(suspect, expected, name)
    assert suspect.form.startswith(f"base: the registered model; PEFT {kind}")
    assert suspect.form.endswith("(safetensors), merged")
    single = load_suspect(tmp_path / "adapter" / "adapter_model.safetensors", architecture(name), base_of(name))
    check_merged(single, expected, name)  # its configuration lies beside it
    with opened(zipped(tmp_path / "adapter")) as path:
        check_merged(load_suspect(path, architecture(name), base_of(name)), expected, name)


def test_an_adapter_alone_says_that_its_scale_is_not_known(tmp_path):
    adapt(tmp_path / "adapter", "SD")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    assert "with scale 1" in load_suspect(tmp_path / "adapter", architecture("SD"), base_of("SD")).form


def test_an_adapter_that_diffusers_saved_with_its_scale(tmp_path):
    unet = copy.deepcopy(denoiser("SD"))
    unet.add_adapter(LoraConfig(r=2, lora_alpha=7, target_modules=["to_q"], init_lora_weights=False))
    unet.save_lora_adapter(tmp_path)
    unet.fuse_lora()
    unet.unload_lora()
    check_merged(load_suspect(tmp_path, architecture("SD"), base_of("SD")), dict(unet.state_dict()), "SD")


def test_the_base_is_read_for_an_adapter_alone(tmp_path):
    def base():
        raise AssertionError("read")

    save_file(truth("SD"), tmp_path / "full.safetensors")
    load_suspect(tmp_path / "full.safetensors", architecture("SD"), base)
    adapt(tmp_path, "SD")
    load_suspect(tmp_path, architecture("SD"), base)


@pytest.mark.parametrize("form", ["folder", "original", "gguf", "zip"])
def test_read_denoiser_reads_any_base(tmp_path, form):
    match form:
        case "folder" | "zip":
            path = tmp_path / "base"
            denoiser("SD").save_pretrained(path / "unet")
            path = zipped(path) if form == "zip" else path
        case "original":
            path = tmp_path / "base.ckpt"
            torch.save({"state_dict": {PREFIX + name: value for name, value in original("SD").items()}}, path)
        case "gguf":
            path = write_gguf(tmp_path / "base.gguf", original("SD"), gguf.GGMLQuantizationType.F32)
    expected = adapt(tmp_path / "adapter", "SD")

    def base():
        with opened(path) as content:
            return read_denoiser(content, architecture("SD"))

    check_merged(load_suspect(tmp_path / "adapter", architecture("SD"), base), expected, "SD")


def test_an_adapter_needs_a_base(tmp_path):
    adapt(tmp_path, "SD")
    with pytest.raises(InvalidCheckpoint, match="this is an adapter, which changes a base model; name that one"):
        load_suspect(tmp_path, architecture("SD"))


def test_an_adapter_for_another_base(tmp_path):
    adapt(tmp_path, "FLUX")
    with pytest.raises(WrongArchitecture, match=r"this is a PEFT LoRA of rank 3 .* made for another base model: name that one"):
        load_suspect(tmp_path, architecture("SD"), base_of("SD"))


def test_an_adapter_of_another_width(tmp_path):
    adapter = {f"unet.mid_block.attentions.0.proj_in.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}
    save_file(adapter, tmp_path / "lora.safetensors")
    with pytest.raises(WrongArchitecture, match=r"mid_block\.attentions\.0\.proj_in.*does not fit the shape"):
        load_suspect(tmp_path / "lora.safetensors", architecture("SD"), base_of("SD"))


@pytest.mark.parametrize("bad", ["another model", "an adapter", "unfit"])
def test_a_base_that_cannot_be_used_is_named_as_such(tmp_path, bad):
    adapt(tmp_path / "adapter", "SD")
    other = tmp_path / "base"
    denoiser("FLUX" if bad == "another model" else "SDXL").save_pretrained(other / "unet")
    if bad == "an adapter":
        adapt(other, "SD")
        (other / "unet" / "config.json").unlink()
        (other / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InvalidCheckpoint, match="the base model cannot be used: "):
        load_suspect(tmp_path / "adapter", architecture("SD"), lambda: read_denoiser(other, architecture("SD")))


def test_a_hostile_base_and_adapter_do_not_fill_the_memory(tmp_path):
    """Together they would make a product of 10¹² numbers from two files of a few kilobytes."""
    layer = "mid_block.attentions.0.proj_in"
    torch.save(denoiser("SD").state_dict() | {f"{layer}.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "base.pt")
    adapter = {f"unet.{layer}.lora_A.weight": torch.zeros(1).expand(1, 1 << 20)}
    torch.save(adapter | {f"unet.{layer}.lora_B.weight": torch.zeros(1).expand(1 << 20, 1)}, tmp_path / "lora.pt")
    with pytest.raises(WrongArchitecture, match=rf"base.pt: layer {layer}: .* has the shape"):
        load_suspect(tmp_path, architecture("SD"))


# Several files


@pytest.fixture(scope="module")
def companions(tmp_path_factory) -> Path:
    """A VAE, a text encoder and an adapter of a text encoder in single files, as image programs keep them."""
    folder = tmp_path_factory.mktemp("companions")
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    save_file(vae.state_dict(), folder / "vae.safetensors")
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    )
    save_file(text.state_dict(), folder / "clip.safetensors")
    names = ("lora_down", "lora_up")
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file({f"{layer}.{name}.weight": torch.ones(8, 8) for name in names}, folder / "words.safetensors")
    return folder


def put(folder: Path, files: Path) -> None:
    for file in files.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def test_several_files_are_each_named(tmp_path, companions):
    put(tmp_path, companions)
    expected = adapt(tmp_path, "SD")
    save_file({PREFIX + name: value for name, value in original("SD").items()}, tmp_path / "model.safetensors")
    (tmp_path / "training_args.bin").write_bytes(b"no pickle")
    suspect = load_suspect(tmp_path, architecture("SD"))
    check_merged(suspect, expected, "SD")
    forms = dict(part.split(": ", 1) for part in suspect.form.split("; "))
    assert forms["model.safetensors"] == "safetensors, single file in the original Stable Diffusion layout"
    assert forms["adapter_model.safetensors"].startswith("PEFT LoRA of rank 3")
    assert "not used, this is a single file of a VAE alone" in forms["vae.safetensors"]
    assert "not used, this is a single file of a text encoder alone" in forms["clip.safetensors"]
    assert forms["words.safetensors"] == "not used, an adapter for text encoders alone"
    assert forms["training_args.bin"].startswith("not used, training_args.bin is no pickle")


def test_an_adapter_among_companions_is_merged_into_the_base(tmp_path, companions):
    put(tmp_path, companions)
    expected = adapt(tmp_path, "SD")
    suspect = load_suspect(tmp_path, architecture("SD"), base_of("SD"))
    check_merged(suspect, expected, "SD")
    assert suspect.form.startswith("base: the registered model; adapter_model.safetensors: PEFT LoRA")


@pytest.mark.parametrize("other", ["unreadable", "another model"])
def test_an_adapter_beside_another_denoiser_is_not_merged_into_the_base(tmp_path, other):
    """Or the registered model, which carries the mark, would be tested in place of what was submitted."""
    adapt(tmp_path, "SD")
    if other == "unreadable":
        (tmp_path / "model.safetensors").write_bytes(b"truncated")
    else:
        save_file(original("FLUX"), tmp_path / "model.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"^model\.safetensors: "):
        load_suspect(tmp_path, architecture("SD"), base_of("SD"))


def test_two_adapters_are_merged_one_after_the_other(tmp_path):
    save_file(truth("SD"), tmp_path / "model.safetensors")
    changes = []
    for number, kind in enumerate(("LoRA", "LoKr")):
        merged = adapt(tmp_path / str(number), "SD", kind, seed=number)
        changes.append({name: merged[name] - value for name, value in truth("SD").items()})
    suspect = load_suspect(tmp_path, architecture("SD"))
    for name, value in suspect.denoiser.state_dict().items():
        torch.testing.assert_close(value, truth("SD")[name] + changes[0][name] + changes[1][name], atol=1e-5, rtol=1e-5)
    assert "0/adapter_model.safetensors: PEFT LoRA" in suspect.form
    assert "1/adapter_model.safetensors: PEFT LoKr" in suspect.form


def test_two_checkpoints_are_not_guessed(tmp_path):
    save_file(truth("SD"), tmp_path / "a.safetensors")
    save_file(original("SD"), tmp_path / "b.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"several checkpoints \(a.safetensors, b.safetensors\); submit one"):
        load_suspect(tmp_path, architecture("SD"))


def test_a_pipeline_folder_with_an_adapter_beside_it(tmp_path):
    expected = adapt(tmp_path / "model", "SD")
    denoiser("SD").save_pretrained(tmp_path / "model" / "unet")
    check_merged(load_suspect(tmp_path / "model", architecture("SD")), expected, "SD")


def test_a_whole_pipeline(tmp_path, companions):
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(4,), norm_num_groups=1), text_encoder=text, tokenizer=None,
        unet=copy.deepcopy(denoiser("SD")),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "model", variant="fp16", max_shard_size="30KB")  # fmt: skip
    suspect = load_suspect(tmp_path / "model", architecture("SD"))
    check(suspect, truth("SD"))
    assert suspect.form == "sharded safetensors"


def test_a_controlnet_beside_the_denoiser_is_no_second_checkpoint(tmp_path):
    save_file(truth("SD"), tmp_path / "model.safetensors")
    control = ControlNetModel.from_unet(denoiser("SD"), conditioning_embedding_out_channels=(4, 4))
    save_file(control.state_dict(), tmp_path / "control.safetensors")
    suspect = load_suspect(tmp_path, architecture("SD"))
    check(suspect, truth("SD"))
    assert "control.safetensors: not used" in suspect.form


def test_shards_in_a_plain_folder(tmp_path):
    denoiser("FLUX").save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "config.json").unlink()
    suspect = load_suspect(tmp_path, architecture("FLUX"))
    check(suspect, truth("FLUX"))
    assert suspect.form == "sharded safetensors"
    next(tmp_path.glob("*.index.json")).unlink()
    with pytest.raises(WrongArchitecture, match=r"none of the files is the denoiser of a FluxTransformer2DModel: .*is missing"):
        load_suspect(tmp_path, architecture("FLUX"))


# What cannot be tested


def test_companions_alone_are_named(tmp_path, companions):
    for file, words in (("vae", "a VAE alone"), ("clip", "a text encoder alone")):
        with pytest.raises(WrongArchitecture, match=words):
            load_suspect(companions / f"{file}.safetensors", architecture("SD"))
    with pytest.raises(WrongArchitecture, match=r"none of the files is the denoiser.*a text encoder alone.*a VAE alone"):
        load_suspect(companions, architecture("SD"), base_of("SD"))
    with pytest.raises(InvalidCheckpoint, match="are for text encoders"):
        load_suspect(companions / "words.safetensors", architecture("SD"), base_of("SD"))


@pytest.mark.parametrize("form", ["original", "gguf", "fp8", "folder"])
def test_a_checkpoint_of_another_family(tmp_path, form, monkeypatch):
    monkeypatch.setattr(suspects, "dequantise", lambda weights: (weights, None))  # it is told apart by its names alone
    path = tmp_path / "model.safetensors"
    match form:
        case "original":
            save_file(original("FLUX"), path)
        case "fp8":
            save_file({name: value.to(torch.float8_e4m3fn) for name, value in original("FLUX").items()}, path)
        case "gguf":
            path = write_gguf(tmp_path / "model.gguf", original("FLUX"))
        case "folder":
            path = tmp_path / "model"
            denoiser("FLUX").save_pretrained(path / "transformer")
    with pytest.raises(WrongArchitecture, match=r"FLUX|FluxTransformer2DModel") as error:
        load_suspect(path, architecture("SD"))
    assert "UNet2DConditionModel" in str(error.value)


@pytest.mark.parametrize("form", ["gguf", "fp8"])
def test_quantised_weights_that_would_fill_the_memory(tmp_path, form):
    many = {f"more.{number}.weight": torch.zeros(1000, 1000) for number in range(2)}
    if form == "gguf":
        path = write_gguf(tmp_path / "model.gguf", truth("SD") | many, gguf.GGMLQuantizationType.F16)
    else:
        path = tmp_path / "model.safetensors"
        save_file({name: value.to(torch.float8_e5m2) for name, value in (truth("SD") | many).items()}, path)
    with pytest.raises(WrongArchitecture, match="too many for the denoiser of the registered UNet2DConditionModel"):
        load_suspect(path, architecture("SD"))


def test_another_quantisation_is_named(tmp_path):
    save_file(truth("SD") | {"mid_block.x.weight.absmax": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidCheckpoint, match="a bitsandbytes 4-bit file"):
        load_suspect(tmp_path / "model.safetensors", architecture("SD"))


def test_folders_without_weights_or_with_too_many(tmp_path):
    with pytest.raises(InvalidCheckpoint, match="holds no weights"):
        load_suspect(tmp_path, architecture("SD"))
    for number in range(suspects.MAX_FILES + 1):
        (tmp_path / f"{number}.safetensors").touch()
    with pytest.raises(InvalidCheckpoint, match="holds 65 files of weights; submit at most 64"):
        load_suspect(tmp_path, architecture("SD"))


QUERY = "mid_block.attentions.0.to_q.weight"
STRANGE = {
    "meta": torch.ones(16, 16, device="meta"),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "sparse": torch.eye(16).to_sparse(),
    "quantised": torch.quantize_per_tensor(torch.ones(16, 16), 0.1, 0, torch.qint8),
    "packed": torch.zeros(16, 16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "complex": torch.ones(16, 16, dtype=torch.complex64),
    "boolean": torch.ones(16, 16, dtype=torch.bool),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("place", ["denoiser", "adapter", "original"])
def test_tensors_without_plain_numbers(tmp_path, kind, place):
    name = "unconditional" if place == "denoiser" else "SD"
    match place:
        case "denoiser":
            weights = denoiser(name).state_dict() | {QUERY: STRANGE[kind]}
        case "original":
            weights = original(name) | {"middle_block.1.proj_in.weight": STRANGE[kind]}
        case "adapter":
            layer = "unet.mid_block.attentions.0.proj_in"
            weights = {f"{layer}.lora_A.weight": STRANGE[kind], f"{layer}.lora_B.weight": torch.ones(16, 16)}
    torch.save(weights, tmp_path / "suspect.pt")
    with pytest.raises(InvalidCheckpoint, match=r"plain tensor|floating point|packed 4-bit|has the shape"):
        load_suspect(tmp_path / "suspect.pt", architecture(name), base_of(name))


@pytest.mark.parametrize("name", ["x" * 1_000_000, "line\nline", "\x1b[2J", "\udce9"])
def test_a_message_repeats_no_hostile_name(tmp_path, name):
    torch.save(denoiser("SD").state_dict() | {name: torch.ones(1)}, tmp_path / "suspect.pt")
    with pytest.raises(InvalidCheckpoint, match="which no model has") as error:
        load_suspect(tmp_path / "suspect.pt", architecture("SD"))
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


def test_a_form_repeats_no_hostile_file_name(tmp_path):
    save_file(truth("SD"), tmp_path / "a.safetensors")
    (tmp_path / "\x1b[2J\udce9.ckpt").write_bytes(b"")
    form = load_suspect(tmp_path, architecture("SD")).form
    assert form.isprintable()
    assert r"\x1b[2J\udce9.ckpt: not used" in form


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", json.dumps({"r": "x" * (1 << 20)})])
def test_a_hostile_configuration_of_an_adapter(tmp_path, text):
    adapt(tmp_path, "SD")
    weights = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(InvalidCheckpoint, match=r"JSON|no configuration"):
        load_suspect(tmp_path, architecture("SD"), base_of("SD"))
    (tmp_path / "adapter_config.json").unlink()
    save_file(weights, tmp_path / "adapter_model.safetensors", metadata={"lora_adapter_metadata": text})
    with pytest.raises(InvalidCheckpoint, match="lora_adapter_metadata is no JSON object"):
        load_suspect(tmp_path, architecture("SD"), base_of("SD"))


def test_a_file_of_unknown_types(tmp_path):
    header = json.dumps({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))
    with pytest.raises(InvalidCheckpoint):
        load_suspect(tmp_path / "a.safetensors", architecture("SD"))


def test_weights_stay_in_the_file_until_they_must_change(tmp_path):
    """One copy of the suspect at most: float32 weights are not even read before they are used."""
    path = tmp_path / "model.safetensors"
    save_file(truth("SD"), path)
    suspect = load_suspect(path, architecture("SD"))
    with path.open("r+b") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(start)
        file.write(bytes(path.stat().st_size - start))
    assert not any(value.any() for value in suspect.denoiser.state_dict().values())
