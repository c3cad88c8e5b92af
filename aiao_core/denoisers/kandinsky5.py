"""``Kandinsky5Transformer3DModel``: Kandinsky 5, a rectified flow over images or videos (Arkhipkin et al. 2025)."""

from typing import Any

import torch
from diffusers import Kandinsky5Transformer3DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, Inputs, normal, random_text
from aiao_core.denoisers.video import Video
from aiao_core.errors import WrongArchitecture

IMAGE_SIDE = 128  # at 1024 pixels
VIDEO_SCALE = (1.0, 2.0, 2.0)
"""Distances between the positions of a video, in frames, rows and columns, at the size of 512x768 that its pipeline draws."""


class Kandinsky5(Video):
    """Conditions: ``encoder_hidden_states`` (B, L, D) and ``pooled_projections`` (B, P).

    A model that takes a first frame, ``visual_cond``, draws videos; it is given none. The others draw images, of one frame.
    """

    denoiser = Kandinsky5Transformer3DModel
    activation_bytes = 70
    positions = 16384  # of an image, the larger of the two

    def shape(self, config: Config) -> tuple[int, ...]:
        frames, side = (self.frames, self.side) if config.get("visual_cond") else (1, IMAGE_SIDE)
        return config["in_visual_dim"], frames, side, side

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        if config.get("attention_type", "regular") != "regular":
            raise WrongArchitecture(
                f"a Kandinsky 5 with attention_type {config['attention_type']!s:.20} is not supported, only 'regular'; "
                "register the model for shorter videos"
            )
        pooled = normal(count, config["in_text_dim2"], generator=generator)
        return random_text(config["in_text_dim"], count, generator) | {"pooled_projections": pooled}

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy, multiple = inputs.noisy.movedim(1, -1), self.side_multiple(denoiser.config)
        frames, rows, columns = (torch.arange(length, device=noisy.device) for length in noisy.shape[1:4])
        text, conditioned = inputs.conditions["encoder_hidden_states"], denoiser.config.visual_cond
        prediction: Tensor = denoiser(
            torch.cat([noisy, torch.zeros_like(noisy), torch.zeros_like(noisy[..., :1])], -1) if conditioned else noisy,
            timestep=inputs.timesteps,
            visual_rope_pos=[frames, rows[: len(rows) // multiple], columns[: len(columns) // multiple]],
            text_rope_pos=torch.arange(text.shape[1], device=noisy.device),
            scale_factor=VIDEO_SCALE if conditioned else (1.0, 1.0, 1.0),
            return_dict=False,
            **inputs.conditions,
        )
        return prediction.movedim(-1, 1)
