"""``QwenImageTransformer2DModel``: Qwen-Image, a rectified flow over packed latents (Wu et al. 2025)."""

from typing import Any

from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import Inputs, noise_share
from aiao_core.denoisers.packed import Packed


class QwenImage(Packed):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = QwenImageTransformer2DModel
    activation_bytes = 60

    def predict_tokens(self, denoiser: Any, tokens: Tensor, rows: int, columns: int, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(
            tokens,
            timestep=noise_share(inputs),
            img_shapes=[[(1, rows, columns)]] * len(tokens),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return prediction
