import pytest
import torch
from diffusers import DDPMScheduler

from aiao_core.training import IMAGE_WEIGHT_RANGE, fine_tune, image_weights, predict, training_target


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_image_weights_are_the_squared_error_of_the_implied_image(prediction_type):
    """diffusers' own step tells which clean image a prediction implies."""
    scheduler = DDPMScheduler(prediction_type=prediction_type, clip_sample=False)
    weights, expected = image_weights(scheduler), []
    sample = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for timestep in range(0, 1000, 37):
        implied = [
            scheduler.step(prediction, timestep, sample).pred_original_sample
            for prediction in (torch.zeros_like(sample), torch.ones_like(sample))
        ]
        expected.append(float((implied[1] - implied[0]).square().mean()))
    clipped = torch.tensor(expected).clip(*IMAGE_WEIGHT_RANGE)
    found = weights[::37]
    torch.testing.assert_close((found / found[0]).double(), (clipped / clipped[0]).double(), rtol=1e-3, atol=1e-3)
    assert float(weights.mean()) == pytest.approx(1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_the_prediction_that_implies_the_clean_image(prediction_type):
    scheduler = DDPMScheduler(prediction_type=prediction_type, clip_sample=False)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    timesteps = torch.tensor([400])
    target = training_target(scheduler, clean, noise, timesteps)
    implied = scheduler.step(target, 400, scheduler.add_noise(clean, noise, timesteps)).pred_original_sample
    torch.testing.assert_close(implied, clean, atol=1e-4, rtol=1e-4)


def test_fine_tuning_lowers_the_loss_and_repeats(tiny_model, tiny_images):
    import copy

    first, second = copy.deepcopy(tiny_model.denoiser), copy.deepcopy(tiny_model.denoiser)
    losses = []
    for model in (first, second):
        fine_tune(
            model, tiny_model.scheduler, tiny_images, steps=30, learning_rate=5e-3, batch_size=16,
            progress=lambda report: losses.append(report.metrics["loss"]),
        )  # fmt: skip
    assert sum(losses[25:30]) < sum(losses[:5])
    assert losses[:30] == losses[30:]
    noisy, timesteps = torch.zeros(1, 3, 8, 8), torch.tensor([5])
    assert torch.equal(predict(first, noisy, timesteps), predict(second, noisy, timesteps))
    assert not any(parameter.requires_grad for parameter in first.parameters())
