"""``HiDreamImageTransformer2DModel``: HiDream-I1, a rectified flow with a mixture of experts (Cai et al. 2025)."""

from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import RANDOM_TOKENS, Conditions, Config, DenoiserFamily, Inputs, normal


class HiDream(DenoiserFamily):
    """Conditions: ``encoder_hidden_states_t5`` (B, L, D), ``encoder_hidden_states_llama3`` (B, layers of Llama, L, D2),
    ``pooled_embeds`` (B, P).
    """

    denoiser = HiDreamImageTransformer2DModel
    side = 128
    activation_bytes = 80

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        (t5, llama), layers = config["caption_channels"], max(config["llama_layers"]) + 1
        return {
            "encoder_hidden_states_t5": normal(count, RANDOM_TOKENS, t5, generator=generator),
            "encoder_hidden_states_llama3": normal(count, layers, RANDOM_TOKENS, llama, generator=generator),
            "pooled_embeds": normal(count, config["text_emb_dim"], generator=generator),
        }

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        _let_experts_learn(denoiser)
        conditions = dict(inputs.conditions)
        conditions["encoder_hidden_states_llama3"] = conditions["encoder_hidden_states_llama3"].transpose(0, 1)
        prediction: Tensor = denoiser(inputs.noisy, inputs.timesteps, return_dict=False, **conditions)[0]
        return -prediction  # it predicts clean - noise


def _let_experts_learn(denoiser: Any) -> None:
    """Choose the parts of diffusers' code for training and for inference that give an image and a gradient.

    For training the denoiser returns patches, and the choice of experts has a loss of its own; for inference the experts give
    no gradient. Both compute the same. It stays so afterwards: gradient checkpointing runs the blocks again during backward.
    """
    for module in denoiser.modules():
        if hasattr(module, "moe_infer"):
            module.training, module.gate.training = True, False
    denoiser.training = False
