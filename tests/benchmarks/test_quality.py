"""The measures of quality say what they should where the truth is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from aiao_core.attacks import Thief
from aiao_core.attacks.weights import weight_noise
from aiao_core.data.latents import decode_latents, encode_images
from aiao_core.formats.pipelines import load_model
from benchmarks.image_features import INCEPTION, ClassifierFeatures, Distances, choose_features, feature_distance
from benchmarks.quality import PSNR_LIMIT, Yardstick, _bootstrap, _estimate, save_before_and_after, shipped_data
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images
from demo_models.emoji_classifier.classifier import CATEGORIES, load_classifier, predicted
from demo_models.emoji_classifier.train import load_labelled
from tests.support.places import PROJECT

TEXT_MODEL = PROJECT / "demo_models" / "emoji_text" / "unet"


@pytest.fixture(scope="module")
def yardstick():
    return Yardstick(load_model(MODEL), shipped_data(MODEL), samples=32)


@pytest.fixture(scope="module")
def real():
    images = load_images(without=["Flags", THIEF_CATEGORY])
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]


def distorted(images, level):
    return (images + level * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)


@pytest.mark.parametrize("size", [16, 32])
def test_the_classifier_knows_images_that_it_was_not_trained_on(size):
    images, labels = load_labelled(held_out=True, size=size)
    trained, _ = load_labelled(held_out=False, size=size)
    assert len(images) + len(trained) == len(load_images(size=size))
    assert len(labels.unique()) == len(CATEGORIES)

    accuracy = float((predicted(load_classifier(), images) == labels).float().mean())
    most_frequent = float(labels.bincount().max() / len(labels))
    assert most_frequent < 0.25
    assert accuracy > 0.6


def test_fid_and_kid_of_real_images_are_small_and_rise_with_noise(real):
    features, count = ClassifierFeatures(), 256
    with torch.no_grad():
        distances = Distances(features(real[count:]), count)
        levels = [features(distorted(real[:count], level)) for level in (0.0, 0.1, 0.2, 0.4)]
    fid, kid = [distances.fid(found) for found in levels], [distances.kid(found) for found in levels]
    assert fid == sorted(fid)
    assert kid == sorted(kid)
    assert fid[0] < 0.1 * fid[-1]
    assert abs(kid[0]) < 0.1 * kid[-1]


def test_kid_is_the_same_every_time_and_leaves_the_global_generator_alone(real):
    with torch.no_grad():
        features = ClassifierFeatures()(real[:200])
    distances = Distances(features[100:], 50)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert distances.kid(features[:50]) == distances.kid(features[:50])
    assert torch.equal(torch.rand(2), expected)


def test_the_feature_distance_is_zero_for_equal_images_and_grows_with_distortion(real):
    classifier, images = load_classifier(), real[:64]
    assert not feature_distance(classifier, images, images).any()
    growing = torch.stack([feature_distance(classifier, images, distorted(images, level)) for level in (0.02, 0.1, 0.4)])
    assert (growing[0] > 0).all()
    assert (growing.mean(1).diff() > 0.02).all()
    other = images.flip(0)
    symmetric = feature_distance(classifier, other, images)
    assert torch.allclose(feature_distance(classifier, images, other), symmetric)


@pytest.mark.slow
def test_the_published_model_has_lost_nothing(yardstick):
    quality = yardstick.measure(yardstick.published.denoiser)
    assert quality.quality_loss == 0
    assert quality.useful
    assert quality.psnr.value == PSNR_LIMIT
    assert quality.ssim.value == pytest.approx(1, abs=1e-5)
    assert quality.feature_distance.value == 0
    assert quality.fid.low < quality.fid.value < quality.fid.high
    assert quality.features == choose_features().name


@pytest.mark.slow
def test_noise_on_the_weights_costs_quality(yardstick, tmp_path):
    thief = Thief(yardstick.published, yardstick.data.held_out)
    slight = yardstick.measure(weight_noise(thief, strength=0.005))
    heavy = yardstick.measure(weight_noise(thief, strength=0.3), grid=tmp_path / "grid.png")
    assert slight.useful
    assert heavy.fid_rise.low > 0.2
    assert heavy.denoising_loss_rise.low > 0.2
    assert not heavy.useful
    assert heavy.psnr.high < slight.psnr.low
    assert heavy.ssim.high < slight.ssim.low
    assert heavy.feature_distance.low > slight.feature_distance.high
    assert heavy.kid.low > slight.kid.high
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.long
def test_a_model_whose_predictions_are_no_numbers_is_not_useful(yardstick):
    broken = weight_noise(Thief(yardstick.published, yardstick.data.held_out), strength=0.0)
    next(broken.parameters()).data.fill_(float("nan"))
    quality = yardstick.measure(broken)
    assert quality.quality_loss == torch.inf
    assert not quality.useful


@pytest.mark.slow
def test_a_text_to_image_model_is_measured_on_decoded_samples():
    data = shipped_data(TEXT_MODEL)
    assert len(data.conditions["encoder_hidden_states"]) == len(data.real)
    images = data.real[:32]
    decoded = decode_latents(data.autoencoder, encode_images(data.autoencoder, images))
    assert float((decoded - images).square().mean()) < 0.1 * float(images.var())

    yardstick = Yardstick(load_model(TEXT_MODEL), data, samples=8)
    assert yardstick.reference.shape == (8, 3, 32, 32)
    assert yardstick.reference.std() > 0.2
    assert not torch.equal(yardstick.reference[0], yardstick.reference[1])


def test_intervals_are_as_wide_as_the_standard_error_says():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator) * 3 + 5
    estimate = _estimate(values[_bootstrap(400, generator)].mean(1))
    assert estimate.value == pytest.approx(float(values.mean()))
    assert estimate.high - estimate.value == pytest.approx(1.96 * float(values.std()) / 20, rel=0.25)
    assert estimate.value - estimate.low == pytest.approx(estimate.high - estimate.value)


def test_the_grid_shows_each_row_before_and_after(tmp_path):
    before, after = torch.full((8, 3, 4, 4), -1.0), torch.full((8, 3, 4, 4), 1.0)
    save_before_and_after(before, after, tmp_path / "grid.png", columns=2, rows=3)
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert [int(row.mean()) for row in np.split(pixels, 6)] == [0, 255, 0, 255, 0, 255]


def test_inceptions_features_are_used_only_where_its_weights_are():
    expected = "Inception v3" if INCEPTION.is_file() else "emoji classifier"
    assert choose_features().name.startswith(expected)
