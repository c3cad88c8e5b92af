import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from aiao_core.data.images import BLOCK_BYTES, check_expansion, open_images
from aiao_core.errors import InvalidImages, UnsafeArchive
from aiao_core.formats import archives
from aiao_core.formats.archives import Limits
from aiao_core.method.lazy import synthetic_images
from demo_models.emoji.data import DATA


def load_images(path, *, size, channels, limits=None):
    """All images of a set as one tensor, and the captions."""
    with open_images(path, size=size, channels=channels, limits=limits) as images:
        found = torch.stack(list(images))
        assert len(found) == len(images)
        return found, images.captions


def png(color, size=(20, 10)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def test_a_folder_of_images(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "white.png").write_bytes(png("white"))
    (tmp_path / "black.PNG").write_bytes(png("black"))
    (tmp_path / "notes.txt").write_text("no image")
    images = load_images(tmp_path, size=8, channels=3)[0]
    assert images.shape == (2, 3, 8, 8)
    assert sorted(images.mean((1, 2, 3)).tolist()) == [-1, 1]


@pytest.mark.parametrize("packed", [False, True])
def test_notes_of_macos_among_images_are_passed_over(tmp_path, packed):
    files = {
        "set/white.png": png("white"),
        "set/._white.png": b"\0\5\x16\7",
        "set/.DS_Store": b"",
        "__MACOSX/set/._white.png": b"",
    }
    for name, content in files.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(content)
    if packed:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    assert load_images(tmp_path / ("images.zip" if packed else "images"), size=4, channels=3)[0].shape == (1, 3, 4, 4)


def test_a_zip_of_images_and_grey(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a/white.png", png("white"))
    assert load_images(tmp_path / "images.zip", size=4, channels=1)[0].shape == (1, 1, 4, 4)


def test_the_emoji_npz_with_its_column_of_names():
    images = load_images(DATA, size=16, channels=3)[0]
    assert images.shape == (1906, 3, 16, 16)
    assert images.min() >= -1
    assert images.max() <= 1


@pytest.mark.long
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
        assert load_images(path, size=8, channels=3)[1] == ["a cat", "a dog"]
    assert load_images(two_images(tmp_path / "none"), size=8, channels=3)[1] is None


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


@pytest.fixture(params=["zip", "tar.gz", "npz"])
def packed(request, tmp_path):
    """An image set of 12,288 bytes of pixels in a file."""
    path, pixels = tmp_path / f"set.{request.param}", np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    if request.param == "npz":
        np.savez_compressed(path, x=pixels)
        return path
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.bmp")
    shutil.make_archive(str(tmp_path / "set"), "gztar" if request.param == "tar.gz" else "zip", folder)
    return path


def test_a_set_that_unpacks_to_more_than_the_limit_is_refused_by_its_name(packed):
    with pytest.raises(UnsafeArchive, match="expands beyond 12000 bytes"):
        load_images(packed, size=8, channels=3, limits=Limits(total_bytes=12_000))
    assert len(load_images(packed, size=8, channels=3, limits=Limits(total_bytes=13_000))[0]) == 4


def test_a_set_that_expands_too_much_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", x=np.zeros((200, 256, 256, 3), np.uint8))
    with pytest.raises(UnsafeArchive, match="more than 200 times its size"):
        load_images(tmp_path / "set.npz", size=8, channels=3)


@pytest.mark.slow
def test_a_set_may_have_more_files_than_a_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number in range(Limits().files + 1):
            archive.writestr(f"{number}.png", png("white", (1, 1)))
    with open_images(tmp_path / "set.zip", size=8, channels=3) as images:
        assert len(images) == 10_001


def test_arrays_are_read_alike_in_every_order_and_in_blocks(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 512, 512, 3), dtype=np.uint8)
    assert pixels.nbytes > 1.5 * BLOCK_BYTES
    np.savez(tmp_path / "rows.npz", x=pixels)
    np.savez(tmp_path / "columns.npz", x=np.asfortranarray(pixels))
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "folder" / f"{number:02}.bmp")
    rows, columns, files = (
        load_images(tmp_path / name, size=8, channels=3)[0] for name in ("rows.npz", "columns.npz", "folder")
    )
    assert torch.equal(rows, files)
    assert torch.equal(columns, files)


@pytest.mark.parametrize("name", ["{}.npy", "folder/{}.npy", "{0}/{0}.npy"])
def test_the_first_array_of_images_counts_wherever_it_lies(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for key, value in (("names", np.array([1])), ("z", np.zeros((1, 8, 8), np.uint8)), ("a", np.ones((2, 8, 8), np.uint8))):
            with archive.open(name.format(key), "w") as stream:
                np.save(stream, value)
    assert len(load_images(tmp_path / "set.npz", size=8, channels=3)[0]) == 1


def array_file(header: str, content: bytes = bytes(192)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


@pytest.mark.parametrize(
    "content",
    [
        *(
            array_file(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n")
            for shape in (
                "(-1, 4, 4, 3)", "(1" + "0" * 30 + ", 4, 4, 3)", "(True, 4, 4, 3)", "()", "(3, 0, 0, 3)", "(100, 4, 4, 3)",
                "(1, 100000, 100000, 3)", "(2305843009213693952, 8, 1, 3)", "(4, 48)", "4",
            )
        ),
        array_file("(" * 4000 + "\n"),
        array_file("-" * 9000 + "1\n"),
        array_file("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4, 3)}\n"),
        array_file(""),
        b"PK\x03\x04",
        b"",
    ],
)  # fmt: skip
def test_an_array_that_numpy_never_wrote_is_refused(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(InvalidImages, match=r"holds no uint8 array of shape"):
        load_images(tmp_path / "set.npz", size=8, channels=3)


def test_an_image_in_an_array_may_be_as_large_as_one_in_a_file(tmp_path):
    np.savez(tmp_path / "set.npz", x=np.zeros((1, 8001, 8000), np.uint8))
    with pytest.raises(InvalidImages, match="8000x8001 pixels; at most 64000000"):
        load_images(tmp_path / "set.npz", size=8, channels=1)


@pytest.mark.parametrize("what", [b"PK\x01\x02", b"\x07\x07\x07"])
def test_an_archive_with_a_damaged_directory_or_content_is_refused(tmp_path, what):
    np.savez(tmp_path / "set.npz", x=np.full((2, 8, 8), 7, np.uint8))
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[content.index(what)] = 0
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(UnsafeArchive, match="cannot be read"):
        load_images(tmp_path / "set.npz", size=8, channels=3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "EPS"])
def test_a_picture_of_another_format_is_not_read_whatever_its_name(tmp_path, kind):
    """Pillow gives PostScript to Ghostscript, and has seldom used readers for some thirty other formats."""
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", kind)
    refused = pytest.raises(InvalidImages, match="cannot identify image file")
    with refused, open_images(tmp_path, size=8, channels=3) as images:
        list(images)


def test_an_archive_that_says_it_expands_too_much_is_refused_before_any_of_it_is_written(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "set.npz", x=np.zeros((800, 512, 512, 3), np.uint8))
    assert (tmp_path / "set.npz").stat().st_size < 1 << 20
    monkeypatch.setattr(archives, "_write", lambda *_: pytest.fail("it was written"))
    with pytest.raises(UnsafeArchive, match="more than 200 times its size"):
        load_images(tmp_path / "set.npz", size=8, channels=3)


@pytest.mark.parametrize("form", ["npz", "zip"])
def test_many_images_of_a_pixel_are_no_large_tensor(tmp_path, form):
    path, count = tmp_path / f"set.{form}", 300
    if form == "npz":
        np.savez_compressed(path, x=np.zeros((count, 1, 1, 3), np.uint8))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                archive.writestr(f"{number}.png", png("white", (1, 1)))
    with open_images(path, size=512, channels=3) as images:
        with pytest.raises(InvalidImages, match="too small"):
            check_expansion(images, 4 * count * 3 * 512 * 512)
        check_expansion(images, 4 * count * 3 * 32 * 32)
        check_expansion(images, 4 * count * 4 * 64 * 64)
