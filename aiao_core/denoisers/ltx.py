"""LTX-Video (HaCohen et al. 2024) and LTX-2, which draws sound too (Lightricks 2026): rectified flows."""

import math
from typing import Any

import torch
from diffusers import LTX2VideoTransformer3DModel, LTXVideoTransformer3DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, on_grid, random_text, text_mask
from aiao_core.denoisers.video import Video
from aiao_core.errors import WrongArchitecture

FRAME_RATE = 25
"""Frames a second at which LTX-Video is used (the pipeline's default)."""

COMPRESSION = (8, 32, 32)
"""Frames, rows and columns of a video that its autoencoder puts into one position."""


class LTX(Video):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = LTXVideoTransformer3DModel
    activation_bytes = 250

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["caption_channels"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy, text = inputs.noisy, inputs.conditions["encoder_hidden_states"]
        frames, rows, columns = noisy.shape[2:]
        prediction: Tensor = denoiser(
            noisy.flatten(2).mT,
            timestep=inputs.timesteps,
            encoder_attention_mask=text_mask(text),
            num_frames=frames,
            height=rows,
            width=columns,
            rope_interpolation_scale=(COMPRESSION[0] / FRAME_RATE, *COMPRESSION[1:]),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return on_grid(prediction, frames, rows, columns)


class LTX2(DenoiserFamily):
    """x_t is the tokens of a video and then those of its sound, which the denoiser draws together: (B, C, tokens).

    Conditions: ``encoder_hidden_states`` and ``audio_encoder_hidden_states``, (B, L, D) each.
    """

    denoiser = LTX2VideoTransformer3DModel
    side = 32
    activation_bytes = 360
    positions = 4122

    CLIPS = ((4, 32, 32, 26), (2, 16, 16, 9))
    """Frames, rows, columns, and tokens of sound, in training and in verification: of videos of 25 and 9 frames, 24 a second,
    with 25 tokens of sound a second."""

    def shape(self, config: Config) -> tuple[int, ...]:
        return self._channels(config), _tokens(self.CLIPS[0])

    def side_multiple(self, config: Config) -> int:
        return 1

    def monte_carlo_shape(self, config: Config) -> tuple[int, ...]:
        return self._channels(config), _tokens(self.CLIPS[1])

    def _channels(self, config: Config) -> int:
        if config["in_channels"] != config["audio_in_channels"]:
            raise WrongArchitecture(
                "an LTX2VideoTransformer3DModel is only supported if a token of its sound has as many channels as one of its "
                "video; a family of your own can serve it, see docs/families.md"
            )
        return int(config["in_channels"])

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        video = random_text(self._width(config, ""), count, generator)["encoder_hidden_states"]
        sound = random_text(self._width(config, "audio_"), count, generator)["encoder_hidden_states"]
        return {"encoder_hidden_states": video, "audio_encoder_hidden_states": sound}

    def _width(self, config: Config, part: str) -> int:
        projected = config.get("use_prompt_embeddings", True)
        return int(config["caption_channels"] if projected else config[f"{part}cross_attention_dim"])

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy, mask = inputs.noisy, text_mask(inputs.conditions["encoder_hidden_states"])
        frames, rows, columns, length = {_tokens(clip): clip for clip in self.CLIPS}[noisy.shape[2]]
        video, sound = noisy[:, :, :-length].mT, noisy[:, :, -length:].mT
        predictions = denoiser(
            video,
            sound,
            timestep=inputs.timesteps,
            sigma=inputs.timesteps,
            encoder_attention_mask=mask,
            audio_encoder_attention_mask=mask,
            num_frames=frames,
            height=rows,
            width=columns,
            audio_num_frames=length,
            use_cross_timestep=True,
            return_dict=False,
            **inputs.conditions,
        )
        return torch.cat(predictions, dim=1).mT


def _tokens(clip: tuple[int, int, int, int]) -> int:
    *video, sound = clip
    return math.prod(video) + sound
