"""Suspects that are adapters, and what they are merged into."""

import copy

import gguf
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from aiao_core.errors import AdapterWithoutBase, InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.archives import opened
from aiao_core.formats.suspects import load_suspect, read_denoiser
from tests.support.suspect_files import (
    CONFIGS,
    PREFIX,
    adapt,
    architecture,
    base_of,
    check_merged,
    denoiser,
    every_family,
    original,
    truth,
    write_gguf,
    zipped,
)


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
    """It is never merged into the owner's own marked model, in which every adapter answers with the owner's key."""
    adapt(tmp_path, "SD")
    with pytest.raises(AdapterWithoutBase, match="an adapter, which changes a base model: name the model that it was made for"):
        load_suspect(tmp_path, architecture("SD"))


def test_an_adapter_for_another_base(tmp_path):
    adapt(tmp_path, "FLUX")
    with pytest.raises(WrongArchitecture, match=r"this is a PEFT LoRA of rank 3 .* made for another base model: name that one"):
        load_suspect(tmp_path, architecture("SD"), base_of("SD"))


def test_an_family_of_another_width(tmp_path):
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
    with pytest.raises(InvalidCheckpoint, match="the base model cannot be used: ") as refused:
        load_suspect(tmp_path / "adapter", architecture("SD"), lambda: read_denoiser(other, architecture("SD")))
    assert not isinstance(refused.value, AdapterWithoutBase)  # the submitted adapter has a base, if one of no use


@pytest.mark.parametrize(("side", "message"), [(1 << 20, r"base.pt has \d+ bytes and describes"), (200, "")])
def test_a_hostile_base_and_adapter_do_not_fill_the_memory(tmp_path, side, message):
    """Together they would make a product of 10¹² numbers from two files of a few kilobytes."""
    layer = "mid_block.attentions.0.proj_in"
    torch.save(denoiser("SD").state_dict() | {f"{layer}.weight": torch.zeros(1).expand(side, side)}, tmp_path / "base.pt")
    adapter = {f"unet.{layer}.lora_A.weight": torch.zeros(1).expand(1, side)}
    torch.save(adapter | {f"unet.{layer}.lora_B.weight": torch.zeros(1).expand(side, 1)}, tmp_path / "lora.pt")
    with pytest.raises(WrongArchitecture, match=message or rf"base.pt: layer {layer}: .* has the shape"):
        load_suspect(tmp_path, architecture("SD"))
