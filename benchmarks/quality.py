"""How good are a model's images still? FID, KID, the denoising loss, and how far same-seed images have moved.

    python -m benchmarks.quality [demo_models/emoji/model]

prints the figures of a shipped model and of copies with noise on the weights; ``--grid`` writes images before and after. In
other benchmarks::

    yardstick = Yardstick(published, shipped_data(folder))
    quality = yardstick.measure(suspect.denoiser, grid=path)
    quality.quality_loss, quality.useful

**Quality loss** (this project) is the larger of two shares: how much the denoising loss on held-out data rose, relative to
the published model's, and how far the FID against real data went from the published model's to that of plain noise. A model
is **useful** if that is below 20 %. The two fail differently: the loss needs no sampling and is the steadier, the FID sees
what many small errors add up to. Both are compared on the same noise and seeds, and the FID with equally many images. Why not
the FID's own relative rise: the better the published model, the nearer its FID is to zero, or to its bias in a small sample,
and the less a ratio to it says. Plain noise, what sampling starts from, is the same end of the scale for every model.

A model that was fine-tuned for other images draws these and not the owner's. It is as useful as the better of two figures:
measure it against the images it was tuned for, too.

An audit (:mod:`aiao_core.attacks.audit`) knows neither an owner's classifier nor real images: its quality loss is the rise of
the denoising loss alone.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from aiao_core.attacks import Thief
from aiao_core.attacks.weights import weight_noise
from aiao_core.data.captions import encode_captions
from aiao_core.data.latents import decode_latents, encode_images, load_autoencoder
from aiao_core.denoisers import Conditions, predict
from aiao_core.denoisers.family import select
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.pipelines import load_model
from aiao_core.method.fine_tuning import Examples, draw_noise, noised
from aiao_core.method.inputs import own_samples
from benchmarks.image_features import Distances, choose_features, feature_distance
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images, save_grid
from demo_models.emoji_classifier.classifier import load_classifier
from demo_models.emoji_text.parts import captions

LIMIT = 0.2
"""Quality loss from which on a model is no longer useful."""

Categories = dict[str, tuple[str, ...]]
"""Of the emoji set: ``only`` or ``without``, as :func:`demo_models.emoji.data.load_images` takes them."""

OWNERS: Categories = {"without": ("Flags", THIEF_CATEGORY)}
"""What the shipped models were trained on."""

HELD_OUT: Categories = {"only": ("Flags",)}
"""No shipped model was trained on these images, nor are they the thief's."""

SAMPLES = 256
HELD_OUT_DRAWS = 512
REPLICATES = 100
BATCH = 64
PSNR_LIMIT = 100.0
"""dB; equal images have an infinite one."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval: normal, its standard error from a bootstrap over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Quality:
    """Everything measured about one model."""

    fid: Estimate
    """Fréchet distance of the features of the model's images to those of real ones (Heusel et al. 2017)."""
    kid: Estimate
    """Squared maximum mean discrepancy of the same features (Bińkowski et al. 2018)."""
    denoising_loss: Estimate
    """Mean squared error of the prediction on held-out data."""
    psnr: Estimate
    """dB, mean over the images, to the published model's image of the same seed."""
    ssim: Estimate
    """To the same image (Wang et al. 2004)."""
    feature_distance: Estimate
    """To the same image, see :func:`feature_distance`."""
    fid_rise: Estimate
    """Over the published model's: 0 is none, 1 as far as plain noise."""
    denoising_loss_rise: Estimate
    """Relative to the published model's: 0.1 is 10 % more."""
    features: str
    """What FID and KID were measured with, for people: a table must name it."""

    @property
    def quality_loss(self) -> float:
        """The larger of the two rises: see the module."""
        return max(self.fid_rise.value, self.denoising_loss_rise.value)

    @property
    def useful(self) -> bool:
        return self.quality_loss < LIMIT


@dataclass(frozen=True)
class Data:
    """What quality is measured on."""

    real: Tensor
    """Images (N, 3, H, W) in [-1, 1] of the kind that the published model draws."""
    conditions: Conditions
    """Those of each real image, (N, ...); samples are drawn under some of them, without guidance."""
    held_out: Examples
    """Images or latents, as the model works on, that it was not trained on."""
    autoencoder: Any | None = None
    """Decodes the samples of a model that works on latents."""


def shipped_data(folder: Path, *, real: Categories = OWNERS, held_out: Categories = HELD_OUT) -> Data:
    """The data for one of the shipped models, by category: what it should draw, and what nobody trained on."""
    model, autoencoder = load_model(folder), load_autoencoder(folder)
    size = 32 if autoencoder else 16

    def conditions(categories: Categories) -> Conditions:
        return encode_captions(folder, model, captions(**categories)) if (folder / "tokenizer").is_dir() else {}

    clean = load_images(size=size, **held_out)
    if autoencoder:
        clean = encode_images(autoencoder, clean)
    return Data(load_images(size=size, **real), conditions(real), Examples(clean, conditions(held_out)), autoencoder)


class Yardstick:
    """Measures models against one published model and one set of data, always on the same noise and seeds."""

    def __init__(self, published: DiffusionModel, data: Data, *, samples: int = SAMPLES, seed: int = 0) -> None:
        """``samples``: images drawn from each model."""
        generator = torch.Generator().manual_seed(seed)
        self.published, self.data, self.seed, self.samples = published, data, seed, samples
        rows = torch.randint(len(data.real), (samples,), generator=generator)
        self.conditions = select(data.conditions, rows)
        self.held_out = noised(published.schedule, data.held_out.draw(HELD_OUT_DRAWS, generator), generator)
        self.sample_rows, self.loss_rows = (_bootstrap(count, generator) for count in (samples, HELD_OUT_DRAWS))
        self.features, self.classifier = choose_features(), load_classifier()
        self.distances = Distances(self._features(data.real), samples)
        noise = draw_noise((samples, *data.real.shape[1:]), generator).clamp(-1, 1)
        self.noise_fid = self.distances.fid(self._features(noise))
        self.reference = self.draw(published.denoiser)
        self.reference_fid = self._fid(self._features(self.reference))
        self.reference_loss = self._loss(published.denoiser)

    def measure(self, denoiser: nn.Module, *, grid: Path | None = None) -> Quality:
        """All figures of ``denoiser``; ``grid`` is where to write the first images, the published model's above its own."""
        images = self.draw(denoiser)
        if grid:
            save_before_and_after(self.reference, images, grid)
        features, loss = self._features(images), self._loss(denoiser)
        fid = self._fid(features)
        psnr = peak_signal_noise_ratio(images, self.reference, data_range=2.0, reduction="none", dim=(1, 2, 3))
        ssim = structural_similarity_index_measure(images, self.reference, data_range=2.0, reduction="none")
        assert isinstance(ssim, Tensor)
        distance = feature_distance(self.classifier, images, self.reference)
        return Quality(
            fid=_estimate(fid),
            kid=_estimate(self._resampled(self.distances.kid, features)),
            denoising_loss=_estimate(loss),
            psnr=_estimate(psnr.clamp(max=PSNR_LIMIT)[self.sample_rows].mean(1)),
            ssim=_estimate(ssim[self.sample_rows].mean(1)),
            feature_distance=_estimate(distance[self.sample_rows].mean(1)),
            fid_rise=_estimate((fid - self.reference_fid) / (self.noise_fid - self.reference_fid)),
            denoising_loss_rise=_estimate(loss / self.reference_loss - 1),
            features=self.features.name,
        )

    def draw(self, denoiser: nn.Module) -> Tensor:
        """The images of ``denoiser`` that are measured, (samples, 3, H, W) in [-1, 1]."""
        model = replace(self.published, denoiser=denoiser)
        samples = own_samples(model, self.conditions, count=self.samples, seed=self.seed)
        if self.data.autoencoder:
            samples = decode_latents(self.data.autoencoder, samples)
        return samples.nan_to_num(0.0).clamp(-1, 1)

    def _features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.features(part) for part in images.split(BATCH)])

    def _fid(self, features: Tensor) -> Tensor:
        return self._resampled(self.distances.fid, features)

    def _resampled(self, statistic: Callable[[Tensor], float], features: Tensor) -> Tensor:
        return torch.tensor([statistic(features[rows]) for rows in self.sample_rows])

    def _loss(self, denoiser: nn.Module) -> Tensor:
        inputs, target = self.held_out
        errors = []
        with torch.no_grad():
            for start in range(0, len(inputs), BATCH):
                rows = slice(start, start + BATCH)
                errors.append((predict(denoiser, inputs[rows]).cpu() - target[rows]).square().mean((1, 2, 3)))
        return torch.cat(errors).nan_to_num(torch.inf)[self.loss_rows].mean(1)


def save_before_and_after(before: Tensor, after: Tensor, path: Path, *, columns: int = 16, rows: int = 1) -> None:
    """Write the first images (N, 3, H, W) in [-1, 1] as a PNG: each row of ``before`` above the same row of ``after``."""
    pairs = torch.stack([images[: rows * columns].unflatten(0, (rows, columns)) for images in (before, after)], 1)
    save_grid(((pairs.flatten(0, 2) + 1) / 2).permute(0, 2, 3, 1).numpy(), path, columns=columns)


def _bootstrap(count: int, generator: torch.Generator) -> Tensor:
    """Rows of ``count`` samples, (1 + REPLICATES, count): first every row once, then replicates drawn with replacement."""
    replicates = torch.randint(count, (REPLICATES, count), generator=generator)
    return torch.cat([torch.arange(count)[None], replicates])


def _estimate(series: Tensor) -> Estimate:
    """From the figure and its replicates, (1 + REPLICATES,). Not their percentiles: resampling itself raises FID and KID."""
    value, margin = float(series[0]), 1.96 * float(series[1:].std())
    return Estimate(value, value - margin, value + margin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL, help="pipeline folder of a shipped model")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--grid", type=Path, help="where to write the images of the last copy")
    arguments = parser.parse_args()
    model, data = load_model(arguments.folder), shipped_data(arguments.folder)
    start = time.perf_counter()
    yardstick = Yardstick(model, data)
    print(f"{len(data.real)} real images, {yardstick.samples} samples; features: {yardstick.features.name}; ", end="")
    print(f"prepared in {time.perf_counter() - start:.0f} s")
    show("published", yardstick.measure(model.denoiser))
    for level in arguments.noise:
        start = time.perf_counter()
        quality = yardstick.measure(weight_noise(Thief(model, data.held_out), strength=level), grid=arguments.grid)
        show(f"weight noise of {level:.0%} ({time.perf_counter() - start:.0f} s)", quality)


def show(name: str, quality: Quality) -> None:
    print(f"\n{name}: quality loss {quality.quality_loss:.1%}, {'useful' if quality.useful else 'no longer useful'}")
    for field in fields(quality):
        print(f"  {field.name:20s} {getattr(quality, field.name)}")


if __name__ == "__main__":
    main()
