import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from aiao_core.denoisers.schedules import IMAGE_WEIGHT_RANGE, Diffusion, RectifiedFlow, noise_schedule
from aiao_core.errors import InvalidCheckpoint

PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]


def diffusion(prediction_type):
    return Diffusion(DDPMScheduler(prediction_type=prediction_type, clip_sample=False))


def draws():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_image_weights_are_the_squared_error_of_the_implied_image(prediction_type):
    """diffusers' own step tells which clean image a prediction implies."""
    schedule = diffusion(prediction_type)
    weights, expected = schedule.image_weights(), []
    sample, _ = draws()
    for timestep in range(0, 1000, 37):
        implied = [
            schedule.scheduler.step(prediction, timestep, sample).pred_original_sample
            for prediction in (torch.zeros_like(sample), torch.ones_like(sample))
        ]
        expected.append(float((implied[1] - implied[0]).square().mean()))
    clipped = torch.tensor(expected).clip(*IMAGE_WEIGHT_RANGE)
    found = weights[::37]
    torch.testing.assert_close((found / found[0]).double(), (clipped / clipped[0]).double(), rtol=1e-3, atol=1e-3)
    assert float(weights.mean()) == pytest.approx(1)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_is_the_prediction_that_implies_the_clean_image(prediction_type):
    schedule = diffusion(prediction_type)
    (clean, noise), timesteps = draws(), torch.tensor([400])
    target = schedule.target(clean, noise, timesteps)
    implied = schedule.scheduler.step(target, 400, schedule.add_noise(clean, noise, timesteps)).pred_original_sample
    torch.testing.assert_close(implied, clean, atol=1e-4, rtol=1e-4)


def test_a_flow_adds_noise_as_diffusers_does():
    theirs, ours = FlowMatchEulerDiscreteScheduler(), RectifiedFlow(1000)
    clean, noise = draws()
    for timestep in theirs.timesteps[1::111]:
        expected = theirs.scale_noise(clean, timestep[None], noise)
        torch.testing.assert_close(ours.add_noise(clean, noise, timestep[None]), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("schedule", [*map(diffusion, PREDICTION_TYPES), RectifiedFlow(1000, 3.0)])
def test_a_sampler_that_is_told_the_truth_arrives_at_the_clean_image(schedule):
    """The prediction of a model that knows the clean image takes every sampler there."""
    clean, noise = draws()
    sampler = schedule.sampler(50)
    sample = noise
    for timestep in sampler.timesteps:
        if isinstance(schedule, RectifiedFlow):
            share = timestep / 1000
            prediction = (sample - clean) / share
        else:
            signal = schedule.scheduler.alphas_cumprod[int(timestep)]
            implied_noise = (sample - signal.sqrt() * clean) / (1 - signal).sqrt()
            prediction = schedule.target(clean, implied_noise, timestep[None])
        sample = sampler.step(prediction, timestep, sample).prev_sample
    torch.testing.assert_close(sample, clean, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"_class_name": "DDPMScheduler"}, Diffusion),
        ({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "skip_prk_steps": True}, Diffusion),
        ({"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}, Diffusion),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, RectifiedFlow),
        ({"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}, RectifiedFlow),
    ],
)
def test_a_configuration_of_any_sampler_gives_the_schedule(config, expected):
    schedule = noise_schedule(config)
    assert isinstance(schedule, expected)
    assert schedule.num_train_timesteps == 1000
    assert schedule.image_weights().shape == (1000,)


@pytest.mark.parametrize(
    "config",
    [
        {"num_train_timesteps": 0},
        {"num_train_timesteps": 10**9},
        {"num_train_timesteps": "1000"},
        {"beta_schedule": "no-such"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "3"},
    ],
)
def test_a_configuration_that_is_none_is_refused(config):
    with pytest.raises(InvalidCheckpoint, match="scheduler_config"):
        noise_schedule(config)
