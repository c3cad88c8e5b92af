"""Suspects that cannot be tested: each gets a reason in words, and costs nothing."""

import json

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats import suspect_files, suspects
from aiao_core.formats.suspects import load_suspect
from tests.support.suspect_files import adapt, architecture, base_of, denoiser, original, save_companions, truth, write_gguf


def test_companions_alone_are_named(tmp_path):
    save_companions(tmp_path)
    for file, words in (("vae", "a VAE alone"), ("clip", "a text encoder alone")):
        with pytest.raises(WrongArchitecture, match=words):
            load_suspect(tmp_path / f"{file}.safetensors", architecture("SD"))
    with pytest.raises(WrongArchitecture, match=r"none of the files is the denoiser.*a text encoder alone.*a VAE alone"):
        load_suspect(tmp_path, architecture("SD"), base_of("SD"))
    with pytest.raises(InvalidCheckpoint, match="are for text encoders"):
        load_suspect(tmp_path / "words.safetensors", architecture("SD"), base_of("SD"))


@pytest.mark.parametrize("form", ["original", "gguf", "fp8", "folder"])
def test_a_checkpoint_of_another_family(tmp_path, form, monkeypatch):
    monkeypatch.setattr(suspect_files, "dequantize", lambda weights: (weights, None))  # it is told apart by its names alone
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
def test_quantized_weights_that_would_fill_the_memory(tmp_path, form):
    many = {f"more.{number}.weight": torch.zeros(1000, 1000) for number in range(2)}
    if form == "gguf":
        path = write_gguf(tmp_path / "model.gguf", truth("SD") | many, gguf.GGMLQuantizationType.F16)
    else:
        path = tmp_path / "model.safetensors"
        save_file({name: value.to(torch.float8_e5m2) for name, value in (truth("SD") | many).items()}, path)
    with pytest.raises(WrongArchitecture, match="too many for the denoiser of the registered UNet2DConditionModel"):
        load_suspect(path, architecture("SD"))


def test_another_quantization_is_named(tmp_path):
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
    "quantized": torch.quantize_per_tensor(torch.ones(16, 16), 0.1, 0, torch.qint8),
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


@pytest.mark.long
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
