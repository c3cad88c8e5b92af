"""``ChromaTransformer2DModel``: Chroma, FLUX.1 with a text of its own kind and without guidance (lodestones 2025)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ChromaTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import CAPTION_TOKENS, Conditions, Inputs, noise_share, places
from aiao_core.denoisers.packed import Packed


class Chroma(Packed):
    """Conditions: ``encoder_hidden_states`` (B, L, D), and its ``encoder_attention_mask`` (B, L) where it is padded."""

    denoiser = ChromaTransformer2DModel
    activation_bytes = 70

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        from diffusers import ChromaPipeline  # it brings transformers along, which only captions need

        if "text_encoder" not in text:
            return None
        pipeline = ChromaPipeline(
            tokenizer=text["tokenizer"], text_encoder=text["text_encoder"], vae=None, transformer=denoiser, scheduler=None
        )
        embeddings, _, mask, *_ = pipeline.encode_prompt(
            captions, device="cpu", do_classifier_free_guidance=False, max_sequence_length=CAPTION_TOKENS
        )
        return {"encoder_hidden_states": embeddings, "encoder_attention_mask": mask}

    def predict_tokens(self, denoiser: Any, tokens: Tensor, rows: int, columns: int, inputs: Inputs) -> Tensor:
        text, mask = inputs.conditions["encoder_hidden_states"], inputs.conditions.get("encoder_attention_mask")
        if mask is not None:  # in the type that the pipeline gives it, which decides what attention does with it
            mask = torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)
        prediction: Tensor = denoiser(
            tokens,
            encoder_hidden_states=text,
            timestep=noise_share(inputs),
            img_ids=places(tokens, 1, rows, columns),
            txt_ids=tokens.new_zeros(text.shape[1], 3),
            attention_mask=mask,
            return_dict=False,
        )[0]
        return prediction
