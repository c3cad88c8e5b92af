"""Peak memory of an image set that becomes latents: with all pixels in memory at once, and streamed as the service does it.

    python -m benchmarks.image_sets [--images 20000] [--side 64]

PNG files in a ZIP archive, and an array in an .npz file, for the autoencoder of the shipped text model. Each measurement is a
process of its own, and its figure the growth of the process's peak over what it held before the set was opened. Both ways must
give the same latents, to the byte.
"""

import argparse
import io
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aiao_core.data.images import open_images
from aiao_core.data.latents import downsampling, encode_images, load_autoencoder
from benchmarks.steps import EXAMPLES, growth, measured

MODEL = EXAMPLES / "emoji_text/transformer"
LATENT_SIDE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64, help="pixels a side in the files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for path in (zip_of_pngs(Path(scratch), given.images, given.side), npz(Path(scratch), given.images, given.side)):
            (at_once, digest), (streamed, same) = (measured(encoded, path, stream) for stream in (False, True))
            if digest != same:
                raise SystemExit(f"{path.name}: the latents differ")
            print(
                f"{given.images} images in {path.name}: streamed {streamed / 1e6:.0f} MB, at once {at_once / 1e6:.0f} MB, "
                f"{at_once / streamed:.1f} times as much; the same latents",
                flush=True,
            )


def zip_of_pngs(folder: Path, count: int, side: int) -> Path:
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for number, image in enumerate(pictures(count, side)):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG", compress_level=1)
            archive.writestr(f"{number:06}.png", stream.getvalue())
    return folder / "set.zip"


def npz(folder: Path, count: int, side: int) -> Path:
    np.savez(folder / "set.npz", x=pictures(count, side))
    return folder / "set.npz"


def pictures(count: int, side: int) -> np.ndarray:
    """Random pixels, (count, side, side, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def encoded(path: Path, stream: bool) -> tuple[float, str]:
    """Encode the images of ``path``, streamed or at once; return the growth of the peak memory and the latents' SHA-256."""
    autoencoder = load_autoencoder(MODEL)
    size = LATENT_SIDE * downsampling(autoencoder)
    encode_images(autoencoder, torch.zeros(1, 3, size, size))  # torch allocates buffers of its own at the first call
    with growth() as memory:
        with open_images(path, size=size, channels=3) as images:
            latents = encode_images(autoencoder, images if stream else torch.stack(list(images)))
        return memory(), sha256(latents.numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main()
