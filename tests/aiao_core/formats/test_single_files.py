"""Registered models in one file: read as what they were made from, and given back in the form in which they came."""

import functools
import json
import shutil

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from aiao_core.errors import AdapterWithoutBase, InvalidCheckpoint, WrongArchitecture
from aiao_core.formats import single_files
from aiao_core.formats.known_models import KNOWN_MODELS, LATENT_DIFFUSION, KnownModel
from aiao_core.formats.original_layouts import original_names
from aiao_core.formats.pipelines import check_fit, load_model, scheduler_config
from aiao_core.formats.recognize import recognize
from aiao_core.formats.single_files import MARKED, registered_model
from aiao_core.formats.suspects import load_suspect
from tests.support.original_layout import architecture_of, tiny_flux, tiny_sd3, tiny_sdxl, tiny_unet, to_original
from tests.support.suspect_files import write_gguf, zipped

PREFIX = "model.diffusion_model."
COMPANIONS = {
    "first_stage_model.decoder.conv_in.weight": torch.ones(2),
    "conditioner.embedders.1.model.ln_final.weight": torch.ones(3).half(),
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
MODELS = {"SD": tiny_unet, "SDXL": tiny_sdxl, "SD 3": tiny_sd3, "FLUX": tiny_flux}


@functools.cache
def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = MODELS[name]()
    for value in made.parameters():
        if not value.any():
            nn.init.normal_(value, std=0.1)
    return made.eval().requires_grad_(False)


def known(name: str) -> KnownModel:
    architecture = architecture_of(model(name))
    scheduler = LATENT_DIFFUSION if "UNet" in architecture.class_name else FLOW
    return KnownModel(
        name, architecture.class_name, json.loads(json.dumps(architecture.config)), scheduler, "DiffusionPipeline"
    )


@pytest.fixture
def known_models(monkeypatch):
    """The tiny models stand for the published ones, which are too large for a test."""
    monkeypatch.setattr(single_files, "KNOWN_MODELS", [known(name) for name in MODELS])


def original(name: str, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    return {f"{PREFIX}{tensor}": value.to(dtype).contiguous() for tensor, value in to_original(model(name)).items()}


def marked(name: str) -> nn.Module:
    """Other weights, as an embedding leaves them."""
    torch.manual_seed(1)
    made = MODELS[name]()
    for value in made.parameters():
        nn.init.normal_(value, std=0.1)
    return made.requires_grad_(False)


@pytest.mark.parametrize("name", MODELS)
def test_a_single_file_comes_back_as_it_came_and_as_a_pipeline(tmp_path, known_models, name):
    metadata = {"modelspec.title": "mine", "modelspec.hash_sha256": "0x00"}
    save_file(original(name) | COMPANIONS, tmp_path / "mine.safetensors", metadata=metadata)
    with registered_model(tmp_path / "mine.safetensors") as registered:
        loaded = load_model(registered.folder)
        registered.save(marked(name), tmp_path / "out")
    expected = {tensor: value.half().float() for tensor, value in model(name).state_dict().items()}
    assert all(torch.equal(loaded.denoiser.state_dict()[tensor], expected[tensor]) for tensor in expected)
    found = load_file(tmp_path / "out" / MARKED)
    assert {tensor: (value.dtype, value.shape) for tensor, value in found.items()} == {
        tensor: (value.dtype, value.shape) for tensor, value in (original(name) | COMPANIONS).items()
    }
    assert all(torch.equal(found[tensor], COMPANIONS[tensor]) for tensor in COMPANIONS)
    with safe_open(tmp_path / "out" / MARKED, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "modelspec.title": "mine"}
    truth = {tensor: value.half().float() for tensor, value in marked(name).state_dict().items()}
    for path in (tmp_path / "out" / MARKED, tmp_path / "out"):
        state = load_suspect(path, loaded.architecture).denoiser.state_dict()
        assert all(torch.equal(state[tensor], truth[tensor]) for tensor in truth)
    with registered_model(tmp_path / "out") as again:  # as the proof of an embedding reads it
        assert again.file is None
        state = load_model(again.folder).denoiser.state_dict()
        assert all(torch.equal(state[tensor], truth[tensor]) for tensor in truth)


def test_a_diffusers_user_loads_the_made_pipeline(tmp_path, known_models):
    save_file(original("SDXL"), tmp_path / "mine.safetensors")
    with registered_model(tmp_path / "mine.safetensors") as registered:
        unet = diffusers.UNet2DConditionModel.from_pretrained(registered.folder, subfolder="unet")
        scheduler = diffusers.DDIMScheduler.from_pretrained(registered.folder, subfolder="scheduler")
    assert torch.equal(unet.conv_in.weight, model("SDXL").conv_in.weight.half().float())
    assert scheduler.config.beta_end == 0.012


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_beside_its_configurations_needs_no_known_model(tmp_path, packed):
    folder = tmp_path / "mine"
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    config = {"_class_name": "UNet2DConditionModel"} | known("SD").config
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    schedule = LATENT_DIFFUSION | {"prediction_type": "v_prediction"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    save_file(original("SD"), folder / "mine.safetensors")
    (folder / "._mine.safetensors").write_bytes(b"a note of macOS")
    with registered_model(zipped(folder) if packed else folder) as registered:
        loaded = load_model(registered.folder)
        assert scheduler_config(registered.folder)["prediction_type"] == "v_prediction"
        registered.save(marked("SD"), tmp_path / "out")
    assert torch.equal(loaded.denoiser.conv_in.weight, model("SD").conv_in.weight.half().float())
    assert load_file(tmp_path / "out" / MARKED).keys() == original("SD").keys()


def test_moving_averages_are_not_published_unmarked(tmp_path, known_models):
    averages = {
        f"model_ema.diffusion_model{tensor.replace('.', '')}": value for tensor, value in to_original(model("SD")).items()
    }
    torch.save({"state_dict": original("SD") | averages | {"model_ema.decay": torch.tensor(0.9)}}, tmp_path / "mine.ckpt")
    with registered_model(tmp_path / "mine.ckpt") as registered:
        registered.save(marked("SD"), tmp_path / "out")
    assert load_file(tmp_path / "out" / MARKED).keys() == original("SD").keys()


@pytest.mark.parametrize(
    ("markers", "expected"),
    [
        ([], {"prediction_type": "epsilon", "rescale_betas_zero_snr": None}),
        (["v_pred"], {"prediction_type": "v_prediction", "rescale_betas_zero_snr": None}),
        (["v_pred", "ztsnr"], {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ],
)
def test_marker_tensors_say_the_target(tmp_path, known_models, markers, expected):
    save_file(original("SDXL") | {marker: torch.zeros(0) for marker in markers}, tmp_path / "mine.safetensors")
    with registered_model(tmp_path / "mine.safetensors") as registered:
        scheduler = scheduler_config(registered.folder)
        registered.save(marked("SDXL"), tmp_path / "out")
    assert {name: scheduler.get(name) for name in expected} == expected
    assert set(markers) <= load_file(tmp_path / "out" / MARKED).keys()


@pytest.mark.parametrize("marker", ["edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"])
def test_a_file_trained_by_edm_is_not_ruined_by_another_schedule(tmp_path, known_models, marker):
    save_file(original("SDXL") | {marker: torch.zeros(4)}, tmp_path / "mine.safetensors")
    with (
        pytest.raises(InvalidCheckpoint, match=f"the tensor {marker} says that this file was trained by EDM"),
        registered(tmp_path),
    ):
        pass


def test_a_file_that_does_not_say_its_target_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setattr(single_files, "KNOWN_MODELS", [single_files.replace(known("SD"), scheduler=None)])
    save_file(original("SD"), tmp_path / "mine.safetensors")
    with (
        pytest.raises(InvalidCheckpoint, match=r"for the noise or for the velocity and do not say which; pack"),
        registered(tmp_path),
    ):
        pass


def registered(folder, name: str = "mine.safetensors"):
    return registered_model(folder / name)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (
            {"some.weight": torch.ones(2)},
            WrongArchitecture,
            r"mine\.safetensors is not one of SD, SDXL, .* Pack it together with",
        ),
        (
            {f"{PREFIX}{name}": torch.ones(2) for name in ("input_blocks.0.0.weight", "middle_block.0.w", "output_blocks.0.w")},
            WrongArchitecture,
            r"not one of .*: the tensor .* has no place in a single file in the original Stable Diffusion layout",
        ),
        ({"lora_unet_x.lora_down.weight": torch.ones(2, 2)}, AdapterWithoutBase, "is an adapter, which changes a base model"),
        (
            {f"{PREFIX}out.2.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)},
            InvalidCheckpoint,
            "holds fp8 weights, which are too coarse to be trained",
        ),
        ({"a.qweight": torch.ones(2, 2)}, InvalidCheckpoint, "a GPTQ, AWQ or Nunchaku file"),
        ({"first_stage_model.decoder.w": torch.ones(2)}, WrongArchitecture, "single file of a VAE alone"),
        ({"ip_adapter.1.to_k_ip.weight": torch.ones(2)}, WrongArchitecture, "this is an IP-Adapter"),
    ],
)
def test_what_cannot_be_registered_says_why(tmp_path, known_models, weights, error, words):
    save_file(weights, tmp_path / "mine.safetensors")
    with pytest.raises(error, match=words), registered(tmp_path):
        pass


def test_a_gguf_file_is_refused_with_the_reason(tmp_path):
    write_gguf(tmp_path / "mine.gguf", {"a.weight": torch.ones(32, 32)})
    with (
        pytest.raises(InvalidCheckpoint, match="rounded to a few bits: training cannot write a watermark"),
        registered(tmp_path, "mine.gguf"),
    ):
        pass


def test_half_a_file_is_not_registered(tmp_path, known_models):
    weights = original("FLUX")
    del weights[f"{PREFIX}single_blocks.1.linear1.weight"]
    save_file(weights, tmp_path / "mine.safetensors")
    with pytest.raises(WrongArchitecture, match=r"single_transformer_blocks\.1\.\w+.* is missing"), registered(tmp_path):
        pass


def test_a_copy_with_other_inputs_is_not_registered_as_the_model(tmp_path, known_models):
    weights = original("SD")
    first = f"{PREFIX}input_blocks.0.0.weight"
    weights[first] = torch.cat([weights[first], torch.zeros(8, 5, 3, 3).half()], 1)
    save_file(weights, tmp_path / "mine.safetensors")
    with pytest.raises(WrongArchitecture, match=r"conv_in\.weight has the shape \(8, 9, 3, 3\)"), registered(tmp_path):
        pass


def test_a_folder_of_several_files_is_not_guessed(tmp_path, known_models):
    for name in ("a", "b"):
        save_file(original("SD"), tmp_path / f"{name}.safetensors")
    with registered_model(tmp_path) as found, pytest.raises(InvalidCheckpoint, match="no diffusers pipeline folder"):
        load_model(found.folder)


@functools.cache
def in_full_size(name: str) -> nn.Module:
    """A published model, without numbers."""
    published = next(known for known in KNOWN_MODELS if known.name == name)
    with torch.device("meta"):
        return getattr(diffusers, published.class_name).from_config(published.config)


@pytest.mark.long
@pytest.mark.parametrize("published", KNOWN_MODELS, ids=lambda published: published.name)
def test_each_published_model_is_told_by_its_tensors(published):
    """The names and shapes of its own single file fit it, and no other."""
    tensors = in_full_size(published.name).state_dict()
    originals = original_names(published.class_name, tensors).from_diffusers(tensors)
    file = {f"{PREFIX}{name}": value for name, value in originals.items()}
    fitting = []
    for candidate in (each for each in KNOWN_MODELS if each.class_name == published.class_name):
        expected = in_full_size(candidate.name).state_dict()
        recognized = recognize(file, expected)
        try:
            single_files.check_layout(recognized, candidate.class_name)
            names = original_names(candidate.class_name, expected)
            check_fit(names.to_diffusers(recognized.part(file), expected, candidate.name), expected)
        except WrongArchitecture:
            continue
        fitting.append(candidate.name)
    assert fitting == [published.name]
    others = {each.class_name for each in KNOWN_MODELS} - {published.class_name}
    for class_name in others:
        with pytest.raises(WrongArchitecture, match="a single file of"):
            single_files.check_layout(recognize(file, ()), class_name)


PARAMETERS = {
    "Stable Diffusion 1": 859_520_964,
    "Stable Diffusion 2": 865_910_724,
    "Stable Diffusion XL": 2_567_463_684,
    "FLUX.1 dev": 11_901_408_320,
    "FLUX.1 schnell": 11_891_178_560,
}


@pytest.mark.long
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_configurations_are_those_of_the_published_sizes(name):
    assert sum(value.numel() for value in in_full_size(name).parameters()) == PARAMETERS[name]


def test_nothing_is_left_behind(tmp_path, known_models, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    save_file(original("SD"), tmp_path / "mine.safetensors")
    with registered(tmp_path) as found:
        assert list((tmp_path / "scratch").iterdir()) == [found.folder]
        shutil.copytree(found.folder, tmp_path / "kept")
    assert list((tmp_path / "scratch").iterdir()) == []
