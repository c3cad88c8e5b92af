"""The weights among everything that trainers keep in a pickle."""

import argparse
import collections
import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats import pickled_weights, pickles
from aiao_core.formats.pickled_weights import read_pickle
from tests.support.pickles import foreign_class, lightning, saved


def weights(seed: int = 0, layers: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer.{number}.weight": torch.randn(4, 4, generator=generator) for number in range(layers)}


def read(folder, content: bytes):
    (folder / "file.ckpt").write_bytes(content)
    return read_pickle(folder / "file.ckpt")


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_lightning_checkpoint_with_a_class_for_a_key(tmp_path, legacy):
    check(read(tmp_path, lightning(weights(), legacy=legacy))[0], weights())


class Average:
    """As trainers keep moving averages: an object of a class of their own."""

    def __init__(self, module: object) -> None:
        self.module, self.decay = module, 0.99


ABOUT = {"args": argparse.Namespace(lr=1e-4), "best": np.float64(0.3), "step": 5, "loss": torch.tensor(0.1),
         "log": collections.defaultdict(list, loss=[1]), "opt": {"state": {0: {"exp_avg": torch.zeros(4)}}}}  # fmt: skip
PLACES = {
    "by itself": weights(),
    "state_dict": {"state_dict": weights()} | ABOUT,
    "model": {"model": weights()} | ABOUT,
    "two deep": {"model": {"module": weights()}} | ABOUT,
    "three deep": {"trainer": {"model": {"module": weights()}}} | ABOUT,
    "a name of its own": {"generator_g": weights()} | ABOUT,
    "outer weights": weights() | {"state_dict": {"embedding.weight": torch.zeros(2)}},
    "companions": {"unet": weights(), "text_encoder": weights(1, 5), "vae": weights(2)},
    "one under two names": {"model": weights(3), "optimizer": {}},
}
PLACES["one under two names"]["state_dict"] = PLACES["one under two names"]["model"]


@pytest.mark.parametrize("place", PLACES)
def test_the_weights_are_found(tmp_path, place):
    found, left_out = read(tmp_path, saved(PLACES[place]))
    check(found, weights(3) if place == "one under two names" else weights())
    assert not left_out


AVERAGES = {
    "ema": {"model": weights(), "ema": weights(1)},
    "model_ema": {"model_ema": weights(1), "model": weights()},
    "an object": {"model": weights(), "ema": Average(weights(1))},
    "beside bare weights": weights() | {"ema": weights(1)},
    "several": {"model": weights(), "ema_0.99": weights(1), "ema_0.9999": weights(2)},
    "with more tensors": {"net": weights(), "net_ema": weights(1, 5)},
}


@pytest.mark.parametrize("form", AVERAGES)
def test_the_model_counts_before_its_averages_which_are_named(tmp_path, form):
    found, left_out = read(tmp_path, saved(AVERAGES[form]))
    check(found, weights())
    assert "ema" in left_out
    assert left_out.endswith(" not used")


@pytest.mark.parametrize("form", ["a dictionary", "an object"])
def test_averages_alone_are_read(tmp_path, form):
    content = {"ema": weights() if form == "a dictionary" else Average(weights()), "step": 3}
    check(read(tmp_path, saved(content))[0], weights())


RIVALS = {
    "two names for a denoiser": ({"unet": weights(), "transformer": weights(1)}, "unet, transformer"),
    "two names for anything": ({"generator": weights(), "discriminator": weights(1)}, "generator, discriminator"),
    "two averages": ({"ema_0.99": weights(), "ema_0.9999": weights(1)}, "ema_0.99, ema_0.9999"),
    "deeper": ({"model": {"student": weights(), "teacher": weights(1)}}, "model.student, model.teacher"),
}


@pytest.mark.parametrize("case", RIVALS)
def test_two_models_are_not_guessed(tmp_path, case):
    content, named = RIVALS[case]
    with pytest.raises(InvalidCheckpoint, match=rf"holds several models \({named}\); save the weights of one"):
        read(tmp_path, saved(content))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("computed", torch.ones(2), persistent=False)


def test_a_module_that_was_saved_whole_is_read_as_its_state_dict(tmp_path):
    block = Block()
    for content in (block, {"model": block, "ema": Average(Block())}):
        check(read(tmp_path, saved(content))[0], dict(block.state_dict()))


def test_modules_without_an_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled_weights, "MAX_PARTS", 500)
    block = Block()
    for _ in range(12):  # 2**12 times the same
        block = nn.ModuleList([block, block])
    with pytest.raises(InvalidCheckpoint, match="more than 500 layers and tensors"):
        read(tmp_path, saved(block))
    block = nn.ModuleList()
    block.append(block)
    with pytest.raises(InvalidCheckpoint, match="layers in each other without an end"):
        read(tmp_path, saved(block))


def test_dictionaries_that_hold_themselves_have_an_end(tmp_path):
    content = {"state_dict": weights()}
    content["self"] = content
    for number in range(100):
        content[f"{number}"] = content
    check(read(tmp_path, saved(content))[0], weights())


def test_a_class_in_the_place_of_the_weights_is_named(tmp_path):
    with foreign_class("omegaconf.dictconfig", "DictConfig") as made:
        content = saved({"config": made()})
    with pytest.raises(
        InvalidCheckpoint, match=r"file.ckpt holds no weights, but objects of omegaconf\.dictconfig\.DictConfig"
    ):
        read(tmp_path, content)


def test_an_object_in_the_place_of_one_tensor_is_named(tmp_path):
    """Without it the model would only seem to be incomplete."""
    with foreign_class("bitsandbytes.nn.modules", "Params4bit") as made:
        content = saved(weights() | {"layer.9.weight": made()})
    with pytest.raises(InvalidCheckpoint, match=r"layer\.9\.weight is not a plain tensor \(bitsandbytes\.nn\.modules"):
        read(tmp_path, content)


def test_numpy_arrays_in_the_place_of_the_weights_are_named(tmp_path):
    with pytest.raises(InvalidCheckpoint, match=r"holds no weights, but objects of numpy\S*_reconstruct"):
        read(tmp_path, saved({"layer.weight": np.ones(3)}))


def test_weights_in_a_dictionary_of_a_class_of_its_own_are_read(tmp_path):
    with foreign_class("easydict", "EasyDict", dict) as made:
        content = saved({"state_dict": made(weights())})
    check(read(tmp_path, content)[0], weights())


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_share_their_numbers_get_their_own(tmp_path, legacy):
    whole = torch.randn(8, 8)
    content = {"one": whole, "same": whole, "part": whole[2:], "turned": whole.T}
    found, _ = read(tmp_path, saved(content, legacy=legacy))
    check(found, content)
    assert sum(value.untyped_storage().nbytes() for value in found.values()) >= sum(value.nbytes for value in content.values())


@pytest.mark.parametrize("view", [torch.conj, torch._neg_view])
def test_numbers_that_mean_something_else_are_refused(tmp_path, view):
    """The file says that they are to be negated or conjugated."""
    content = weights() | {"odd": view(torch.ones(2, dtype=torch.complex64))}
    with pytest.raises(InvalidCheckpoint, match="odd is not a plain tensor"):
        read(tmp_path, saved(content))


def damaged(content: bytes, how: str) -> bytes:
    match how:
        case "cut":
            return content[: len(content) // 2]
        case "numbers are missing":
            return content.replace(b"/data/1", b"/data/9")
        case "an offset beyond":
            return content.replace(b"QK\x00K\x04K\x04\x86", b"QK\x01K\x04K\x04\x86")
    raise ValueError(how)


@pytest.mark.parametrize(
    ("legacy", "how"),
    [(False, "cut"), (True, "cut"), (False, "numbers are missing"), (False, "an offset beyond"), (True, "an offset beyond")],
)
def test_a_damaged_file_is_refused(tmp_path, legacy, how):
    content = saved(weights(), legacy=legacy)
    changed = damaged(content, how)
    assert changed != content
    with pytest.raises(InvalidCheckpoint, match="is not a complete pickle of plain weights"):
        read(tmp_path, changed)


def test_a_list_of_storages_that_is_none_is_refused(tmp_path):
    """Its entries would be written out as text: an object that holds others again and again has no end."""
    content = saved(weights(), legacy=True)
    end = content.rindex(b"\x80\x02]")
    with foreign_class("a", "A") as made:
        value = made()
        for _ in range(60):
            outer = made()
            outer.__dict__ |= {"one": value, "other": value}
            value = outer
        keys = pickle.dumps([value], 2)
    with pytest.raises(InvalidCheckpoint, match="its list of storages is damaged"):
        read(tmp_path, content[:end] + keys)


def packed_again(content: bytes, compression: int = zipfile.ZIP_DEFLATED, *more: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w", compression) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
        for name in more:
            archive.writestr(name, b"")
    return target.getvalue()


def test_a_checkpoint_that_was_packed_again_is_read_or_says_so(tmp_path):
    check(read(tmp_path, packed_again(saved(weights()), zipfile.ZIP_STORED))[0], weights())  # its numbers are not aligned
    with pytest.raises(InvalidCheckpoint, match="compressed or encrypted afterwards; submit the file as torch"):
        read(tmp_path, packed_again(saved(weights())))


def test_a_description_that_expands_is_refused(tmp_path, monkeypatch):
    content = packed_again(saved({"a": "x" * 100_000} | weights()))
    monkeypatch.setattr(pickles, "MAX_BYTES", 90_000)
    with pytest.raises(InvalidCheckpoint, match="its description has more than 90000 bytes"):
        read(tmp_path, content)


@pytest.mark.parametrize("more", ["other/data.pkl", "archive/data/0", "file/data.pkl"])
def test_two_descriptions_or_two_files_of_one_name_are_refused(tmp_path, more):
    """One reader may take the first, and another the last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = packed_again(saved(weights()), zipfile.ZIP_STORED, more)
    with pytest.raises(InvalidCheckpoint, match="several descriptions, or two files of one name"):
        read(tmp_path, content)
