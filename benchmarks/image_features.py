"""Features of images, and the distances between sets of images and between two images that are measured with them."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from demo_models.emoji_classifier.classifier import NUM_FEATURES, Classifier, load_classifier

INCEPTION = Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_FEATURES = 192
"""Inception's 2048 features cannot be told from noise in a few hundred images."""


class InceptionFeatures(nn.Module):
    """Inception's first 192 features of images (N, 3, H, W) in [-1, 1], by the weights that torch-fidelity has downloaded."""

    name = f"Inception v3, {INCEPTION_FEATURES} features"
    num_features = INCEPTION_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.network = NoTrainInceptionV3("inception-v3-compat", [str(INCEPTION_FEATURES)], str(INCEPTION))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(((images + 1) * 127.5).round().byte())
        return features


class ClassifierFeatures(nn.Module):
    """The emoji classifier's penultimate features of images (N, 3, H, W) in [-1, 1]."""

    name = f"emoji classifier, {NUM_FEATURES} features (Inception's weights are not here)"
    num_features = NUM_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.network = load_classifier()

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)


def choose_features() -> InceptionFeatures | ClassifierFeatures:
    """Inception's if torch-fidelity and its weights are here, else the classifier's."""
    present = importlib.util.find_spec("torch_fidelity") and INCEPTION.is_file()
    return InceptionFeatures() if present else ClassifierFeatures()


def feature_distance(classifier: Classifier, first: Tensor, second: Tensor) -> Tensor:
    """How different the images (N, 3, H, W) look to the emoji classifier, (N,): 0 for equal ones.

    The squared distance of the channels, normalised to length 1 at each position, in the mean over positions and stages. It has
    the form of LPIPS (Zhang et al. 2018), but neither its network nor its learnt weights: the figures cannot be compared.
    """
    distances = []
    with torch.no_grad():
        for left, right in zip(classifier.intermediate(first), classifier.intermediate(second), strict=True):
            difference = nn.functional.normalize(left, dim=1) - nn.functional.normalize(right, dim=1)
            distances.append(difference.square().sum(1).mean((1, 2)))
    return torch.stack(distances).mean(0)


class Distances:
    """FID and KID of feature sets to one set of ``real`` features (N, d), by torchmetrics."""

    def __init__(self, real: Tensor, count: int) -> None:
        """``count``: how many images will be compared with the real ones."""
        features = nn.Identity()  # torchmetrics shall take features for images: they are computed once and resampled often
        features.num_features = real.shape[1]
        self._fid = FrechetInceptionDistance(feature=features, reset_real_features=False)
        self._kid = KernelInceptionDistance(
            feature=features, subsets=10, subset_size=min(count, len(real)), reset_real_features=False
        )
        for metric in (self._fid, self._kid):
            metric.update(real, real=True)

    def fid(self, features: Tensor) -> float:
        """Fréchet distance of ``features`` (count, d)."""
        self._fid.reset()
        self._fid.update(features, real=False)
        return float(self._fid.compute())

    def kid(self, features: Tensor) -> float:
        """Kernel distance of ``features`` (count, d) to as many real ones, in the mean over ten choices of these."""
        self._kid.reset()
        self._kid.update(features, real=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return float(self._kid.compute()[0])
