"""The library in four calls, on a tiny model: load, embed, save, verify."""

import json
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_type_hints

import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import aiao
from aiao._library import EmbeddingKeywords
from aiao_core.formats.archives import pack
from aiao_core.reports.verification import Report as Details
from demo_models.emoji.data import load_images
from tests.support.documented import examples
from tests.support.tiny_models import MARKING, make_tiny_model

MARKING_KEYWORDS = MARKING.model_dump(exclude_defaults=True)
"""Enough for the tiny model to carry a mark, in some seconds."""


class Owned(NamedTuple):
    """A model before and after its watermark, in memory and in folders, and its key."""

    folder: Path
    model: aiao.Model
    key: aiao.Key
    seen: list[aiao.Progress]

    @property
    def source(self) -> Path:
        return self.folder / "my-pipeline"

    @property
    def marked(self) -> Path:
        return self.folder / "marked"

    @property
    def key_file(self) -> Path:
        return self.folder / "my.key.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a pipeline and an image set."""
    folder = tmp_path_factory.mktemp("library")
    model = make_tiny_model()
    DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder / "my-pipeline")
    images = load_images(without=["Flags"], size=8)[:64]
    (folder / "photos").mkdir()
    for number, image in enumerate(((images.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()):
        Image.fromarray(image).save(folder / "photos" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def owned(folder) -> Owned:
    """The example in the package's documentation, with options for a tiny model; the suspect is the published one."""
    seen: list[aiao.Progress] = []
    printed: list[object] = []

    def publish(program: str) -> str:
        taken = "shutil.copy('marked/unet/diffusion_pytorch_model.safetensors', 'suspect.safetensors')"
        return program.replace("report = ", f"import shutil\n{taken}\nreport = ")

    names = {"print": lambda *values: printed.extend(values)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(aiao, "embed", partial(aiao.embed, progress=seen.append, **MARKING_KEYWORDS))
        (example,) = (program for program in examples() if "aiao.load(" in program)
        exec(compile(publish(example), "example", "exec"), names)
    assert printed == ["match", names["report"].log10_p]
    assert (folder / "report.html").is_file()
    return Owned(folder, names["model"], names["key"], seen)


def weights(model: aiao.Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.content.denoiser.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_marked_model_is_a_match_and_its_source_is_not(owned, tmp_path):
    seen: list[str] = []
    report = aiao.verify(owned.marked, owned.key, source=owned.source, progress=lambda at: seen.append(at.stage))
    assert (report.verdict, report.reason) == ("match", None)
    assert report.log10_p == report.details.test.log10_p < -19.27
    assert [(entry.role, entry.name) for entry in report.details.inputs] == [("suspect", "marked"), ("source", "my-pipeline")]
    assert {"source", "draws", "decoys"} <= set(seen)
    assert repr(report) == f"aiao.Report(match, log10_p={report.log10_p:.2f})"
    innocent = aiao.verify(owned.source / "unet" / "diffusion_pytorch_model.safetensors", owned.key)
    assert innocent.verdict == "no-match"
    assert innocent.log10_p > -6
    assert report.save(tmp_path / "report.json") == tmp_path / "report.json"
    assert Details.from_json((tmp_path / "report.json").read_text()) == report.details
    report.save(str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "marked" in page
    for text in (page, report.to_json(), repr(owned.key), repr(owned.model)):
        assert owned.key.secret not in text


def test_a_report_replaces_a_file_only_if_told_to_and_a_key_never(owned, tmp_path):
    report = aiao.verify(owned.source, owned.key)
    file = tmp_path / "report.json"
    file.write_text("mine")
    with pytest.raises(aiao.ClientError, match=r"report\.json exists.*overwrite=True"):
        report.save(file)
    assert file.read_text() == "mine"
    report.save(file, overwrite=True)
    assert file.read_text() == report.to_json()
    before = owned.key_file.read_bytes()
    with pytest.raises(aiao.ClientError, match="is a key file"):
        report.save(owned.key_file, overwrite=True)
    assert owned.key_file.read_bytes() == before
    with pytest.raises(aiao.ClientError, match=r"neither \.html nor \.json"):
        report.save(tmp_path / "report.pdf")


def test_a_key_is_for_its_user_alone_and_never_overwritten(owned, tmp_path):
    assert stat.S_IMODE(owned.key_file.stat().st_mode) == 0o600
    for taken in (owned.key_file, owned.source / "model_index.json"):
        before = taken.read_bytes()
        with pytest.raises(aiao.ClientError, match=f"{taken.name} exists and is not overwritten"):
            owned.key.save(taken)
        assert taken.read_bytes() == before
    with pytest.raises(aiao.ClientError, match="is not a folder that you can write to"):
        owned.key.save(tmp_path / "nowhere" / "my.key.json")
    again = aiao.load_key(owned.key_file)
    assert again.owner_key == owned.key.owner_key
    assert (again.secret, again.commitment) == (owned.key.secret, owned.key.commitment)


def test_every_form_of_a_key_gives_the_same_numbers(owned):
    keys = (owned.key, owned.key.owner_key, owned.key_file, str(owned.key_file), aiao.Key.load(owned.key_file))
    assert len({aiao.verify(owned.marked, key).details.test for key in keys}) == 1


def test_what_is_not_a_key_is_refused(owned):
    with pytest.raises(aiao.InvalidKey, match="cannot be read"):
        aiao.verify(owned.marked, owned.folder / "nowhere.json")
    with pytest.raises(aiao.InvalidKey):
        aiao.load_key(owned.source / "model_index.json")


def test_options_that_are_not_those_of_a_verdict_explore(owned):
    report = aiao.verify(owned.marked, owned.key, options=aiao.VerificationOptions(draws=9))
    assert report.verdict == "exploratory"
    assert "draws is 4 in every verdict" in report.reason


def test_progress_is_told_stage_by_stage(owned):
    stages = list(dict.fromkeys(at.stage for at in owned.seen))
    assert stages[-2:] == ["decoys", "reading"]  # of the proof
    steps = [at.step for at in owned.seen if at.stage == "embedding"]
    assert steps == list(range(1, MARKING.steps + 1))


def test_one_watermark_to_a_model(owned):
    assert owned.model.marked
    assert repr(owned.model) == f"aiao.Model(UNet2DModel of {owned.source}, marked)"
    with pytest.raises(aiao.EmbeddingFailed, match="carries a watermark already"):
        aiao.embed(owned.model)


def test_a_saved_model_is_read_again_and_not_overwritten(owned, tmp_path):
    assert same(weights(aiao.load(owned.marked)), weights(owned.model))
    assert not same(weights(aiao.load(owned.source)), weights(owned.model))
    assert isinstance(DDPMPipeline.from_pretrained(owned.marked), DDPMPipeline)
    with pytest.raises(aiao.ClientError, match="marked exists and is not overwritten"):
        owned.model.save(owned.marked)
    with pytest.raises(aiao.ClientError, match="nowhere is not a folder"):
        owned.model.save(tmp_path / "nowhere" / "marked")
    assert not [file for file in owned.folder.iterdir() if file.name.startswith(".")]


def test_a_folder_that_cannot_be_saved_leaves_nothing(owned, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aiao_core.formats.pipelines.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        owned.model.save(tmp_path / "marked")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_loaded_and_saved_as_a_folder(folder, tmp_path):
    pack(folder / "my-pipeline", tmp_path / "packed.zip")
    model = aiao.load(tmp_path / "packed.zip")
    copied = model.folder
    assert same(weights(model), weights(aiao.load(folder / "my-pipeline")))
    model.save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "unet" / "config.json").read_text())["_class_name"] == "UNet2DModel"
    del model
    assert not copied.exists()


def test_a_single_file_is_loaded_and_saved_as_one(folder, tmp_path):
    single = tmp_path / "mine"
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        (single / name).parent.mkdir(parents=True)
        shutil.copy(folder / "my-pipeline" / name, single / name)
    source = load_file(folder / "my-pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({f"unet.{name}": value.half() for name, value in source.items()}, single / "mine.safetensors")
    model = aiao.load(single)
    model.content.denoiser.get_parameter("conv_in.weight").data += 1
    found = load_file(model.save(tmp_path / "marked.safetensors"))
    assert found.keys() == {f"unet.{name}" for name in source}
    assert torch.equal(found["unet.conv_in.weight"], (source["conv_in.weight"].half().float() + 1).half())
    assert (model.save(tmp_path / "marked") / "model_index.json").is_file()
    assert aiao.load(tmp_path / "marked").content.architecture == model.content.architecture
    with pytest.raises(aiao.ClientError, match="exists and is not overwritten"):
        model.save(tmp_path / "marked.safetensors")
    with pytest.raises(aiao.ClientError, match="was not read from a single file"):
        aiao.load(folder / "my-pipeline").save(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "nowhere does not exist; name a diffusers pipeline folder"), ("photos", "diffusers pipeline folder")],
)
def test_what_is_not_a_pipeline_is_refused(folder, name, words):
    with pytest.raises(aiao.InvalidCheckpoint, match=words):
        aiao.load(folder / name)


def cancel_at(stage: str):
    def progress(at: aiao.Progress) -> None:
        if at.stage == stage:
            raise aiao.Canceled("enough")

    return progress


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"steps": 1, "batch_size": 2}, aiao.EmbeddingFailed, "cannot be proved: log10 p is .*; use more steps"),
        ({"steps": 3, "progress": cancel_at("embedding")}, aiao.Canceled, "enough"),
        ({"steps": 1, "batch_size": 2, "progress": cancel_at("decoys")}, aiao.Canceled, "enough"),
        ({"images": "my-pipeline"}, aiao.InvalidImages, "the image set is empty"),
        ({"images": "nowhere"}, aiao.InvalidImages, "nowhere does not exist"),
        ({"steps": 0}, ValueError, "steps"),
        ({"stepps": 1}, ValueError, "stepps"),
    ],
    ids=["too short", "canceled", "canceled in the proof", "no images", "nowhere", "range", "typing error"],
)
def test_after_an_error_the_model_is_as_it_was(folder, monkeypatch, arguments, error, words):
    monkeypatch.chdir(folder)
    model = aiao.load("my-pipeline")
    before = weights(model)
    with pytest.raises(error, match=words):
        aiao.embed(model, **{"images": "photos"} | arguments)
    assert same(weights(model), before)
    assert not model.marked


def test_keywords_come_before_the_options_and_are_checked_alike(folder):
    """By a step that fails at once, so that nothing is trained."""
    told = []

    def progress(at: aiao.Progress) -> None:
        told.append(at)
        raise aiao.Canceled

    options = aiao.EmbeddingOptions(samples=7, steps=5)
    with pytest.raises(aiao.Canceled):
        aiao.embed(aiao.load(folder / "my-pipeline"), options=options, samples=9, progress=progress)
    with pytest.raises(ValueError, match="steps"):
        aiao.embed(aiao.load(folder / "my-pipeline"), options=options, steps=-1)
    assert "samples" in told[0].stage


def test_the_keywords_are_the_options():
    fields = {name: field.annotation for name, field in aiao.EmbeddingOptions.model_fields.items()}
    assert get_type_hints(EmbeddingKeywords) == fields
    assert EmbeddingKeywords.__required_keys__ == frozenset()


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import aiao
for call in (lambda: aiao.load("."), lambda: aiao.verify("suspect", "key.json")):
    try:
        call()
    except aiao.MissingDependency as error:
        print(error)
aiao.load_key(sys.argv[1])
"""


@pytest.mark.process
@pytest.mark.process
def test_without_torch_the_command_that_installs_it_is_named(owned):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(owned.key_file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == 2 * "this needs torch, which is not installed; install it with: pip install 'aiao[torch]'\n"
