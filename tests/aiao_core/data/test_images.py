import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from aiao_core.data.images import load_images
from aiao_core.errors import InvalidImages
from aiao_core.method.lazy import synthetic_images
from demo_models.emoji.data import DATA


def png(colour, size=(20, 10)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_a_folder_of_images(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "white.png").write_bytes(png("white"))
    (tmp_path / "black.PNG").write_bytes(png("black"))
    (tmp_path / "notes.txt").write_text("no image")
    images = load_images(tmp_path, size=8, channels=3).pixels
    assert images.shape == (2, 3, 8, 8)
    assert sorted(images.mean((1, 2, 3)).tolist()) == [-1, 1]


def test_a_zip_of_images_and_grey(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a/white.png", png("white"))
    assert load_images(tmp_path / "images.zip", size=4, channels=1).pixels.shape == (1, 1, 4, 4)


def test_the_emoji_npz_with_its_column_of_names():
    images = load_images(DATA, size=16, channels=3).pixels
    assert images.shape == (1906, 3, 16, 16)
    assert images.min() >= -1
    assert images.max() <= 1


@pytest.mark.parametrize("case", ["empty folder", "empty npz", "text", "broken png", "huge png", "objects"])
def test_an_unusable_set_says_why(tmp_path, case):
    path = tmp_path / "set"
    if case == "empty folder":
        path.mkdir()
    elif case == "empty npz":
        np.savez(tmp_path / "set.npz", x=np.zeros((0, 4, 4, 3), np.uint8))
        path = tmp_path / "set.npz"
    elif case == "text":
        path.write_text("hello")
    elif case == "objects":
        np.savez(tmp_path / "set.npz", x=np.array([object()], dtype=object))
        path = tmp_path / "set.npz"
    else:
        path.mkdir()
        content = png("white")[:40] if case == "broken png" else png("white", (9000, 9000))
        (path / "a.png").write_bytes(content)
    with pytest.raises(InvalidImages):
        load_images(path, size=8, channels=3)


def test_synthetic_images_are_reproducible_and_varied():
    first, second = (synthetic_images(8, size=(16, 16), channels=3, seed=seed) for seed in (0, 0))
    assert torch.equal(first, second)
    assert first.shape == (8, 3, 16, 16)
    assert first.abs().max() <= 1.01
    assert first.std((2, 3)).mean() > 0.05


def two_images(folder):
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def test_captions_are_read_from_metadata_from_files_beside_or_from_an_array(tmp_path):
    listed = two_images(tmp_path / "listed")
    lines = [{"file_name": "b.png", "text": "a dog"}, {"file_name": "a.png", "text": "a cat"}]
    (listed / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    beside = two_images(tmp_path / "beside")
    (beside / "a.txt").write_text("a cat\n")
    (beside / "b.txt").write_text("a dog")
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 8, 8, 3), np.uint8), text=np.array(["a cat", "a dog"]))
    for path in (listed, beside, tmp_path / "set.npz"):
        assert load_images(path, size=8, channels=3).captions == ["a cat", "a dog"]
    assert load_images(two_images(tmp_path / "none"), size=8, channels=3).captions is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "a cat", "b.png and 0 more images have no caption"),
        ("metadata.jsonl", "no json", "metadata.jsonl cannot be read"),
        ("metadata.jsonl", '{"file_name": "a.png"}', "metadata.jsonl cannot be read"),
        ("metadata.jsonl", "[" * 100_000, "metadata.jsonl cannot be read"),
    ],
)
def test_captions_that_cannot_be_used_are_refused(tmp_path, name, content, message):
    (two_images(tmp_path) / name).write_text(content)
    with pytest.raises(InvalidImages, match=message):
        load_images(tmp_path, size=8, channels=3)


@pytest.mark.parametrize("text", [np.array(["one"]), np.zeros(2)])
def test_an_array_of_captions_must_fit_the_images(tmp_path, text):
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 8, 8, 3), np.uint8), text=text)
    with pytest.raises(InvalidImages, match="one string for each of the 2 images"):
        load_images(tmp_path / "set.npz", size=8, channels=3)
