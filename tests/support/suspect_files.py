"""Copies of small models in the forms in which suspects are found, written by the libraries that write them."""

import copy
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from diffusers import AutoencoderKL
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from aiao_core.key import Architecture
from tests.support.families import make
from tests.support.original_layout import to_original

MODELS = {name: make(name) for name in ("unconditional", "SD", "SD 2", "SDXL", "SD3", "FLUX")}
every_family = pytest.mark.parametrize("name", MODELS)
with_original_layout = pytest.mark.parametrize("name", ["SD", "SD 2", "SDXL", "SD3", "FLUX"])
PREFIX = "model.diffusion_model."


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


def write_gguf(path: Path, weights: dict[str, Tensor], kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16) -> Path:
    writer = gguf.GGUFWriter(path, "diffusion")
    for name, value in weights.items():
        writer.add_tensor(name, gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


TARGETS = {
    "unconditional": ["to_q", "conv1"],
    "SD": ["to_q", "to_out.0", "conv1"],
    "SD 2": ["to_v", "proj_in"],
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


def save_companions(folder: Path) -> None:
    """A VAE, a text encoder and an adapter of a text encoder in single files, as image programs keep them."""
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    save_file(vae.state_dict(), folder / "vae.safetensors")
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    )
    save_file(text.state_dict(), folder / "clip.safetensors")
    names = ("lora_down", "lora_up")
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file({f"{layer}.{name}.weight": torch.ones(8, 8) for name in names}, folder / "words.safetensors")
