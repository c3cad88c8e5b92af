"""Families of sounds, x_t (B, C, length): Stable Audio Open (Evans et al. 2024) and ACE-Step 1.5 (Gong et al. 2026)."""

from typing import Any, ClassVar

import torch
from diffusers import AceStepTransformer1DModel, StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from aiao_core.denoisers.family import (
    MONTE_CARLO_SIDE,
    Conditions,
    Config,
    DenoiserFamily,
    Inputs,
    noise_share,
    normal,
    random_text,
)

MONTE_CARLO_LENGTH = MONTE_CARLO_SIDE**2


class StableAudio(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D), of the text and of start and end, and these two as
    ``global_hidden_states`` (B, 1, G).
    """

    denoiser = StableAudioDiTModel
    side = 1
    activation_bytes = 220
    positions = 1024  # 47 seconds
    length: ClassVar[int] = 1024

    def shape(self, config: Config) -> tuple[int, ...]:
        return config["in_channels"], min(config["sample_size"], self.length)

    def side_multiple(self, config: Config) -> int:
        return 1

    def monte_carlo_shape(self, config: Config) -> tuple[int, ...]:
        channels, length = self.shape(config)
        return channels, min(length, MONTE_CARLO_LENGTH)

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        text = random_text(config["cross_attention_input_dim"], count, generator)
        return text | {"global_hidden_states": normal(count, 1, config["global_states_input_dim"], generator=generator)}

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        rotary = get_1d_rotary_pos_embed(
            denoiser.config.attention_head_dim // 2,
            torch.arange(inputs.noisy.shape[2] + 1, device=inputs.noisy.device),  # the first is the global token
            use_real=True,
            repeat_interleave_real=False,
        )
        prediction: Tensor = denoiser(
            inputs.noisy, noise_share(inputs), rotary_embedding=rotary, return_dict=False, **inputs.conditions
        )[0]
        return prediction


class AceStep(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D) of text, lyrics and timbre, and ``context_latents`` (B, length, C2): what
    was there before, and which parts of it are to be drawn.
    """

    denoiser = AceStepTransformer1DModel
    side = 1
    activation_bytes = 170
    positions = 256  # 10 seconds, in training as in verification
    length: ClassVar[int] = 256

    def shape(self, config: Config) -> tuple[int, ...]:
        return config["audio_acoustic_hidden_dim"], self.length

    def side_multiple(self, config: Config) -> int:
        return 1

    def monte_carlo_shape(self, config: Config) -> tuple[int, ...]:
        return self.shape(config)

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        text = random_text(config.get("encoder_hidden_size") or config["hidden_size"], count, generator)
        context = config["in_channels"] - config["audio_acoustic_hidden_dim"]
        return text | {"context_latents": normal(count, self.length, context, generator=generator)}

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        share = noise_share(inputs)
        prediction: Tensor = denoiser(inputs.noisy.mT, share, share, return_dict=False, **inputs.conditions)[0]
        return prediction.mT
