"""Image sets: the owner's, which may be anything a client uploads, and the built-in one for the probe."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from aiao_core.archives import is_archive, opened
from aiao_core.errors import InvalidImages

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
MAX_IMAGES = 200_000
MAX_PIXELS = 64_000_000
MAX_ARRAY_BYTES = 8 << 30


def load_images(path: Path, *, size: int, channels: int) -> Tensor:
    """An image set as (N, channels, size, size) float32 in [-1, 1], cropped to the centre square.

    ``path`` is a folder of PNG, JPEG, WebP or BMP files (sub-folders included), a ZIP or TAR of one, or an ``.npz`` with one
    uint8 array (N, H, W, 3) or (N, H, W). Raises :class:`InvalidImages` if nothing is found or a file cannot be read.
    """
    if path.is_dir():
        return _from_folder(path, size, channels)
    if _is_npz(path):
        return _from_npz(path, size, channels)
    if is_archive(path):
        with opened(path) as folder:
            return _from_folder(folder, size, channels)
    raise InvalidImages(f"{path.name} is no image set: give a folder, a .zip of images or an .npz array")


def synthetic_images(count: int, *, size: tuple[int, int], channels: int, seed: int) -> Tensor:
    """Soft random shapes on plain grounds, (count, channels, height, width) float32 in [-1, 1]: the built-in probe set."""
    random = np.random.Generator(np.random.PCG64(seed))
    height, width = size
    y, x = np.mgrid[0:height, 0:width] / np.array(size)[:, None, None]
    images = np.empty((count, channels, height, width))
    for image in images:
        image[:] = random.uniform(-1, 1, (channels, 1, 1))
        for _ in range(3):
            centre_x, centre_y, radius_x, radius_y = random.uniform((0, 0, 0.1, 0.1), (1, 1, 0.5, 0.5))
            distance = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2
            cover = 1 / (1 + np.exp(np.clip(8 * (distance - 1), -50, 50)))
            image += cover * (random.uniform(-1, 1, (channels, 1, 1)) - image)
    return torch.from_numpy(images).float()


def _from_folder(folder: Path, size: int, channels: int) -> Tensor:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    _check_count(len(files))
    return torch.stack([_read(file, size, channels) for file in files])


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


def _from_npz(path: Path, size: int, channels: int) -> Tensor:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_ARRAY_BYTES:
            raise InvalidImages(f"{path.name} unpacks to more than {MAX_ARRAY_BYTES} bytes; give a part of it")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels = next((array for name in arrays.files if _is_images(array := _column(arrays, name))), None)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidImages(f"{path.name} cannot be read ({error}); save it again with numpy.savez") from error
    if pixels is None:
        raise InvalidImages(f"{path.name} holds no uint8 array of shape (N, H, W, 3) or (N, H, W)")
    _check_count(len(pixels))
    return torch.stack([_to_tensor(Image.fromarray(image), size, channels) for image in pixels])


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
