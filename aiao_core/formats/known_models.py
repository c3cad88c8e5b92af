"""The published models whose single files people register: configuration, noise schedule and pipeline of each.

A single file holds numbers and names alone. Its tensors' names and shapes tell which of these it was made from; a file of
another configuration brings its own, see :mod:`aiao_core.formats.single_files`. The values are those that the models' authors
publish in diffusers' format.
"""

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

LATENT_DIFFUSION: Config = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
V_PREDICTION: Config = {"prediction_type": "v_prediction"}
ZERO_TERMINAL_SNR: Config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""What the marker tensors ``v_pred`` and ``ztsnr`` of a file mean."""


def _flow(shift: float, **more: Any) -> Config:
    return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": shift} | more


@dataclass(frozen=True)
class KnownModel:
    """A published model: its denoiser's class and configuration, and its noise schedule."""

    name: str
    class_name: str
    config: Config
    scheduler: Config | None
    """None if files of this configuration were trained for several targets, so that theirs must be stated."""
    pipeline: str

    @property
    def part(self) -> str:
        """The folder of a pipeline that holds the denoiser."""
        return "unet" if self.class_name.startswith("UNet") else "transformer"


def _unet(name: str, scheduler: Config | None, pipeline: str = "StableDiffusionPipeline", **config: Any) -> KnownModel:
    return KnownModel(name, "UNet2DConditionModel", config, scheduler, pipeline)


def _sd3(name: str, **config: Any) -> KnownModel:
    shared: Config = {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
    }
    return KnownModel(name, "SD3Transformer2DModel", shared | config, _flow(3.0), "StableDiffusion3Pipeline")


FLUX_BLOCKS: Config = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "axes_dims_rope": [16, 56, 56],
}


def _flux(name: str, scheduler: Config, *, guidance_embeds: bool) -> KnownModel:
    config = FLUX_BLOCKS | {"pooled_projection_dim": 768, "guidance_embeds": guidance_embeds}
    return KnownModel(name, "FluxTransformer2DModel", config, scheduler, "FluxPipeline")


DYNAMIC_SHIFT: Config = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
SD_BLOCKS: Config = {
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}

KNOWN_MODELS = (
    _unet(
        "Stable Diffusion 1",
        LATENT_DIFFUSION,
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        **SD_BLOCKS,
    ),
    _unet(
        "Stable Diffusion 2",
        None,  # 2.0 and 2.1 predict the velocity, their "base" variants the noise: the tensors are the same
        sample_size=96,
        cross_attention_dim=1024,
        attention_head_dim=[5, 10, 20, 20],
        use_linear_projection=True,
        **SD_BLOCKS,
    ),
    _unet(
        "Stable Diffusion XL",
        LATENT_DIFFUSION,
        "StableDiffusionXLPipeline",
        sample_size=128,
        cross_attention_dim=2048,
        attention_head_dim=[5, 10, 20],
        use_linear_projection=True,
        block_out_channels=[320, 640, 1280],
        layers_per_block=2,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10],
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    _sd3(
        "Stable Diffusion 3 Medium",
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    ),
    _sd3(
        "Stable Diffusion 3.5 Medium",
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        qk_norm="rms_norm",
        dual_attention_layers=list(range(13)),
    ),
    _sd3(
        "Stable Diffusion 3.5 Large",
        num_layers=38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    ),
    _flux("FLUX.1 dev", _flow(3.0, **DYNAMIC_SHIFT), guidance_embeds=True),
    _flux("FLUX.1 schnell", _flow(1.0), guidance_embeds=False),
    KnownModel(
        "Chroma",
        "ChromaTransformer2DModel",
        FLUX_BLOCKS | {"approximator_num_channels": 64, "approximator_hidden_dim": 5120, "approximator_layers": 5},
        _flow(1.0),
        "ChromaPipeline",
    ),
)
