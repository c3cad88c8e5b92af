"""``CogVideoXTransformer3DModel``: CogVideoX, diffusion over videos (Yang et al. 2024)."""

from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, Inputs, normal
from aiao_core.denoisers.video import Video


class CogVideoX(Video):
    """Conditions: ``encoder_hidden_states`` (B, L, D), of the one length that the model is made for."""

    denoiser = CogVideoXTransformer3DModel
    activation_bytes = 65

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        length, width = config["max_text_seq_length"], config["text_embed_dim"]
        return {"encoder_hidden_states": normal(count, length, width, generator=generator)}

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy = inputs.noisy.transpose(1, 2)  # frames before channels
        rotary = _rotary(denoiser.config, noisy) if denoiser.config.use_rotary_positional_embeddings else None
        prediction: Tensor = denoiser(
            noisy, timestep=inputs.timesteps, image_rotary_emb=rotary, return_dict=False, **inputs.conditions
        )[0]
        return prediction.transpose(1, 2)


def _rotary(config: Any, noisy: Tensor) -> Any:
    """Return the rotary embeddings that the pipeline gives a video of this size."""
    frames, patch = noisy.shape[1], config.patch_size
    rows, columns = (length // patch for length in noisy.shape[-2:])
    most_rows, most_columns = config.sample_height // patch, config.sample_width // patch
    if config.patch_size_t is None:  # 1.0: the positions of a smaller video are as far apart as those of the model's own
        grid = {"crops_coords": _centered(rows, columns, most_rows, most_columns), "temporal_size": frames}
    else:  # 1.5
        grid = {
            "crops_coords": None,
            "temporal_size": -(-frames // config.patch_size_t),
            "grid_type": "slice",
            "max_size": (most_rows, most_columns),
        }
    return get_3d_rotary_pos_embed(config.attention_head_dim, grid_size=(rows, columns), device=noisy.device, **grid)


def _centered(rows: int, columns: int, most_rows: int, most_columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and last corner of the largest region of these proportions in the middle of the model's own size."""
    scale = min(most_rows / rows, most_columns / columns)
    height, width = round(scale * rows), round(scale * columns)
    top, left = round((most_rows - height) / 2), round((most_columns - width) / 2)
    return (top, left), (top + height, left + width)
