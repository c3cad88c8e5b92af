import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline
from safetensors.torch import load_file, save_file

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.pipelines import by_names_of, load_model, save_model
from aiao_core.formats.suspects import load_suspect
from aiao_core.formats.weight_files import WEIGHTS
from tests.support.tiny_models import make_tiny_model

LAYER = "mid_block.attentions.0.to_q"


@pytest.fixture
def folder(tmp_path) -> Path:
    model = make_tiny_model()
    DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def architecture():
    return make_tiny_model().architecture


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / WEIGHTS)


def test_a_pipeline_folder_round_trip(folder, tmp_path):
    model = load_model(folder)
    assert next(model.denoiser.parameters()).dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())
    model.denoiser.conv_in.weight.mul_(2)
    save_model(model.denoiser, folder, tmp_path / "saved")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(pipeline.unet.conv_in.weight, model.denoiser.conv_in.weight)
    assert load_model(tmp_path / "saved").architecture == model.architecture
    assert not list(tmp_path.glob("*.partial"))


def test_the_source_type_is_kept_and_bytes_repeat(folder, tmp_path):
    half = {name: value.half() for name, value in weights_of(folder).items()}
    save_file(half, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    model = load_model(folder)
    for name in ("one", "two"):
        save_model(model.denoiser, folder, tmp_path / name)
    assert (tmp_path / "one" / "unet" / WEIGHTS).read_bytes() == (tmp_path / "two" / "unet" / WEIGHTS).read_bytes()
    assert all(value.dtype == torch.float16 for value in weights_of(tmp_path / "one").values())


UNMARKED = (
    "v1-5-pruned.safetensors", "mine.ckpt", "mine.sft", "mine-Q8_0.gguf", "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors.index.json", "unet/model.onnx",
    "unet/diffusion_flax_model.msgpack", "unet/openvino_model.bin", "unet_onnx/model.onnx_data",
    "checkpoint-500/unet/model.bin",
    "nested.zip", ".cache/huggingface/download/weights.incomplete", "unet_ema/diffusion_pytorch_model.safetensors",
)  # fmt: skip
KEPT = (
    "README.md", "LICENSE", "images/example.png", "unet/README.md", "vae/config.json", "vae/diffusion_pytorch_model.bin",
    "tokenizer/spiece.model", "feature_extractor/preprocessor_config.json",
)  # fmt: skip


def test_nothing_that_may_hold_the_unmarked_denoiser_goes_with_the_marked_one(folder, tmp_path):
    model = load_model(folder)
    index = json.loads((folder / "model_index.json").read_text())
    parts = {name: ["diffusers", "AutoencoderKL"] for name in ("vae", "tokenizer", "feature_extractor")}
    (folder / "model_index.json").write_text(json.dumps(index | parts))
    before = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    for name in (*UNMARKED, *KEPT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    save_model(model.denoiser, folder, tmp_path / "saved")
    found = {file.relative_to(tmp_path / "saved").as_posix() for file in (tmp_path / "saved").rglob("*") if file.is_file()}
    assert found == before | set(KEPT)


@pytest.mark.parametrize("form", ["folder", "unet", "file", "bin", "nested", "prefixed", "sharded", "fp16"])
def test_every_form_of_a_suspect(folder, tmp_path, architecture, form):
    weights = weights_of(folder)
    path = tmp_path / "suspect.safetensors"
    match form:
        case "folder":
            path = folder
        case "unet":
            path = folder / "unet"
        case "file":
            save_file(weights, path)
        case "bin":
            path = tmp_path / "suspect.bin"
            torch.save(weights, path)
        case "nested":
            path = tmp_path / "suspect.ckpt"
            torch.save({"epoch": 3, "state_dict": weights}, path)
        case "prefixed":
            save_file({f"model.diffusion_model.{name}": value for name, value in weights.items()}, path)
        case "sharded":
            path = tmp_path / "sharded"
            path.mkdir()
            names = sorted(weights)
            shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
            for file, members in shards.items():
                save_file({name: weights[name] for name in members}, path / file)
            mapping = {name: file for file, members in shards.items() for name in members}
            (path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
        case "fp16":
            save_file({name: value.half() for name, value in weights.items()}, path)
    suspect = load_suspect(path, architecture)
    tolerance = 1e-3 if form == "fp16" else 0
    torch.testing.assert_close(suspect.denoiser.conv_in.weight, weights["conv_in.weight"], atol=tolerance, rtol=tolerance)
    assert suspect.form


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the first releases of diffusers saved them."""
    renamed = {}
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".")
        word = next((word for word in OLD if layer.endswith(f".{word}")), None)
        renamed[f"{layer.removesuffix(word)}{OLD[word]}.{kind}" if word else name] = value
    assert len(renamed.keys() - weights.keys()) == 32  # weights and biases of four layers of each of four attentions
    return renamed


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_attentions_with_diffusers_old_names_are_read(folder, tmp_path, architecture, prefix):
    """As diffusers itself reads them."""
    weights = weights_of(folder)
    old = {prefix + name: value for name, value in with_old_names(weights).items()}
    save_file(old, tmp_path / "suspect.safetensors")
    suspect = load_suspect(tmp_path / "suspect.safetensors", architecture)
    save_file(old, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    model = load_model(folder)
    for state in (suspect.denoiser.state_dict(), model.denoiser.state_dict()):
        assert all(torch.equal(state[name], value) for name, value in weights.items())
    save_model(model.denoiser, folder, tmp_path / "saved")
    assert weights_of(tmp_path / "saved").keys() == weights.keys()


def test_a_vae_with_diffusers_old_names_is_read():
    autoencoder = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    weights = autoencoder.state_dict()
    old = {name.replace("to_q", "query").replace("to_out.0", "proj_attn"): value for name, value in weights.items()}
    assert old.keys() != weights.keys()
    found = by_names_of(autoencoder, old)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_old_and_new_names_side_by_side_are_refused(folder, tmp_path, architecture):
    """Which of the two a program would use is unknown."""
    weights = weights_of(folder)
    save_file(
        {name: value.clone() for name, value in (with_old_names(weights) | weights).items()}, tmp_path / "suspect.safetensors"
    )
    with pytest.raises(WrongArchitecture, match="does not exist in the architecture"):
        load_suspect(tmp_path / "suspect.safetensors", architecture)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("missing", WrongArchitecture, f"layer {LAYER} is missing"),
        ("shape", WrongArchitecture, f"layer {LAYER}: .* has the shape"),
        ("extra", WrongArchitecture, "layer more.of .* does not exist"),
        ("nan", InvalidCheckpoint, f"layer {LAYER}: .* NaN or infinite"),
        ("infinite", InvalidCheckpoint, f"layer {LAYER}: .* NaN or infinite"),
        ("overflow", InvalidCheckpoint, f"layer {LAYER}: .* NaN or infinite"),
        ("integer", InvalidCheckpoint, f"layer {LAYER}: .* floating point"),
    ],
)
def test_wrong_weights_name_the_layer(folder, tmp_path, architecture, change, error, words):
    weights, name = weights_of(folder), f"{LAYER}.weight"
    match change:
        case "missing":
            del weights[name]
        case "shape":
            weights[name] = weights[name][:-1].contiguous()
        case "extra":
            weights["more.of.weight"] = torch.zeros(1)
        case "nan":
            weights[name][0, 0] = torch.nan
        case "infinite":
            weights[name][0, 0] = torch.inf
        case "overflow":
            weights[name] = weights[name].double()
            weights[name][0, 0] = 1e300
        case "integer":
            weights[name] = weights[name].to(torch.int32)
    save_file(weights, tmp_path / "suspect.safetensors")
    with pytest.raises(error, match=words):
        load_suspect(tmp_path / "suspect.safetensors", architecture)


@pytest.mark.parametrize("cut", [5, 100, -1])
def test_truncated_safetensors(folder, architecture, cut):
    file = folder / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InvalidCheckpoint, match="no complete safetensors file"):
        load_suspect(file, architecture)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("wrap", [True, False])
def test_a_pickle_that_would_run_code_does_not(tmp_path, architecture, wrap):
    marker, file = tmp_path / "executed", tmp_path / "evil.bin"
    if wrap:
        torch.save({"conv_in.weight": Evil(marker)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(InvalidCheckpoint, match=r"holds .*(builtins\.getattr|pathlib\.Path\.touch)"):
        load_suspect(file, architecture)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("length", "error", "message"),
    [(1 << 40, InvalidCheckpoint, "describes 4398046691116 bytes of weights"), (1 << 10, WrongArchitecture, LAYER)],
)
def test_a_shape_of_no_memory_is_not_expanded(tmp_path, architecture, folder, length, error, message):
    weights = weights_of(folder)
    weights[f"{LAYER}.weight"] = torch.zeros(1).expand(length)
    torch.save(weights, tmp_path / "suspect.bin")
    with pytest.raises(error, match=message):
        load_suspect(tmp_path / "suspect.bin", architecture)


def test_another_class_is_refused(folder, architecture):
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "UNet3DConditionModel"}))
    with pytest.raises(WrongArchitecture, match="UNet3DConditionModel"):
        load_suspect(folder, architecture)
    with pytest.raises(WrongArchitecture, match=r"supported: .*UNet2DModel.*docs/families\.md"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers_per_block", 10**9),
        ("layers_per_block", "many"),
        ("block_out_channels", [8] * 10_000),
        ("block_out_channels", [10**9, 10**9]),
        ("down_block_types", ["os.system", "DownBlock2D"]),
        ("norm_num_groups", 0),
        ("sample_size", {"a": 1}),
        ("sample_size", 10**9),
        ("sample_size", [16, "16"]),
    ],
)
def test_a_hostile_configuration_is_refused_without_cost(folder, name, value):
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {name: value}))
    with pytest.raises(InvalidCheckpoint):
        load_model(folder)


def test_an_index_that_points_outside_is_refused(folder, architecture):
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(InvalidCheckpoint, match="not in its folder"):
        load_suspect(folder, architecture)


@pytest.mark.parametrize("missing", ["model_index.json", "unet", "unet/config.json", f"unet/{WEIGHTS}", "scheduler"])
def test_an_incomplete_folder_says_what_is_missing(folder, missing):
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InvalidCheckpoint):
        load_model(folder)


def test_two_checkpoints_in_one_folder_are_not_guessed(folder, architecture):
    weights = folder / "unet" / WEIGHTS
    weights.rename(weights.with_name("a.safetensors"))
    shutil.copy(weights.with_name("a.safetensors"), weights.with_name("b.safetensors"))
    with pytest.raises(InvalidCheckpoint, match="several checkpoints"):
        load_suspect(folder, architecture)
