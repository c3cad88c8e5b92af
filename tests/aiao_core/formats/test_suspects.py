"""Every form in which a copy of a model is found, against the denoiser's own tensors."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.archives import opened
from aiao_core.formats.suspects import load_suspect
from tests.support.families import make
from tests.support.suspect_files import (
    PREFIX,
    adapt,
    architecture,
    base_of,
    check,
    check_merged,
    denoiser,
    every_family,
    original,
    save_companions,
    truth,
    with_original_layout,
    write_gguf,
    zipped,
)

COMPANIONS = {
    "first_stage_model.decoder.conv_in.weight": torch.ones(2),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.ones(2),
    "alphas_cumprod": torch.ones(2),
}


@pytest.mark.long
@every_family
@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_folders_that_save_pretrained_writes(tmp_path, name, variant, sharded, safe):
    dtype = {None: torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[variant]
    part = "unet" if name in ("unconditional", "SD", "SD 2", "SDXL") else "transformer"
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


@every_family
def test_a_gguf_file(tmp_path, name):
    layouts = {"diffusers": truth(name)} | ({} if name == "unconditional" else {"original": original(name)})
    for layout, weights in layouts.items():
        suspect = load_suspect(write_gguf(tmp_path / f"{layout}.gguf", weights), architecture(name))
        check(suspect, truth(name, torch.float16))
        assert suspect.form.startswith("GGUF")


def test_several_files_are_each_named(tmp_path):
    save_companions(tmp_path)
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
    assert forms["training_args.bin"].startswith("not used, training_args.bin: this is a short text")


def test_an_adapter_among_companions_is_merged_into_the_base(tmp_path):
    save_companions(tmp_path)
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


def test_two_adapters_for_the_same_layers_are_not_guessed(tmp_path):
    save_file(truth("SD"), tmp_path / "model.safetensors")
    for number, kind in enumerate(("LoRA", "LoKr")):
        adapt(tmp_path / str(number), "SD", kind, seed=number)
    words = r"several adapters for the same layers \(0/adapter_model.safetensors, 1/adapter_model.safetensors\).*; submit one"
    with pytest.raises(InvalidCheckpoint, match=words):
        load_suspect(tmp_path, architecture("SD"))


def lora_for(layer: str, seed: int) -> tuple[dict, torch.Tensor]:
    """A LoRA for one layer of SD, and what it adds."""
    generator = torch.Generator().manual_seed(seed)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, 16), (16, 2)))
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, up @ down


def test_two_adapters_for_other_layers_are_merged_both(tmp_path):
    save_file(truth("SD"), tmp_path / "model.safetensors")
    expected = truth("SD")
    for number, part in enumerate(("to_q", "to_k")):
        layer = f"mid_block.attentions.0.transformer_blocks.0.attn1.{part}"
        adapter, change = lora_for(layer, number)
        save_file(adapter, tmp_path / f"{part}.safetensors")
        expected = expected | {f"{layer}.weight": expected[f"{layer}.weight"] + change}
    check_merged(load_suspect(tmp_path, architecture("SD")), expected, "SD")


def test_an_adapter_for_another_model_beside_a_denoiser_is_put_aside(tmp_path):
    save_file(truth("SD"), tmp_path / "model.safetensors")
    adapter, _ = lora_for("transformer_blocks.0.attn.to_q", seed=0)
    save_file(adapter, tmp_path / "strange.safetensors")
    suspect = load_suspect(tmp_path, architecture("SD"))
    check(suspect, truth("SD"))
    assert "strange.safetensors: not used, this is a PEFT LoRA of rank 2 for 1 layer, but it targets" in suspect.form
    with pytest.raises(WrongArchitecture, match="made for another base model"):
        load_suspect(tmp_path / "strange.safetensors", architecture("SD"), base_of("SD"))


def test_two_checkpoints_are_not_guessed(tmp_path):
    save_file(truth("SD"), tmp_path / "a.safetensors")
    save_file(original("SD"), tmp_path / "b.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"several checkpoints \(a.safetensors, b.safetensors\); submit one"):
        load_suspect(tmp_path, architecture("SD"))


def test_a_pipeline_folder_with_an_adapter_beside_it(tmp_path):
    expected = adapt(tmp_path / "model", "SD")
    denoiser("SD").save_pretrained(tmp_path / "model" / "unet")
    check_merged(load_suspect(tmp_path / "model", architecture("SD")), expected, "SD")


def test_a_whole_pipeline(tmp_path):
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


@pytest.mark.parametrize("safe", [True, False])
def test_shards_without_an_index_are_read_if_all_are_there(tmp_path, safe):
    denoiser("FLUX").save_pretrained(tmp_path, max_shard_size="20KB", safe_serialization=safe)
    next(tmp_path.glob("*.index.json")).unlink()
    form = "sharded safetensors" if safe else "sharded PyTorch pickle"
    suspect = load_suspect(tmp_path, architecture("FLUX"))
    check(suspect, truth("FLUX"))
    assert suspect.form == form
    with pytest.raises(InvalidCheckpoint, match=r"is one of \d+ shards; submit the folder"):
        load_suspect(next(tmp_path.glob("*-00002-of-*")), architecture("FLUX"))
    (tmp_path / "config.json").unlink()
    check(load_suspect(tmp_path, architecture("FLUX")), truth("FLUX"))
    next(tmp_path.glob("*-00002-of-*")).unlink()
    with pytest.raises(
        InvalidCheckpoint, match=r"is one of \d+ shards, and diffusion_pytorch_model-00002-of-\d+\..* not in its"
    ):
        load_suspect(tmp_path, architecture("FLUX"))


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
