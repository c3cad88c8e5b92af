"""The digest of a suspect's weights, from which its test follows; and the base that an adapter is tested apart from."""

import copy
import json

import gguf
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from aiao_core.denoisers.weights import digest
from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats import suspects
from aiao_core.formats.archives import opened
from aiao_core.formats.suspects import load_suspect
from tests.support.suspect_files import (
    CONFIGS,
    PREFIX,
    adapt,
    architecture,
    base_of,
    denoiser,
    every_family,
    original,
    save_companions,
    truth,
    with_original_layout,
    write_gguf,
    zipped,
)

HALF = torch.float16


def weights_of(path, name: str, base=None) -> str:
    return load_suspect(path, architecture(name), base).weights


def packings(folder, name: str):
    """The weights of one model in half precision, in every form that keeps their numbers."""
    part = "unet" if name in ("unconditional", "SD", "SD 2", "SDXL") else "transformer"
    half = {tensor: value.to(HALF) for tensor, value in denoiser(name).state_dict().items()}
    model = copy.deepcopy(denoiser(name)).to(HALF)
    model.save_pretrained(folder / "whole" / part)
    yield folder / "whole"
    yield folder / "whole" / part
    yield zipped(folder / "whole")
    model.save_pretrained(folder / "sharded", max_shard_size="20KB", safe_serialization=False)
    yield folder / "sharded"
    save_file(half, folder / "half.safetensors")
    yield folder / "half.safetensors"
    save_file({tensor: value.float() for tensor, value in half.items()}, folder / "single.safetensors")
    yield folder / "single.safetensors"
    torch.save({"state_dict": {f"module.{tensor}": value.double() for tensor, value in half.items()}}, folder / "double.ckpt")
    yield folder / "double.ckpt"
    (folder / "beside").mkdir()
    save_file(half, folder / "beside" / "model.safetensors")
    save_companions(folder / "beside")
    yield folder / "beside"


@every_family
def test_the_same_weights_have_the_same_digest_however_they_are_packed(tmp_path, name):
    found = []
    for path in packings(tmp_path, name):
        with opened(path) as content:
            suspect = load_suspect(content, architecture(name))
        assert suspect.weights == digest(suspect.denoiser.state_dict())  # as a test finds that is given the model alone
        assert (suspect.base, suspect.base_name) == (None, None)
        found.append(suspect.weights)
    assert len(found) == 8
    assert set(found) == {digest(truth(name, HALF))}


@with_original_layout
def test_another_layout_of_the_same_weights_is_no_other_suspect(tmp_path, name):
    save_file(original(name), tmp_path / "bare.safetensors")
    save_file({PREFIX + tensor: value for tensor, value in original(name).items()}, tmp_path / "whole.safetensors")
    write_gguf(tmp_path / "model.gguf", original(name), gguf.GGMLQuantizationType.F32)
    files = ("bare.safetensors", "whole.safetensors", "model.gguf")
    assert {weights_of(tmp_path / file, name) for file in files} == {digest(truth(name))}


TENSORS = sorted(truth("SD"))


@given(st.sampled_from(TENSORS), st.data())
def test_any_change_of_any_tensor_is_another_suspect(tensor, data):
    weights = truth("SD")
    before = digest(weights)
    value = weights[tensor].clone()
    where = data.draw(st.integers(0, value.numel() - 1))
    flat = value.view(-1)
    flat[where] = torch.nextafter(flat[where], torch.tensor(torch.inf))
    assert digest(weights | {tensor: value}) != before
    assert digest({name: value for name, value in weights.items() if name != tensor}) != before
    assert digest({name + "x" * (name == tensor): value for name, value in weights.items()}) != before
    assert digest(dict(reversed(weights.items()))) == before


def test_the_shape_and_the_place_of_numbers_count(tmp_path):
    flat = torch.arange(6.0)
    assert len({digest({"a": flat.view(2, 3)}), digest({"a": flat.view(3, 2)}), digest({"a": flat})}) == 3
    assert digest({"a": flat[:3], "b": flat[3:]}) != digest({"a": flat[:2], "b": flat[2:]})
    assert digest({"a": flat.view(2, 3).T}) == digest({"a": flat.view(2, 3).T.contiguous()})
    assert digest({"a": flat}).startswith("sha256:")
    assert digest({"a": torch.nn.Parameter(flat)}) == digest({"a": flat})


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapters_digest_is_of_what_was_read_and_not_of_a_product_that_rounds(tmp_path, monkeypatch, kind):
    """Merged on another machine, the weights differ in their last digits, and it is the same suspect."""
    adapt(tmp_path / "adapter", "SD", kind)
    before = load_suspect(tmp_path / "adapter", architecture("SD"), base_of("SD"))
    merge = suspects.merge

    def rounding(*arguments):
        merged = merge(*arguments)
        for value in merged.weights.values():
            value += 1e-6 * value.abs()
        return merged

    monkeypatch.setattr(suspects, "merge", rounding)
    after = load_suspect(tmp_path / "adapter", architecture("SD"), lambda: (truth("SD"), "the registered model"))
    assert digest(after.denoiser.state_dict()) != digest(before.denoiser.state_dict())
    assert after.weights == before.weights
    assert before.weights != digest(before.denoiser.state_dict())


def test_an_adapter_packed_otherwise_is_no_other_suspect(tmp_path):
    adapt(tmp_path / "adapter", "SD")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    half = {name: value.to(HALF) for name, value in load_file(file).items()}
    save_file(half, file)
    found = [weights_of(tmp_path / "adapter", "SD", base_of("SD")), weights_of(file, "SD", base_of("SD"))]
    with opened(zipped(tmp_path / "adapter")) as path:
        found.append(weights_of(path, "SD", base_of("SD")))
    save_file({name: value.float() for name, value in half.items()}, file)
    found.append(weights_of(file, "SD", base_of("SD")))
    file.unlink()
    torch.save({name: value.double() for name, value in half.items()}, tmp_path / "adapter" / "adapter_model.bin")
    found.append(weights_of(tmp_path / "adapter", "SD", base_of("SD")))
    assert len(set(found)) == 1


def test_base_numbers_and_scale_of_an_adapter_count(tmp_path):
    def found() -> str:
        return weights_of(tmp_path, "SD", base_of("SD"))

    adapt(tmp_path, "SD")
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    before = found()
    assert found() == before
    others = [weights_of(tmp_path, "SD", lambda: (truth("SD") | {"conv_in.bias": torch.ones(8)}, "another base"))]
    document = json.loads(config.read_text())
    config.write_text(json.dumps(document | {"lora_alpha": 7}))
    others.append(found())
    config.write_text(json.dumps(document))
    assert found() == before
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name][0, 0] += 1e-3
    save_file(tensors, file)
    others.append(found())
    config.unlink()
    others.append(found())
    assert len({before, *others}) == 1 + len(others)


def test_the_scale_that_diffusers_writes_into_the_file_counts(tmp_path):
    found = []
    for alpha in (2, 7, 2):
        torch.manual_seed(0)
        unet = copy.deepcopy(denoiser("SD"))
        unet.add_adapter(LoraConfig(r=2, lora_alpha=alpha, target_modules=["to_q"], init_lora_weights=False))
        unet.save_lora_adapter(tmp_path / str(len(found)))
        found.append(weights_of(tmp_path / str(len(found)), "SD", base_of("SD")))
    assert found[0] == found[2] != found[1]


def test_of_an_adapter_alone_the_base_is_kept_as_it_is_and_named(tmp_path):
    adapt(tmp_path, "SD")
    suspect = load_suspect(tmp_path, architecture("SD"), lambda: (truth("SD"), "my base.zip (safetensors folder)"))
    assert suspect.base_name == "my base.zip"
    assert suspect.form.startswith("base: my base.zip (safetensors folder); PEFT LoRA")
    assert digest(suspect.base.state_dict()) == digest(truth("SD"))
    assert digest(suspect.denoiser.state_dict()) != digest(truth("SD"))


def test_of_an_adapter_beside_a_full_model_that_model_is_the_base(tmp_path):
    save_file(truth("SD"), tmp_path / "model.safetensors")
    whole = weights_of(tmp_path / "model.safetensors", "SD")
    adapt(tmp_path, "SD")
    suspect = load_suspect(tmp_path, architecture("SD"))
    assert suspect.base_name == "model.safetensors"
    assert digest(suspect.base.state_dict()) == digest(truth("SD")) == whole
    assert suspect.weights not in (whole, digest(suspect.denoiser.state_dict()))
    # It is the same suspect as the adapter alone on the same base: where the two lie has no say.
    (tmp_path / "model.safetensors").unlink()
    assert weights_of(tmp_path, "SD", base_of("SD")) == suspect.weights


def test_several_adapters_are_one_suspect_and_each_counts(tmp_path):
    for number in range(2):
        layer = f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{'qk'[number]}"
        (tmp_path / str(number)).mkdir()
        lora = {f"{layer}.lora_A.weight": torch.ones(2, 16), f"{layer}.lora_B.weight": torch.ones(16, 2)}
        save_file(lora, tmp_path / str(number) / "lora.safetensors")
    both = load_suspect(tmp_path, architecture("SD"), base_of("SD"))
    assert digest(both.base.state_dict()) == digest(truth("SD"))
    each = [weights_of(tmp_path / str(number), "SD", base_of("SD")) for number in range(2)]
    assert len({both.weights, *each}) == 3


def text_adapter(file) -> None:
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file({f"{layer}.{part}.weight": torch.ones(8, 8) for part in ("lora_down", "lora_up")}, file)


def test_an_adapter_for_text_encoders_alone_leaves_the_denoiser_as_it_is(tmp_path):
    """It is put aside: the suspect is the full model, which needs no base."""
    save_file(truth("SD"), tmp_path / "model.safetensors")
    whole = weights_of(tmp_path / "model.safetensors", "SD")
    text_adapter(tmp_path / "words.safetensors")
    suspect = load_suspect(tmp_path, architecture("SD"))
    assert "words.safetensors: not used, an adapter for text encoders alone" in suspect.form
    assert (suspect.base, suspect.base_name, suspect.weights) == (None, None, whole)


def test_an_adapter_for_text_encoders_alone_is_no_suspect(tmp_path):
    text_adapter(tmp_path / "words.safetensors")
    for path in (tmp_path, tmp_path / "words.safetensors"):
        with pytest.raises(InvalidCheckpoint, match="text encoder"):
            load_suspect(path, architecture("SD"), base_of("SD"))


def test_what_an_adapter_holds_for_text_encoders_is_left_out_of_the_digest(tmp_path):
    adapt(tmp_path, "SD")
    file = tmp_path / "adapter_model.safetensors"
    before = weights_of(tmp_path, "SD", base_of("SD"))
    layer = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    save_file(load_file(file) | {f"{layer}.lora_{side}.weight": torch.ones(8, 8) for side in "AB"}, file)
    suspect = load_suspect(tmp_path, architecture("SD"), base_of("SD"))
    assert "2 tensors for text encoders left out" in suspect.form
    assert suspect.weights == before
