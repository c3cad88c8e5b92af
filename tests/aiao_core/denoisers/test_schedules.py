import math

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from aiao_core.denoisers.scheduler_configs import noise_schedule
from aiao_core.denoisers.schedules import IMAGE_WEIGHT_RANGE, Diffusion, RectifiedFlow
from aiao_core.errors import InvalidCheckpoint
from tests.support.family_pipelines import cosine_scheduler

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
        ({"_class_name": "FlowMatchLCMScheduler", "shift": 6.0}, RectifiedFlow),
        ({"_class_name": "LTXEulerAncestralRFScheduler"}, RectifiedFlow),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 5.0}, RectifiedFlow),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1}, RectifiedFlow),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 50}, Diffusion),
        ({"_class_name": "CogVideoXDPMScheduler", "prediction_type": "v_prediction"}, Diffusion),
        ({"_class_name": "CosineDPMSolverMultistepScheduler"}, Diffusion),
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
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 10**400},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 1.5},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "max_shift": "1"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "max_image_seq_len": 256},
        {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": -1},
        {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
        {"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"},
        {"_class_name": "DDIMScheduler", "prediction_type": "trigflow"},
        {"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_data": 0.5},
        {"_class_name": "CosineDPMSolverMultistepScheduler", "prediction_type": "epsilon"},
        {"_class_name": "CogVideoXDDIMScheduler", "beta_schedule": "no-such"},
        {"_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": -1.0},
    ],
)
def test_a_configuration_that_is_none_is_refused(config):
    with pytest.raises(InvalidCheckpoint, match="scheduler_config"):
        noise_schedule(config)


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, "EDM"),
        ({"_class_name": "EDMEulerScheduler"}, "EDM"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", "prediction_type": "v_prediction"}, "EDM"),
        ({"_class_name": "SCMScheduler", "prediction_type": "trigflow"}, "SCMScheduler is not supported.*DDPMScheduler"),
        ({"_class_name": "FlowMapEulerDiscreteScheduler"}, "not supported"),
        ({"_class_name": ["DDPMScheduler"]}, "not supported"),
    ],
)
def test_a_scheduler_that_cannot_be_read_truly_is_refused_with_the_reason(config, cause):
    with pytest.raises(InvalidCheckpoint, match=cause):
        noise_schedule(config)


def test_zero_terminal_noise_reaches_the_schedule():
    config = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    assert noise_schedule(config).scheduler.alphas_cumprod[-1] == 0
    assert noise_schedule(config | {"rescale_betas_zero_snr": False}).scheduler.alphas_cumprod[-1] > 0


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cogvideox_has_the_noise_that_its_scheduler_has(scale):
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "snr_shift_scale": scale}
    theirs = CogVideoXDDIMScheduler(**config)
    ours = noise_schedule(config | {"_class_name": "CogVideoXDDIMScheduler"})
    clean, noise = draws()
    for timestep in (0, 10, 500, 990, 999):
        expected = theirs.add_noise(clean, noise, torch.tensor([timestep]))
        found = ours.add_noise(clean, noise, torch.tensor([timestep]))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        velocity = theirs.get_velocity(clean, noise, torch.tensor([timestep]))
        torch.testing.assert_close(ours.target(clean, noise, torch.tensor([timestep])), velocity, atol=1e-5, rtol=1e-5)


def test_stable_audio_sees_and_predicts_what_its_scheduler_means():
    """Its scheduler adds noise without a limit, scales that for the denoiser, and reads a clean sound from the prediction."""
    theirs = cosine_scheduler()()
    ours = noise_schedule({"_class_name": "CosineDPMSolverMultistepScheduler"})
    clean, noise = (each[..., 0] for each in draws())
    for timestep in (1, 250, 500, 750, 999):
        sigma = torch.tensor(math.tan(timestep / 1000 * math.pi / 2), dtype=torch.float64)
        assert float(theirs.precondition_noise(sigma)) == pytest.approx(timestep / 1000)
        sample = clean + sigma * noise
        seen = ours.add_noise(clean, noise, torch.tensor([timestep]))
        torch.testing.assert_close(seen, theirs.precondition_inputs(sample, sigma), atol=1e-5, rtol=1e-5)
        target = ours.target(clean, noise, torch.tensor([timestep]))
        torch.testing.assert_close(theirs.precondition_outputs(sample, target, sigma), clean, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_a_flow_adds_noise_to_sounds_images_and_videos(shape):
    clean, noise = torch.zeros(2, 5, *shape), torch.ones(2, 5, *shape)
    noisy = RectifiedFlow(1000).add_noise(clean, noise, torch.tensor([250, 500]))
    assert noisy[0].unique().tolist() == [0.25]
    assert noisy[1].unique().tolist() == [0.5]


def test_a_flow_of_one_timestep_is_counted_in_a_thousand_parts():
    """As ACE-Step's, whose pipeline gives its denoiser the noise itself."""
    assert (
        noise_schedule({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1}).num_train_timesteps == 1000
    )


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_dynamic_shift_is_the_one_of_diffusers_pipelines(kind):
    config = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "time_shift_type": kind}
    ours = noise_schedule(config | {"_class_name": "FlowMatchEulerDiscreteScheduler"})
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):
        sigma = torch.tensor([0.3])
        shift = ours.shift.at(tokens)
        torch.testing.assert_close(shift * sigma / (1 + (shift - 1) * sigma), theirs.time_shift(mu, 1.0, sigma))


def test_a_static_shift_and_the_last_noise_are_those_of_diffusers():
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "shift_terminal": 0.1}
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.1)
    theirs.set_timesteps(8)
    assert noise_schedule(config).sampler(8).sigmas.tolist() == theirs.sigmas.tolist()
    unipc = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 5.0}
    shifted = UniPCMultistepScheduler(flow_shift=5.0, use_flow_sigmas=True, prediction_type="flow_prediction")
    shifted.set_timesteps(2)
    middle = noise_schedule(unipc).sampler(2).sigmas
    assert noise_schedule(unipc).shift == 5.0
    assert float(middle[0]) == pytest.approx(float(shifted.sigmas[0]), abs=2e-3)
