"""A small untrained model of every family that ``tests.support.families`` lacks, and the scheduler that it is published with.

Fewer tests run on these than on the first table: `make check` would take minutes.
"""

from typing import Any

import diffusers

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.scheduler_configs import noise_schedule
from tests.support.families import make_from

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8}
PACKED = HEADS | {"in_channels": 16, "joint_attention_dim": 12}
DYNAMIC = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}
UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "num_train_timesteps": 1000,
    "flow_shift": 3.0,
}


def flow(**options: Any) -> dict[str, Any]:
    """The configuration of the scheduler that most of them have."""
    return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000} | options


Configuration = tuple[type, dict[str, Any], dict[str, Any]]

CONFIGURATIONS: dict[str, Configuration] = {
    "Chroma": (
        diffusers.ChromaTransformer2DModel,
        PACKED
        | {
            "num_layers": 2,
            "num_single_layers": 2,
            "axes_dims_rope": (2, 2, 4),
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
        flow(),
    ),
    "Qwen-Image": (
        diffusers.QwenImageTransformer2DModel,
        PACKED | {"out_channels": 4, "num_layers": 3, "axes_dims_rope": (4, 2, 2)},
        flow(shift_terminal=0.02, **DYNAMIC | {"max_shift": 0.9, "max_image_seq_len": 8192}),
    ),
    "FLUX.2": (
        diffusers.Flux2Transformer2DModel,
        PACKED | {"num_layers": 2, "num_single_layers": 2, "axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 16},
        flow(**DYNAMIC),
    ),
    "Z-Image": (
        diffusers.ZImageTransformer2DModel,
        {
            "in_channels": 4,
            "dim": 16,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 12,
            "axes_dims": [4, 2, 2],
            "axes_lens": [128, 64, 64],
        },
        flow(shift=3.0),
    ),
    "Lumina 2": (
        diffusers.Lumina2Transformer2DModel,
        {
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 8,
            "axes_dim_rope": (2, 2, 2),
            "axes_lens": (64, 32, 32),
            "cap_feat_dim": 12,
        },
        flow(shift=6.0),
    ),
    "Krea 2": (
        diffusers.Krea2Transformer2DModel,
        HEADS
        | {
            "in_channels": 16,
            "num_layers": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 32,
            "timestep_embed_dim": 16,
            "text_hidden_dim": 16,
            "num_text_layers": 2,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 2,
            "text_intermediate_size": 16,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": (4, 2, 2),
        },
        flow(**DYNAMIC | {"max_image_seq_len": 6400}),
    ),
    "HiDream": (
        diffusers.HiDreamImageTransformer2DModel,
        HEADS
        | {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "caption_channels": [12, 10],
            "text_emb_dim": 8,
            "axes_dims_rope": (4, 2, 2),
            "max_resolution": (16, 16),
            "llama_layers": [0, 2],
        },
        flow(shift=3.0),
    ),
    "HunyuanImage": (
        diffusers.HunyuanImageTransformer2DModel,
        HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "text_embed_dim": 12,
            "text_embed_2_dim": 10,
            "rope_axes_dim": (4, 4),
        },
        flow(shift=5.0),
    ),
    "ERNIE-Image": (
        diffusers.ErnieImageTransformer2DModel,
        {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_layers": 3,
            "ffn_hidden_size": 32,
            "in_channels": 8,
            "out_channels": 8,
            "text_in_dim": 12,
            "rope_axes_dim": (4, 2, 2),
        },
        flow(shift=3.0),
    ),
    "Sana": (
        diffusers.SanaTransformer2DModel,
        HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 12,
            "sample_size": 8,
        },
        UNIPC | {"_class_name": "DPMSolverMultistepScheduler"},
    ),
    "AuraFlow": (
        diffusers.AuraFlowTransformer2DModel,
        HEADS
        | {
            "sample_size": 8,
            "in_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 2,
            "joint_attention_dim": 12,
            "caption_projection_dim": 16,
            "out_channels": 4,
            "pos_embed_max_size": 64,
        },
        flow(shift=1.73),
    ),
    "Cosmos": (
        diffusers.CosmosTransformer3DModel,
        HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "text_embed_dim": 12,
            "adaln_lora_dim": 4,
            "max_size": (2, 32, 32),
            "extra_pos_embed_type": None,
            "concat_padding_mask": False,  # it needs torchvision
            "attention_head_dim": 16,
        },
        flow(use_karras_sigmas=True),
    ),
    "Wan": (
        diffusers.WanTransformer3DModel,
        HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 12,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
        },
        UNIPC,
    ),
    "HunyuanVideo": (
        diffusers.HunyuanVideoTransformer3DModel,
        HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "text_embed_dim": 12,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 2, 4),
        },
        flow(shift=7.0),
    ),
    "LTX": (
        diffusers.LTXVideoTransformer3DModel,
        HEADS | {"in_channels": 8, "out_channels": 8, "cross_attention_dim": 16, "num_layers": 2, "caption_channels": 12},
        flow(shift_terminal=0.1, **DYNAMIC | {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024}),
    ),
    "LTX-2": (
        diffusers.LTX2VideoTransformer3DModel,
        HEADS
        | {
            # As published: the pipeline draws 8 channels of 16 tones each.
            "in_channels": 128,
            "out_channels": 128,
            "cross_attention_dim": 16,
            "audio_in_channels": 128,
            "audio_out_channels": 128,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 16,
            "num_layers": 1,
            "caption_channels": 12,
        },
        flow(shift_terminal=0.1, **DYNAMIC | {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024}),
    ),
    "CogVideoX": (
        diffusers.CogVideoXTransformer3DModel,
        HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 4,
            "text_embed_dim": 12,
            "num_layers": 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 9,
            "max_text_seq_length": 8,
        },
        {
            "_class_name": "CogVideoXDDIMScheduler",
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "snr_shift_scale": 3.0,
            "timestep_spacing": "trailing",
        },
    ),
    "Kandinsky 5": (
        diffusers.Kandinsky5Transformer3DModel,
        {
            "in_visual_dim": 4,
            "in_text_dim": 12,
            "in_text_dim2": 8,
            "time_dim": 16,
            "out_visual_dim": 4,
            "model_dim": 16,
            "ff_dim": 16,
            "num_text_blocks": 1,
            "num_visual_blocks": 2,
            "axes_dims": (4, 2, 2),
            "visual_cond": True,
        },
        flow(shift=5.0),
    ),
    "Stable Audio": (
        diffusers.StableAudioDiTModel,
        HEADS
        | {
            "sample_size": 32,
            "in_channels": 4,
            "num_layers": 2,
            "num_key_value_attention_heads": 1,
            "out_channels": 4,
            "cross_attention_dim": 16,
            "time_proj_dim": 8,
            "global_states_input_dim": 24,
            "cross_attention_input_dim": 12,
        },
        {
            "_class_name": "CosineDPMSolverMultistepScheduler",
            "prediction_type": "v_prediction",
            "sigma_data": 1.0,
            "sigma_max": 500,
            "sigma_min": 0.3,
        },
    ),
    "ACE-Step": (
        diffusers.AceStepTransformer1DModel,
        {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "in_channels": 12,
            "audio_acoustic_hidden_dim": 4,
        },
        flow(num_train_timesteps=1),
    ),
}


def _variant(name: str, **options: Any) -> Configuration:
    denoiser_class, plain, scheduler = CONFIGURATIONS[name]
    return denoiser_class, plain | options, scheduler


VARIANTS: dict[str, Configuration] = {
    "FLUX.2 klein": _variant("FLUX.2", guidance_embeds=False),
    "CogVideoX 5B": _variant("CogVideoX", use_rotary_positional_embeddings=True, attention_head_dim=16),
    "CogVideoX 1.5": _variant(
        "CogVideoX",
        use_rotary_positional_embeddings=True,
        patch_size_t=2,
        patch_bias=False,
        attention_head_dim=16,
        sample_height=32,
        sample_width=32,
    ),
    "Kandinsky 5 of images": _variant("Kandinsky 5", visual_cond=False),
    "LTX-2.3": _variant(
        "LTX-2",
        use_prompt_embeddings=False,
        audio_cross_attention_dim=12,
        audio_num_attention_heads=3,
        audio_attention_head_dim=4,
        cross_attn_mod=True,
        audio_cross_attn_mod=True,
    ),
    "Cosmos with a projection": _variant(
        "Cosmos", use_crossattn_projection=True, crossattn_proj_in_channels=10, encoder_hidden_states_channels=12
    ),
    "Wan 2.2 5B": _variant("Wan"),
    "HunyuanImage distilled": _variant("HunyuanImage", guidance_embeds=True, text_embed_2_dim=None),
}
"""Configurations of the same families that their code treats otherwise."""


def make(name: str, seed: int = 0) -> DiffusionModel:
    """The model of a name in :data:`CONFIGURATIONS` or :data:`VARIANTS`."""
    denoiser_class, options, scheduler = (CONFIGURATIONS | VARIANTS)[name]
    return make_from(denoiser_class, options, noise_schedule(scheduler), seed)
