"""Pipeline folders of the families in ``tests.support.more_families``, with text encoders and VAEs that are not read here."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from aiao_core.data.captions import encode_captions
from aiao_core.data.owner_data import draw_examples, load_examples
from aiao_core.denoisers.schedules import Diffusion, RectifiedFlow
from aiao_core.errors import InvalidCheckpoint, InvalidImages
from aiao_core.formats.archives import pack
from aiao_core.formats.inspection import inspect
from aiao_core.formats.pipelines import load_model, save_model
from aiao_core.formats.suspects import load_suspect
from aiao_core.options import EmbeddingOptions
from tests.support.more_families import CONFIGURATIONS, make

QUICK = EmbeddingOptions(samples=2)


def save(name: str, folder: Path) -> Path:
    """Save a pipeline as diffusers would, with a text encoder of a class that this library does not read."""
    make(name).denoiser.save_pretrained(folder / "transformer")
    for part in ("scheduler", "text_encoder", "tokenizer"):
        (folder / part).mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(CONFIGURATIONS[name][2]))
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"architectures": ["UMT5EncoderModel"]}))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline"}))
    return folder


QUICKEST = ("Chroma", "Wan", "Stable Audio")
"""An image, a video and a sound, which stand for the others in `make check` and `make test`."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICKEST else pytest.mark.slow) for name in CONFIGURATIONS]
)
def test_a_folder_is_registered_and_what_is_written_is_what_was_read(name, tmp_path):
    folder = save(name, tmp_path / "model")
    model = load_model(folder)
    assert isinstance(model.schedule, Diffusion if name in ("CogVideoX", "Stable Audio") else RectifiedFlow)
    for value in model.denoiser.state_dict().values():
        value.mul_(2)
    save_model(model.denoiser, folder, tmp_path / "marked")
    again = type(model.denoiser).from_pretrained(tmp_path / "marked" / "transformer")
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.denoiser.state_dict()[key]), key
    found = load_suspect(tmp_path / "marked", model.architecture)
    assert found.weights != load_suspect(folder, model.architecture).weights


@pytest.mark.parametrize("name", ["Wan", "Z-Image"])
def test_a_model_draws_examples_whatever_its_text_encoder_is(name, tmp_path):
    folder = save(name, tmp_path / "model")
    model = load_model(folder)
    model.schedule.sampler = lambda *_: RectifiedFlow(1000).sampler(1)  # one step is enough
    assert draw_examples(folder, model, QUICK).clean.isfinite().all()


def test_images_and_captions_that_cannot_be_used_are_refused_in_words(tmp_path):
    video, image = save("Wan", tmp_path / "video"), save("Z-Image", tmp_path / "image")
    with pytest.raises(InvalidImages, match=r"takes no images here: it works on frames or sounds. Register it without"):
        load_examples(video, load_model(video), tmp_path / "set.npz")
    with pytest.raises(InvalidImages, match="captions for a ZImageTransformer2DModel cannot be encoded here; leave them out"):
        encode_captions(image, load_model(image), ["a cat"])


def test_a_pipeline_of_two_denoisers_is_refused_as_a_model_and_as_a_suspect(tmp_path):
    """As Wan 2.2: a key marks one, and the other would stay bare."""
    folder = save("Wan", tmp_path / "model")
    architecture = load_model(folder).architecture
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    for read in (load_model, lambda path: load_suspect(path, architecture)):
        with pytest.raises(InvalidCheckpoint, match=r"2 denoisers, transformer/ and transformer_2/.*submit the copies"):
            read(folder)
    alone = tmp_path / "second"
    shutil.copytree(folder, alone)
    shutil.rmtree(alone / "transformer")
    with pytest.raises(InvalidCheckpoint):  # not yet as transformer/
        load_model(alone)
    (alone / "transformer_2").rename(alone / "transformer")
    assert load_model(alone).architecture == architecture


@pytest.mark.parametrize(("name", "positions"), [("Wan", 4096), ("FLUX.2", 4096), ("Stable Audio", 1024), ("Sana", 64)])
def test_a_look_into_the_archive_tells_the_positions(name, positions, tmp_path):
    folder = save(name, tmp_path / "model")
    pack(folder, tmp_path / "model.zip")
    with (tmp_path / "model.zip").open("rb") as file:
        size = inspect(file)
    assert size.class_name == CONFIGURATIONS[name][0].__name__
    assert size.positions == positions
