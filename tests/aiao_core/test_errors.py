"""Errors of files that clients made name those files, and no folder of the machine that reads them."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from aiao_core.data.images import open_images
from aiao_core.errors import AiaoError, InvalidCheckpoint, in_words
from aiao_core.formats.archives import unpack
from aiao_core.formats.pipelines import load_model
from aiao_core.formats.suspects import load_suspect
from aiao_core.formats.weight_files import WEIGHTS, read_json, read_weights
from demo_models.emoji.data import MODEL


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "/data/scratch/job_1/room-2/a.png"), "No such file or directory"),
        (ValueError("no image: '/data/scratch/a/c.png'"), "no image: 'c.png'"),
        (
            OSError("cannot identify image file PosixPath('/data/scratch/c.png')"),
            "cannot identify image file PosixPath('c.png')",
        ),
        (ValueError("/data/scratch/a/x.json: line 1"), "x.json: line 1"),
        (
            ValueError("see https://huggingface.co/docs/x or 1/2/3 or a/b/c"),
            "see https://huggingface.co/docs/x or 1/2/3 or a/b/c",
        ),
        (ValueError("a" * 10_000), "a" * 200),
    ],
)
def test_words_of_a_library_name_no_folder(error, words):
    assert "/data" not in in_words(error)
    assert not words or in_words(error) == words


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(MODEL, tmp_path / "uploaded" / "model")


def too_long_a_name(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a" * 300, b"content")
    unpack(folder / "a.zip", folder / "content")


def cut(folder: Path, name: str) -> Path:
    file = folder / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-10])
    return file.rename(folder / "unet" / name)


def broken_image(folder: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(picture.getvalue()[:60])
    with open_images(folder / "images", size=8, channels=3) as images:
        list(images)


def folder_for_a_file(folder: Path) -> None:
    (folder / "config.json").mkdir()
    read_json(folder / "config.json")


def broken_captions(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "metadata.jsonl").write_bytes(b"\xff\xfe")
    with open_images(folder, size=8, channels=3):
        pass


@pytest.mark.parametrize(
    "reading",
    [
        too_long_a_name,
        broken_image,
        folder_for_a_file,
        broken_captions,
        lambda folder: read_weights(cut(folder, "a.safetensors")),
        lambda folder: read_weights(cut(folder, "a.bin")),
        lambda folder: load_suspect(folder / "unet" / "config.json", load_model(folder).architecture),
    ],
)
def test_an_error_of_a_file_names_no_folder(folder, tmp_path, reading):
    with pytest.raises(AiaoError) as error:
        reading(folder)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    "shard", ["../../etc/passwd", "/etc/passwd", "", ".", "..", "a\0b", "x" * 300, "\ud800", "sub/a.safetensors"]
)
def test_an_index_that_leads_elsewhere_is_refused_in_words(folder, shard):
    architecture = load_model(folder).architecture
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    for read in (
        load_model,
        lambda path: load_suspect(path, architecture),
        lambda path: load_suspect(path / "unet", architecture),
    ):
        with pytest.raises(InvalidCheckpoint, match="not in its folder"):
            read(folder)
    shutil.copytree(folder / "unet", folder / "loose")
    (folder / "loose" / "config.json").unlink()
    with pytest.raises(InvalidCheckpoint, match="not in its folder"):
        load_suspect(folder / "loose", architecture)
