import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from aiao_core.errors import InvalidImages
from aiao_core.images import load_images, synthetic_images
from examples.emoji.data import DATA


def png(colour, size=(20, 10)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_a_folder_of_images(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "white.png").write_bytes(png("white"))
    (tmp_path / "black.PNG").write_bytes(png("black"))
    (tmp_path / "notes.txt").write_text("no image")
    images = load_images(tmp_path, size=8, channels=3)
    assert images.shape == (2, 3, 8, 8)
    assert sorted(images.mean((1, 2, 3)).tolist()) == [-1, 1]


def test_a_zip_of_images_and_grey(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a/white.png", png("white"))
    assert load_images(tmp_path / "images.zip", size=4, channels=1).shape == (1, 1, 4, 4)


def test_the_emoji_npz_with_its_column_of_names():
    images = load_images(DATA, size=16, channels=3)
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
