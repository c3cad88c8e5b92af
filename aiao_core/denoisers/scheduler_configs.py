"""Noise schedules of the schedulers that a pipeline folder may have: read truly, or refused.

What counts is what the denoiser sees and predicts, not how the scheduler samples. Most of diffusers' schedulers sample from one
of three schedules: diffusion by betas, a rectified flow, or the cosine of Stable Audio.
"""

import math
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, DDPMScheduler
from torch import Tensor

from aiao_core.denoisers.schedules import SHIFT_RANGE, Diffusion, DynamicShift, NoiseSchedule, RectifiedFlow
from aiao_core.errors import InvalidCheckpoint, in_words

MAX_TIMESTEPS = 100_000

UNIT_TIMESTEPS = 1000
"""Parts into which this library divides the time of a flow that counts from 0 to 1, as ACE-Step's does."""

BY_BETAS = frozenset({
    "DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "LMSDiscrete", "EulerDiscrete",
    "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "LCM", "TCD",
})  # fmt: skip
BY_BETAS_OR_FLOW = frozenset({
    "DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep",
    "FlowUniPCMultistep", "SASolver",
})  # fmt: skip
FLOWS = frozenset({"FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "LTXEulerAncestralRF"})
COGVIDEOX = frozenset({"CogVideoXDDIM", "CogVideoXDPM"})
COSINE = "CosineDPMSolverMultistep"
SUPPORTED = sorted(f"{name}Scheduler" for name in (*BY_BETAS, *BY_BETAS_OR_FLOW, *FLOWS, *COGVIDEOX, COSINE))

GREATEST = 1e6
"""Greatest number that is read: JSON may hold any."""

EDM = frozenset({"EDMEuler", "EDMDPMSolverMultistep"})
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample", "original_sample": "sample"}


def noise_schedule(config: dict[str, Any]) -> NoiseSchedule:
    """Read the schedule of a ``scheduler_config.json``, for the schedulers of diffusers that sample from a known one.

    Raises :class:`InvalidCheckpoint` for any other, and for values that describe no schedule.
    """
    timesteps = config.get("num_train_timesteps", 1000)
    if not isinstance(timesteps, int) or not 1 <= timesteps <= MAX_TIMESTEPS:
        raise InvalidCheckpoint(f"scheduler_config.json: num_train_timesteps must be between 1 and {MAX_TIMESTEPS}")
    name = f"{config.get('_class_name', 'DDPMScheduler')!s:.100}".removeprefix("Flax").removesuffix("Scheduler")
    if name in FLOWS or "FlowMatch" in name:
        return _flow(timesteps, config, "shift")
    if name in BY_BETAS_OR_FLOW and config.get("prediction_type") == "flow_prediction":
        return _flow(timesteps, config, "flow_shift")
    if name in EDM or (config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"):
        raise InvalidCheckpoint(
            f"scheduler_config.json: {name}Scheduler of this configuration scales x_t by its noise and gives the denoiser the "
            "logarithm of that as its timestep (EDM), which is not supported; register a model that was trained on timesteps"
        )
    if name not in BY_BETAS | BY_BETAS_OR_FLOW | COGVIDEOX | {COSINE}:
        raise InvalidCheckpoint(
            f"scheduler_config.json: {name}Scheduler is not supported: what it has the denoiser see and predict is not "
            f"known here; supported: {', '.join(SUPPORTED)}. If the model was trained as one of these tells, save the "
            "pipeline with that one"
        )
    prediction = PREDICTIONS.get(str(config.get("prediction_type", "v_prediction" if name == COSINE else "epsilon")))
    if prediction is None or config.get("use_flow_sigmas"):
        raise InvalidCheckpoint(
            f"scheduler_config.json: prediction_type {config.get('prediction_type')!s:.40} of a {name}Scheduler is not "
            f"supported; supported: {', '.join(PREDICTIONS)}, and flow_prediction of the schedulers that know it"
        )
    try:
        if name == COSINE:
            return _cosine(prediction, config)
        if name in COGVIDEOX:
            signal = CogVideoXDDIMScheduler.from_config(config).alphas_cumprod  # its other scheduler only samples otherwise
            return _by_signal(signal.double(), prediction)
        # diffusers' other samplers never clip, so their files do not say so; a latent would lose everything beyond 1.
        clips = {"clip_sample": name.startswith(("DDPM", "DDIM"))}
        return Diffusion(DDPMScheduler.from_config(clips | config | {"prediction_type": prediction}))
    except InvalidCheckpoint:
        raise
    except Exception as error:  # diffusers raises anything for values that no author would write
        raise InvalidCheckpoint(f"scheduler_config.json describes no noise schedule: {in_words(error)}") from error


def _flow(timesteps: int, config: dict[str, Any], shift: str) -> RectifiedFlow:
    if config.get("invert_sigmas"):
        raise InvalidCheckpoint(
            "scheduler_config.json: invert_sigmas is not supported: its time runs from the image to the noise; register the "
            "model with a scheduler without it, if it was trained so"
        )
    last = config.get("shift_terminal")
    if last is not None and not (_is_number(last) and 0 < last < 1):
        raise InvalidCheckpoint("scheduler_config.json: shift_terminal must be between 0 and 1")
    return RectifiedFlow(UNIT_TIMESTEPS if timesteps == 1 else timesteps, _shift(config, shift), last=last)


def _shift(config: dict[str, Any], name: str) -> float | DynamicShift:
    if not config.get("use_dynamic_shifting"):
        shift: Any = config.get(name, 1.0)
        if not _is_number(shift) or not SHIFT_RANGE[0] <= shift <= SHIFT_RANGE[1]:
            raise InvalidCheckpoint(f"scheduler_config.json: {name} must be between {SHIFT_RANGE[0]} and {SHIFT_RANGE[1]:g}")
        return float(shift)
    given = {name: value for name, value in config.items() if value is not None}
    tokens = [given.get("base_image_seq_len", 256), given.get("max_image_seq_len", 4096)]
    shifts = [given.get("base_shift", 0.5), given.get("max_shift", 1.15)]
    kind = given.get("time_shift_type", "exponential")
    if not all(map(_is_number, (*tokens, *shifts))) or not 0 < tokens[0] < tokens[1] or kind not in ("exponential", "linear"):
        raise InvalidCheckpoint(
            "scheduler_config.json: use_dynamic_shifting needs numbers as base_shift and max_shift, a base_image_seq_len below "
            "its max_image_seq_len, and exponential or linear as time_shift_type"
        )
    return DynamicShift(tokens[0], tokens[1], shifts[0], shifts[1], exponential=kind == "exponential")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= GREATEST


def _cosine(prediction: str, config: dict[str, Any]) -> Diffusion:
    """Read Stable Audio's: x_t = cos(pi t / 2) clean + sin(pi t / 2) noise with t from 0 to 1, in :data:`UNIT_TIMESTEPS` parts.

    The scheduler speaks of sigma, the tangent of that angle, and divides x_t by its length: both are the same if
    ``sigma_data`` is 1, and its velocity is then that of diffusion.
    """
    if config.get("sigma_data", 1.0) != 1.0 or prediction != "v_prediction":
        raise InvalidCheckpoint(
            f"scheduler_config.json: a {COSINE}Scheduler is only supported with sigma_data 1 and prediction_type v_prediction, "
            "as Stable Audio has them"
        )
    angles = torch.arange(UNIT_TIMESTEPS, dtype=torch.float64) / UNIT_TIMESTEPS * math.pi / 2
    return _by_signal(angles.cos().square(), prediction)


def _by_signal(signal: Tensor, prediction: str) -> Diffusion:
    """Make the diffusion whose x_t at each timestep has this much signal: squares of its scale, from 1 to 0."""
    if not ((signal >= 0) & (signal <= 1)).all():
        raise InvalidCheckpoint("scheduler_config.json: its betas and snr_shift_scale leave no signal between 0 and 1")
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    scheduler = DDPMScheduler(
        num_train_timesteps=len(signal),
        trained_betas=(1 - signal / before).tolist(),
        prediction_type=prediction,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = signal.float()  # exactly: their product has rounding errors
    return Diffusion(scheduler)
