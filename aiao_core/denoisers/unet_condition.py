"""``UNet2DConditionModel``: Stable Diffusion 1.x, 2.x (Rombach et al. 2022) and XL (Podell et al. 2023)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from aiao_core.denoisers.family import RANDOM_TOKENS, Conditions, Config, DenoiserFamily, Inputs, normal
from aiao_core.denoisers.unet import random_classes
from aiao_core.errors import WrongArchitecture

SDXL_TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
TIME_IDS = 6
"""SDXL's size conditions: original height and width, crop offsets, target height and width, in pixels."""


class UNet2DCondition(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D); for SDXL also ``text_embeds`` (B, P) and ``time_ids`` (B, 6)."""

    denoiser = UNet2DConditionModel
    side = 64
    activation_bytes = 30

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        width = config.get("encoder_hid_dim") or config["cross_attention_dim"]
        width = width if isinstance(width, int) else width[0]
        conditions = {"encoder_hidden_states": normal(count, RANDOM_TOKENS, width, generator=generator)}
        match config.get("addition_embed_type"):
            case None:
                pass
            case "text_time":
                pooled = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
                conditions["text_embeds"] = normal(count, pooled, generator=generator)
                conditions["time_ids"] = torch.randint(1024, (count, TIME_IDS), generator=generator).float()
            case other:
                raise WrongArchitecture(
                    f"unet/config.json: addition_embed_type {other!r} is not supported, only SDXL's 'text_time'; "
                    "a family of your own can serve it, see docs/families.md"
                )
        return conditions | random_classes(config.get("num_class_embeds"), count, generator)

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        # They bring transformers along, which only captions need.
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        needed = ("text_encoder", "tokenizer") if denoiser.config.addition_embed_type is None else SDXL_TEXT
        if not set(needed) <= text.keys():
            return None
        parts = {name: text[name] for name in needed} | {"vae": None, "unet": denoiser, "scheduler": None}
        if needed is SDXL_TEXT:
            pipeline = StableDiffusionXLPipeline(**parts)
            embeddings, _, pooled, _ = pipeline.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
            height, width = (8 * side for side in self.shape(denoiser.config)[1:])  # of the image
            sizes = torch.tensor([[height, width, 0, 0, height, width]]).float().expand(len(captions), TIME_IDS)
            return {"encoder_hidden_states": embeddings, "text_embeds": pooled, "time_ids": sizes}
        plain = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        embeddings, _ = plain.encode_prompt(captions, "cpu", 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embeddings}

    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        added = {name: value for name, value in inputs.conditions.items() if name in ("text_embeds", "time_ids")}
        others = {name: value for name, value in inputs.conditions.items() if name not in added}
        prediction: Tensor = denoiser(
            inputs.noisy, inputs.timesteps, added_cond_kwargs=added or None, return_dict=False, **others
        )[0]
        return prediction
