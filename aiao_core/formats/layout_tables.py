"""The original layouts of the families, as tables: what :class:`aiao_core.formats.layouts.Layout` describes.

The names are those of the programs that first trained each family (Stability AI's ``sgm`` and ``sd3-ref``, Black Forest Labs'
``flux`` and ``flux2``, lodestone's Chroma, Alibaba's Wan and Z-Image); tests compare the tables with diffusers' conversions.
"""

from aiao_core.formats.layouts import Layout


def _within(original: str, diffusers: str, table: dict[str, str]) -> dict[str, str]:
    """Return a table of names inside blocks by their full names."""
    return {
        f"{original}.{name}": " ".join(f"{diffusers}.{target}" for target in targets.split()) for name, targets in table.items()
    }


SD3 = Layout(
    {
        "x_embedder.proj": "pos_embed.proj",
        "pos_embed": "pos_embed.pos_embed",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    }
    | _within(
        "joint_blocks.{}",
        "transformer_blocks.{}",
        {
            "x_block.adaLN_modulation.1": "norm1.linear",
            "x_block.attn.qkv": "attn.to_q attn.to_k attn.to_v",
            "x_block.attn.ln_q": "attn.norm_q",
            "x_block.attn.ln_k": "attn.norm_k",
            "x_block.attn.proj": "attn.to_out.0",
            "x_block.attn2.qkv": "attn2.to_q attn2.to_k attn2.to_v",
            "x_block.attn2.ln_q": "attn2.norm_q",
            "x_block.attn2.ln_k": "attn2.norm_k",
            "x_block.attn2.proj": "attn2.to_out.0",
            "x_block.mlp.fc1": "ff.net.0.proj",
            "x_block.mlp.fc2": "ff.net.2",
            "context_block.adaLN_modulation.1": "norm1_context.linear",
            "context_block.attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
            "context_block.attn.ln_q": "attn.norm_added_q",
            "context_block.attn.ln_k": "attn.norm_added_k",
            "context_block.attn.proj": "attn.to_add_out",
            "context_block.mlp.fc1": "ff_context.net.0.proj",
            "context_block.mlp.fc2": "ff_context.net.2",
        },
    ),
    exchanged=("final_layer.adaLN_modulation.1", "joint_blocks.{}.context_block.adaLN_modulation.1"),
)

_FLUX_ATTENTION = {
    "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "txt_attn.proj": "attn.to_add_out",
    # As ComfyUI writes them since 2026.
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    # As XLabs' adapters call the same layers.
    "processor.qkv_lora1": "attn.to_q attn.to_k attn.to_v",
    "processor.qkv_lora2": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "processor.proj_lora1": "attn.to_out.0",
    "processor.proj_lora2": "attn.to_add_out",
}
_FLUX_MLP = {
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_FLUX_SINGLE_NORMS = {
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
_FLUX_SINGLE = {
    "linear1": "attn.to_q attn.to_k attn.to_v proj_mlp",
    "linear2": "proj_out",
    "processor.qkv": "attn.to_q attn.to_k attn.to_v",
    "processor.proj": "proj_out",
} | _FLUX_SINGLE_NORMS
_FLUX_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
}
_FINAL_MODULATION = {"final_layer.adaLN_modulation.1": "norm_out.linear"}

FLUX = Layout(
    _FLUX_ENDS
    | _FINAL_MODULATION
    | {
        "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    }
    | _within(
        "double_blocks.{}",
        "transformer_blocks.{}",
        {"img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear"} | _FLUX_ATTENTION | _FLUX_MLP,
    )
    | _within("single_blocks.{}", "single_transformer_blocks.{}", {"modulation.lin": "norm.linear"} | _FLUX_SINGLE),
    exchanged=tuple(_FINAL_MODULATION),
)

CHROMA = Layout(
    _FLUX_ENDS
    | {
        "distilled_guidance_layer.in_proj": "distilled_guidance_layer.in_proj",
        "distilled_guidance_layer.out_proj": "distilled_guidance_layer.out_proj",
        "distilled_guidance_layer.layers.{}.in_layer": "distilled_guidance_layer.layers.{}.linear_1",
        "distilled_guidance_layer.layers.{}.out_layer": "distilled_guidance_layer.layers.{}.linear_2",
        "distilled_guidance_layer.norms.{}.scale": "distilled_guidance_layer.norms.{}.weight",
        "distilled_guidance_layer.norms.{}": "distilled_guidance_layer.norms.{}",
    }
    | _within("double_blocks.{}", "transformer_blocks.{}", _FLUX_ATTENTION | _FLUX_MLP)
    | _within("single_blocks.{}", "single_transformer_blocks.{}", _FLUX_SINGLE)
)

FLUX2 = Layout(
    _FLUX_ENDS
    | _FINAL_MODULATION
    | {
        "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
    }
    | _within(
        "double_blocks.{}",
        "transformer_blocks.{}",
        _FLUX_ATTENTION
        | {
            "img_mlp.0": "ff.linear_in",
            "img_mlp.2": "ff.linear_out",
            "txt_mlp.0": "ff_context.linear_in",
            "txt_mlp.2": "ff_context.linear_out",
        },
    )
    | _within(
        "single_blocks.{}",
        "single_transformer_blocks.{}",
        {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"} | _FLUX_SINGLE_NORMS,
    ),
    exchanged=tuple(_FINAL_MODULATION),
)

WAN = Layout(
    {
        "patch_embedding": "patch_embedding",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
        "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
    }
    | _within(
        "blocks.{}",
        "blocks.{}",
        {
            "self_attn.q": "attn1.to_q",
            "self_attn.k": "attn1.to_k",
            "self_attn.v": "attn1.to_v",
            "self_attn.o": "attn1.to_out.0",
            "self_attn.norm_q": "attn1.norm_q",
            "self_attn.norm_k": "attn1.norm_k",
            "cross_attn.q": "attn2.to_q",
            "cross_attn.k": "attn2.to_k",
            "cross_attn.v": "attn2.to_v",
            "cross_attn.o": "attn2.to_out.0",
            "cross_attn.norm_q": "attn2.norm_q",
            "cross_attn.norm_k": "attn2.norm_k",
            "cross_attn.k_img": "attn2.add_k_proj",
            "cross_attn.v_img": "attn2.add_v_proj",
            "cross_attn.norm_k_img": "attn2.norm_added_k",
            "norm3": "norm2",
            "ffn.0": "ffn.net.0.proj",
            "ffn.2": "ffn.net.2",
            "modulation": "scale_shift_table",
        },
    )
)

_Z_IMAGE_BLOCK = {
    "attention.qkv": "attention.to_q attention.to_k attention.to_v",
    "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
    "attention_norm1": "attention_norm1",
    "attention_norm2": "attention_norm2",
    "ffn_norm1": "ffn_norm1",
    "ffn_norm2": "ffn_norm2",
    "feed_forward.w1": "feed_forward.w1",
    "feed_forward.w2": "feed_forward.w2",
    "feed_forward.w3": "feed_forward.w3",
    "adaLN_modulation.0": "adaLN_modulation.0",
}
Z_IMAGE = Layout(
    {
        "x_embedder": "all_x_embedder.2-1",
        "cap_embedder.0": "cap_embedder.0",
        "cap_embedder.1": "cap_embedder.1",
        "t_embedder.mlp.0": "t_embedder.mlp.0",
        "t_embedder.mlp.2": "t_embedder.mlp.2",
        "x_pad_token": "x_pad_token",
        "cap_pad_token": "cap_pad_token",
        "final_layer.linear": "all_final_layer.2-1.linear",
        "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    }
    | _within("layers.{}", "layers.{}", _Z_IMAGE_BLOCK)
    | _within("noise_refiner.{}", "noise_refiner.{}", _Z_IMAGE_BLOCK)
    | _within("context_refiner.{}", "context_refiner.{}", _Z_IMAGE_BLOCK),
    unused=("norm_final.weight",),
)
