"""Image sets of owners: anything a client uploads. Images are read one at a time, so that no set has to fit in memory."""

import json
import tokenize
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from aiao_core.errors import InvalidImages, UnsafeArchive, in_words
from aiao_core.formats.archive_members import MAX_ENTRIES, UNREADABLE, plain_zip
from aiao_core.formats.archives import Limits, is_archive, opened
from aiao_core.formats.folders import files_in

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Formats that are read, whatever a file is named: for some others Pillow starts programs."""

MAX_IMAGES = 200_000
MAX_FILES = MAX_ENTRIES
"""Most files of a packed image set: each image may have a caption beside it, and a few other files may lie among them."""

MAX_PIXELS = 64_000_000
"""Most pixels of one image: a larger one is a decompression bomb rather than training data."""

MAX_CAPTION = 2000
"""Most characters of a caption that are read: text encoders use fewer."""

SLACK_BYTES = 256 << 20
"""Bytes of a training tensor that a set of any size may become: simple pictures compress well."""

BLOCK_BYTES = 16 << 20
"""Memory for the part of an array that is read at once."""

UNMAPPABLE = (
    OSError, ValueError, TypeError, OverflowError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError,
)  # fmt: skip
"""Errors that numpy raises for array files that it did not write."""

ToTensor = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class ImageSet:
    """Images, read again in each iteration, and the caption of each if the set has captions."""

    count: int
    size: int
    """Bytes of the file or of all files that hold them."""
    captions: list[str] | None
    read: Callable[[], Iterator[Tensor]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the images: (channels, size, size) float32 in [-1, 1], cropped to the center square."""
        return self.read()


@contextmanager
def open_images(path: Path, *, size: int, channels: int, limits: Limits | None = None) -> Iterator[ImageSet]:
    """Open an image set at ``size`` pixels a side, to be read inside the block.

    ``path`` is a folder of PNG, JPEG, WebP or BMP files (sub-folders included), a ZIP or TAR of one, or an ``.npz`` with one
    uint8 array (N, H, W, 3) or (N, H, W). Captions are the ``text`` of each ``file_name`` in a folder's ``metadata.jsonl``, a
    ``.txt`` file beside each image, or an array ``text`` of N strings in the ``.npz``. An archive is unpacked within ``limits``
    except for their number of files: an image set may have :data:`MAX_FILES`.

    Raises :class:`InvalidImages` if nothing is found, a file cannot be read, or only some of the images have a caption, and
    :class:`aiao_core.errors.UnsafeArchive` if an archive cannot be unpacked within the limits.
    """
    if not path.is_dir() and not is_archive(path):
        raise InvalidImages(f"{path.name} is not an image set: give a folder, a .zip of images or an .npz array")
    arrays = _names_of_arrays(path)
    to_tensor = partial(_to_tensor, size=size, channels=channels)
    with opened(path, replace(limits or Limits(), files=MAX_FILES)) as folder:
        yield _in_arrays(path, folder, arrays, to_tensor) if arrays else _in_folder(folder, to_tensor)


def check_expansion(images: ImageSet, needed: int, limits: Limits | None = None) -> None:
    """Raise :class:`InvalidImages` if the tensor of ``needed`` bytes that a model is trained on is out of all proportion.

    A set of 200,000 images of one pixel is a small file, and as large as any other set once each has the size that the model
    takes.
    """
    if needed > SLACK_BYTES + (limits or Limits()).ratio * images.size:
        raise InvalidImages(
            f"the {images.count} images in {images.size} bytes are too small, or hold too little, for a model that takes "
            f"{needed} bytes of them; give images of about the size that the model draws"
        )


def _in_folder(folder: Path, to_tensor: ToTensor) -> ImageSet:
    files = [file for file in files_in(folder) if file.suffix.lower() in SUFFIXES]
    _check_count(len(files))
    held = sum(file.stat().st_size for file in files)
    return ImageSet(len(files), held, _captions(folder, files), lambda: (_read(file, to_tensor) for file in files))


def _captions(folder: Path, files: Sequence[Path]) -> list[str] | None:
    listed = _listed_captions(folder)
    captions = [listed.get(file.relative_to(folder).as_posix(), _caption_beside(file)) for file in files]
    if not any(captions):
        return None
    if missing := [file.name for file, caption in zip(files, captions, strict=True) if not caption]:
        raise InvalidImages(f"{missing[0]} and {len(missing) - 1} more images have no caption; give every image one, or none")
    return [caption for caption in captions if caption]


def _listed_captions(folder: Path) -> dict[str, str]:
    """Read captions by file name from ``metadata.jsonl``, as the Hugging Face datasets library does."""
    file = folder / "metadata.jsonl"
    if not file.is_file():
        return {}
    try:
        entries = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        return {str(entry["file_name"]): str(entry["text"])[:MAX_CAPTION] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidImages(
            f"metadata.jsonl cannot be read ({in_words(error)}); each line must be like "
            '{"file_name": "1.png", "text": "a cat"}'
        ) from error


def _caption_beside(file: Path) -> str | None:
    beside = file.with_suffix(".txt")
    if not beside.is_file():
        return None
    with beside.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(MAX_CAPTION).strip()


def _read(file: Path, to_tensor: ToTensor) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                _check_pixels(file.name, image.width, image.height)
                return to_tensor(image)
    except (
        OSError,
        ValueError,
        SyntaxError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise InvalidImages(f"{file.name} is not a readable image ({in_words(error)}); replace it or leave it out") from error


def _to_tensor(image: Image.Image, *, size: int, channels: int) -> Tensor:
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    fitted = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(fitted)).float() / 127.5 - 1
    return pixels.view(size, size, -1).permute(2, 0, 1).contiguous()


def _names_of_arrays(path: Path) -> list[str]:
    """List the file names of the arrays in an ``.npz`` file, in its order; none for any other file."""
    if not zipfile.is_zipfile(path):
        return []
    try:
        with path.open("rb") as file, plain_zip(file) as archive:
            names = archive.namelist()
    except (*UNREADABLE, UnsafeArchive):
        return []  # unpacking it says what is wrong
    return [PurePosixPath(name).name for name in names] if all(name.endswith(".npy") for name in names) else []


def _in_arrays(path: Path, folder: Path, arrays: Sequence[str], to_tensor: ToTensor) -> ImageSet:
    name = path.name
    files = sorted(folder.rglob("*.npy"), key=lambda file: arrays.index(file.name))
    file = next((file for file in files if _is_images(_array(file))), None)
    if file is None:
        raise InvalidImages(f"{name} holds no uint8 array of shape (N, H, W, 3) or (N, H, W)")
    count, height, width = _array(file).shape[:3]
    _check_count(count)
    _check_pixels(name, width, height)
    text = next((_array(file) for file in files if file.name == "text.npy"), None)
    if text is not None and (text.dtype.kind != "U" or text.shape != (count,)):
        raise InvalidImages(f"the array text of {name} must hold one string for each of the {count} images")
    captions = None if text is None else [str(caption)[:MAX_CAPTION] for caption in text]
    held = path.stat().st_size
    return ImageSet(count, held, captions, lambda: (to_tensor(Image.fromarray(image)) for image in _rows(file)))


def _rows(file: Path) -> Iterator[NDArray[Any]]:
    """Yield an array's images. Each block has a mapping of its own: a mapping keeps in memory what was read through it."""
    count, rows = len(_array(file)), max(1, BLOCK_BYTES // _array(file)[0].nbytes)
    for start in range(0, count, rows):
        yield from np.array(_array(file)[start : start + rows])


def _array(file: Path) -> NDArray[Any]:
    """Map an array's file into memory; an empty array for one that numpy cannot map."""
    try:
        array: NDArray[Any] = open_memmap(file, mode="r")
    except UNMAPPABLE:  # pickled objects among them, such as a column of names: never unpickled, never needed
        return np.empty(0)
    return array


def _is_images(array: NDArray[Any]) -> bool:
    shaped = array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)
    return array.dtype == np.uint8 and shaped and min(array.shape[1:]) > 0


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidImages(f"{name} has an image of {width}x{height} pixels; at most {MAX_PIXELS} are read")


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_IMAGES:
        raise InvalidImages(
            "the image set is empty: it needs at least one PNG, JPEG or WebP file"
            if count == 0
            else f"the image set has {count} images; at most {MAX_IMAGES} are read"
        )
