"""Image sets: the owner's, which may be anything a client uploads, and the built-in one for the probe."""

import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from aiao_core.errors import InvalidImages
from aiao_core.formats.archives import is_archive, opened

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
MAX_IMAGES = 200_000
MAX_PIXELS = 64_000_000
MAX_ARRAY_BYTES = 8 << 30
MAX_CAPTION = 2000


@dataclass(frozen=True)
class ImageSet:
    """Images, and the caption of each if the set has captions."""

    pixels: Tensor
    """(N, channels, size, size) float32 in [-1, 1], cropped to the centre square."""
    captions: list[str] | None = None


def load_images(path: Path, *, size: int, channels: int) -> ImageSet:
    """An image set at ``size`` pixels a side.

    ``path`` is a folder of PNG, JPEG, WebP or BMP files (sub-folders included), a ZIP or TAR of one, or an ``.npz`` with one
    uint8 array (N, H, W, 3) or (N, H, W). Captions are the ``text`` of each ``file_name`` in a folder's ``metadata.jsonl``, a
    ``.txt`` file beside each image, or an array ``text`` of N strings in the ``.npz``. Raises :class:`InvalidImages` if nothing
    is found, a file cannot be read, or only some of the images have a caption.
    """
    if path.is_dir():
        return _from_folder(path, size, channels)
    if _is_npz(path):
        return _from_npz(path, size, channels)
    if is_archive(path):
        with opened(path) as folder:
            return _from_folder(folder, size, channels)
    raise InvalidImages(f"{path.name} is no image set: give a folder, a .zip of images or an .npz array")


def _from_folder(folder: Path, size: int, channels: int) -> ImageSet:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    _check_count(len(files))
    pixels = torch.stack([_read(file, size, channels) for file in files])
    listed = _listed_captions(folder)
    captions = [listed.get(file.relative_to(folder).as_posix(), _caption_beside(file)) for file in files]
    if not any(captions):
        return ImageSet(pixels)
    if missing := [file.name for file, caption in zip(files, captions, strict=True) if not caption]:
        raise InvalidImages(f"{missing[0]} and {len(missing) - 1} more images have no caption; give every image one, or none")
    return ImageSet(pixels, [caption for caption in captions if caption])


def _listed_captions(folder: Path) -> dict[str, str]:
    """By file name, from ``metadata.jsonl`` as the Hugging Face datasets library reads it."""
    file = folder / "metadata.jsonl"
    if not file.is_file():
        return {}
    try:
        entries = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        return {str(entry["file_name"]): str(entry["text"])[:MAX_CAPTION] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidImages(
            f'metadata.jsonl cannot be read ({error}); each line must be like {{"file_name": "1.png", "text": "a cat"}}'
        ) from error


def _caption_beside(file: Path) -> str | None:
    beside = file.with_suffix(".txt")
    if not beside.is_file():
        return None
    with beside.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(MAX_CAPTION).strip()


def _read(file: Path, size: int, channels: int) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InvalidImages(f"{file.name} has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read")
                return _to_tensor(image, size, channels)
    except (
        OSError,
        ValueError,
        SyntaxError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise InvalidImages(f"{file.name} is no readable image ({error}); replace it or leave it out") from error


def _to_tensor(image: Image.Image, size: int, channels: int) -> Tensor:
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    fitted = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(fitted)).float() / 127.5 - 1
    return pixels.view(size, size, -1).permute(2, 0, 1).contiguous()


def _is_npz(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _from_npz(path: Path, size: int, channels: int) -> ImageSet:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_ARRAY_BYTES:
            raise InvalidImages(f"{path.name} unpacks to more than {MAX_ARRAY_BYTES} bytes; give a part of it")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels = next((array for name in arrays.files if _is_images(array := _column(arrays, name))), None)
            text = _column(arrays, "text") if "text" in arrays.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidImages(f"{path.name} cannot be read ({error}); save it again with numpy.savez") from error
    if pixels is None:
        raise InvalidImages(f"{path.name} holds no uint8 array of shape (N, H, W, 3) or (N, H, W)")
    _check_count(len(pixels))
    if text is not None and (text.dtype.kind != "U" or text.shape != (len(pixels),)):
        raise InvalidImages(f"the array text of {path.name} must hold one string for each of the {len(pixels)} images")
    captions = None if text is None else [str(caption)[:MAX_CAPTION] for caption in text]
    return ImageSet(torch.stack([_to_tensor(Image.fromarray(image), size, channels) for image in pixels]), captions)


def _column(arrays: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(arrays[name])
    except ValueError:  # pickled objects, such as a column of names: never unpickled, never needed
        return np.empty(0)


def _is_images(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3))


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_IMAGES:
        raise InvalidImages(
            "the image set is empty: it needs at least one PNG, JPEG or WebP file"
            if count == 0
            else f"the image set has {count} images; at most {MAX_IMAGES} are read"
        )
