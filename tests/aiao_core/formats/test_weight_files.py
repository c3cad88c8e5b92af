"""Files of weights that describe more than they hold, or hold it more than once; with odd notes; and in shards."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.suspects import load_suspect
from aiao_core.formats.weight_files import read_weights
from tests.support.suspect_files import adapt, architecture, base_of, check, check_merged, denoiser, original, truth, write_gguf


def test_a_pickle_that_describes_more_than_it_holds_is_refused(tmp_path):
    """One number, and a tensor of 400 GB that repeats it."""
    torch.save({"weight": torch.zeros(1).expand(10**11)}, tmp_path / "large.pt")
    with pytest.raises(InvalidCheckpoint, match="describes 400000000000 bytes of weights"):
        read_weights(tmp_path / "large.pt")


def test_a_pickle_of_tied_weights_is_read(tmp_path):
    shared = torch.randn(1000)
    torch.save({"one": shared, "other": shared, "third": shared[:500]}, tmp_path / "tied.pt")
    assert sorted(read_weights(tmp_path / "tied.pt")[0]) == ["one", "other", "third"]


def odd(file: Path, weights: dict[str, torch.Tensor], notes: object) -> Path:
    """A file whose notes break the rules of the format, as merge programs write them."""
    save_file(weights, file)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": notes} | json.loads(content[8 : 8 + length])).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return file


NOTES = [{"epoch": 3}, {"a": None}, {"a": ["b"]}, {"a": {"b": 1}}, {"a": True}, [], 3, None, "text"]
WEIGHTS = {
    "matrix": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.float16), "number": torch.tensor(2.0),
    "bytes": torch.arange(5, dtype=torch.uint8), "fp8": torch.ones(3).to(torch.float8_e4m3fn), "bf16": torch.ones(7).bfloat16(),
}  # fmt: skip


@pytest.mark.parametrize("notes", NOTES)
def test_notes_that_are_not_text_are_no_obstacle(tmp_path, notes):
    found, form = read_weights(odd(tmp_path / "a.safetensors", WEIGHTS, notes))
    assert form == "safetensors"
    assert found.keys() == WEIGHTS.keys()
    assert all(
        torch.equal(found[name].float(), value.float()) and found[name].dtype == value.dtype for name, value in WEIGHTS.items()
    )


DAMAGE = {
    "an unknown type": lambda header: header["matrix"].update(dtype="F6_E2M3"),
    "another shape": lambda header: header["matrix"].update(shape=[2, 4]),
    "a negative shape": lambda header: header["matrix"].update(shape=[-2, -3]),
    "a text for a shape": lambda header: header["matrix"].update(shape="23"),
    "a huge shape": lambda header: header["matrix"].update(shape=[1 << 62, 4, 0]),
    "a huge shape of nothing": lambda header: header["number"].update(shape=[1 << 70, 0], data_offsets=[0, 0]),
    "overlapping": lambda header: header["matrix"].update(data_offsets=header["half"]["data_offsets"]),
    "no offsets": lambda header: header["matrix"].pop("data_offsets"),
    "a list for a tensor": lambda header: header.update(matrix=[]),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_odd_notes_hide_no_damage(tmp_path, how):
    file = odd(tmp_path / "a.safetensors", WEIGHTS, {"epoch": 3})
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    DAMAGE[how](header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(InvalidCheckpoint, match="no complete safetensors file"):
        read_weights(file)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    entry = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [%d, %d]}'
    text = ('{"__metadata__": {"n": 1}, ' + entry % (0, 4) + ", " + entry % (4, 8) + "}").encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(InvalidCheckpoint, match="no complete safetensors file"):
        read_weights(tmp_path / "a.safetensors")


def test_an_adapter_with_odd_notes_is_merged(tmp_path):
    expected = adapt(tmp_path / "adapter", "SD")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    odd(tmp_path / "lora.safetensors", weights, {"epoch": 3, "lora_adapter_metadata": json.dumps({"r": 3, "lora_alpha": 6})})
    check_merged(load_suspect(tmp_path / "lora.safetensors", architecture("SD"), base_of("SD")), expected, "SD")


@pytest.mark.parametrize("configuration", [3, None, [], {"r": 3}, "[]"])
def test_a_configuration_in_odd_notes_is_checked_all_the_same(tmp_path, configuration):
    adapt(tmp_path / "adapter", "SD")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    odd(tmp_path / "lora.safetensors", weights, {"epoch": 3, "lora_adapter_metadata": configuration})
    with pytest.raises(InvalidCheckpoint, match="lora_adapter_metadata is no JSON object"):
        load_suspect(tmp_path / "lora.safetensors", architecture("SD"), base_of("SD"))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_markers_of_merge_programs_are_no_weights(tmp_path, prefix):
    """NoobAI and others note with empty tensors how a model predicts."""
    markers = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([]), "edm_vpred.sigma_max": torch.tensor(14.6)}
    save_file({prefix + name: value for name, value in original("SDXL").items()} | markers, tmp_path / "a.safetensors")
    check(load_suspect(tmp_path / "a.safetensors", architecture("SDXL")), truth("SDXL"))
    save_file(truth("SDXL") | markers, tmp_path / "b.safetensors")
    check(load_suspect(tmp_path / "b.safetensors", architecture("SDXL")), truth("SDXL"))


def shards_of(folder: Path, names: list[str]) -> None:
    tensors = sorted(truth("SD"))
    for number, name in enumerate(names):
        save_file({tensor: truth("SD")[tensor] for tensor in tensors[number :: len(names)]}, folder / name)


@pytest.mark.parametrize(
    "names",
    [
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ["model-1-of-2.safetensors", "model-2-of-2.safetensors"],
        ["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"],
        ["a.fp16-00001-of-00002.sft", "a.fp16-00002-of-00002.sft"],
        ["diffusion_pytorch_model-00001-of-00002.fp16.safetensors", "diffusion_pytorch_model-00002-of-00002.fp16.safetensors"],
        ["model-00001-of-00001.safetensors"],
    ],
)
def test_shards_are_known_by_their_names(tmp_path, names):
    shards_of(tmp_path, names)
    (tmp_path / "._model-00003-of-00002.safetensors").write_bytes(b"")
    check(load_suspect(tmp_path, architecture("SD")), truth("SD"))


def test_the_missing_shard_is_named(tmp_path):
    shards_of(tmp_path, ["model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"])
    with pytest.raises(InvalidCheckpoint, match=r"model-00001-of-00003\.safetensors is not in its folder"):
        load_suspect(tmp_path, architecture("SD"))


def test_two_sets_of_shards_are_two_checkpoints(tmp_path):
    for name in "ab":
        shards_of(tmp_path, [f"{name}-00001-of-00002.safetensors", f"{name}-00002-of-00002.safetensors"])
    with pytest.raises(InvalidCheckpoint, match="several checkpoints"):
        load_suspect(tmp_path, architecture("SD"))


def test_shards_that_hold_a_tensor_twice_are_refused(tmp_path):
    for number in (1, 2):
        save_file({"a.weight": torch.full((2,), float(number))}, tmp_path / f"m-0000{number}-of-00002.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"hold a\.weight twice, so they are not parts of one"):
        read_weights(tmp_path / "m-00001-of-00002.safetensors")


def test_a_false_number_of_shards_costs_nothing(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "m-000001-of-999999.safetensors")
    with pytest.raises(InvalidCheckpoint, match="one of 999999 shards; at most"):
        read_weights(tmp_path / "m-000001-of-999999.safetensors")


@pytest.mark.parametrize("name", ["a.ckpt", "a.bin", "a.sft", "a.SAFETENSORS", "a.CKPT"])
@pytest.mark.parametrize("safe", [True, False])
def test_content_decides_in_folders_too(tmp_path, name, safe):
    save_file(truth("SD"), tmp_path / name) if safe else torch.save(truth("SD"), tmp_path / name)
    suspect = load_suspect(tmp_path, architecture("SD"))
    check(suspect, truth("SD"))
    assert suspect.form == ("safetensors" if safe else "PyTorch pickle")
    denoiser("SD").save_config(tmp_path)  # as a part of a pipeline
    check(load_suspect(tmp_path, architecture("SD")), truth("SD"))


def test_notes_of_macos_in_a_folder_are_passed_over(tmp_path):
    denoiser("SD").save_pretrained(tmp_path / "model" / "unet")
    for file in list(tmp_path.rglob("*.*")):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    check(load_suspect(tmp_path / "model", architecture("SD")), truth("SD"))
    check(load_suspect(tmp_path / "model" / "unet", architecture("SD")), truth("SD"))
    (tmp_path / "model" / "unet" / "config.json").unlink()
    check(load_suspect(tmp_path / "model", architecture("SD")), truth("SD"))


def test_a_pipelines_own_denoiser_counts_before_a_single_file_beside_it(tmp_path):
    denoiser("SD").save_pretrained(tmp_path / "unet")
    save_file(
        {f"model.diffusion_model.{name}": value + 1 for name, value in original("SD").items()}, tmp_path / "whole.safetensors"
    )
    suspect = load_suspect(tmp_path, architecture("SD"))
    check(suspect, truth("SD"))
    assert "whole.safetensors: not used, because unet/diffusion_pytorch_model.safetensors is the pipeline's own" in suspect.form


def test_parts_of_a_gguf_file_say_how_to_join_them(tmp_path):
    for number in (1, 2):
        write_gguf(tmp_path / f"flux-0000{number}-of-00002.gguf", {"a.weight": torch.ones(32)})
    with pytest.raises(InvalidCheckpoint, match="one of 00002 parts of a GGUF file; join them with llama-gguf-split --merge"):
        load_suspect(tmp_path, architecture("FLUX"))


def test_a_broken_index_beside_a_plain_file_is_no_obstacle(tmp_path):
    denoiser("SD").save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text("broken")
    check(load_suspect(tmp_path, architecture("SD")), truth("SD"))
