"""``PixArtTransformer2DModel``: PixArt-alpha and PixArt-sigma (Chen et al. 2023, 2024)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from aiao_core.denoisers.family import RANDOM_TOKENS, Conditions, Config, DenoiserFamily, Inputs, normal


class PixArt(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D), and its ``encoder_attention_mask`` (B, L) where it is padded."""

    denoiser = PixArtTransformer2DModel
    side = 128
    activation_bytes = 30

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        width = config.get("caption_channels") or config["cross_attention_dim"]
        return {"encoder_hidden_states": normal(count, RANDOM_TOKENS, width, generator=generator)}

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        from diffusers import PixArtAlphaPipeline  # it brings transformers along, which only captions need

        if "text_encoder" not in text:
            return None
        pipeline = PixArtAlphaPipeline(
            tokenizer=text["tokenizer"], text_encoder=text["text_encoder"], vae=None, transformer=denoiser, scheduler=None
        )
        embeddings, mask, _, _ = pipeline.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embeddings, "encoder_attention_mask": mask}

    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(
            inputs.noisy,
            timestep=inputs.timesteps,
            added_cond_kwargs=_size(denoiser, inputs.noisy),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return prediction[:, : inputs.noisy.shape[1]]  # the other half, if there is one, is a learned variance


def _size(denoiser: nn.Module, noisy: Tensor) -> dict[str, Tensor | None]:
    if not denoiser.use_additional_conditions:
        return {"resolution": None, "aspect_ratio": None}
    height, width = (8 * side for side in noisy.shape[-2:])  # of the image: its autoencoder has a factor of 8
    resolution = noisy.new_tensor([[height, width]]).expand(len(noisy), 2)
    return {"resolution": resolution, "aspect_ratio": noisy.new_full((len(noisy), 1), height / width)}
