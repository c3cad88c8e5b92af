"""The original layouts of transformers with one stream, as tables (:mod:`aiao_core.formats.layouts`).

The names are those of Alibaba's Wan and Z-Image, Alpha-VLLM's Lumina-Image 2.0, NVIDIA's Sana and Lightricks' LTX-Video; tests
compare the tables with diffusers' conversions.
"""

from aiao_core.formats.layouts import Layout, within

WAN = Layout(
    {
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
    | within(
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
}

Z_IMAGE = Layout(
    {
        "x_embedder": "all_x_embedder.2-1",
        "final_layer.linear": "all_final_layer.2-1.linear",
        "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    }
    | within("layers.{}", "layers.{}", _Z_IMAGE_BLOCK)
    | within("noise_refiner.{}", "noise_refiner.{}", _Z_IMAGE_BLOCK)
    | within("context_refiner.{}", "context_refiner.{}", _Z_IMAGE_BLOCK),
    unused=("norm_final.weight",),
)

_LUMINA_BLOCK = {
    "attention.qkv": "attn.to_q attn.to_k attn.to_v",
    "attention.out": "attn.to_out.0",
    "attention.q_norm": "attn.norm_q",
    "attention.k_norm": "attn.norm_k",
    "attention_norm2": "norm2",
    "feed_forward.w1": "feed_forward.linear_1",
    "feed_forward.w2": "feed_forward.linear_2",
    "feed_forward.w3": "feed_forward.linear_3",
}

_LUMINA_MODULATED = _LUMINA_BLOCK | {"attention_norm1": "norm1.norm", "adaLN_modulation.1": "norm1.linear"}

LUMINA2 = Layout(
    {
        "cap_embedder.{}": "time_caption_embed.caption_embedder.{}",
        "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "norm_out.linear_1",
        "final_layer.linear": "norm_out.linear_2",
    }
    | within("layers.{}", "layers.{}", _LUMINA_MODULATED)
    | within("noise_refiner.{}", "noise_refiner.{}", _LUMINA_MODULATED)
    | within("context_refiner.{}", "context_refiner.{}", _LUMINA_BLOCK | {"attention_norm1": "norm1"}),
    unused=("norm_final.weight",),
)

SANA = Layout(
    {
        "x_embedder.proj": "patch_embed.proj",
        "t_embedder.mlp.0": "time_embed.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_embed.emb.timestep_embedder.linear_2",
        "t_block.1": "time_embed.linear",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "attention_y_norm": "caption_norm",
        "final_layer.linear": "proj_out",
        "final_layer.scale_shift_table": "scale_shift_table",
    }
    | within(
        "blocks.{}",
        "transformer_blocks.{}",
        {
            "scale_shift_table": "scale_shift_table",
            "attn.qkv": "attn1.to_q attn1.to_k attn1.to_v",
            "attn.proj": "attn1.to_out.0",
            "cross_attn.q_linear": "attn2.to_q",
            "cross_attn.kv_linear": "attn2.to_k attn2.to_v",
            "cross_attn.proj": "attn2.to_out.0",
            "mlp.inverted_conv.conv": "ff.conv_inverted",
            "mlp.depth_conv.conv": "ff.conv_depth",
            "mlp.point_conv.conv": "ff.conv_point",
        },
    ),
    unused=("pos_embed", "y_embedder.y_embedding"),
)

LTX = Layout(
    {"patchify_proj": "proj_in"}
    | within(
        "adaln_single",
        "time_embed",
        {
            "linear": "linear",
            "emb.timestep_embedder.linear_1": "emb.timestep_embedder.linear_1",
            "emb.timestep_embedder.linear_2": "emb.timestep_embedder.linear_2",
        },
    )
    | within(
        "transformer_blocks.{}",
        "transformer_blocks.{}",
        {
            "attn1.q_norm": "attn1.norm_q",
            "attn1.k_norm": "attn1.norm_k",
            "attn2.q_norm": "attn2.norm_q",
            "attn2.k_norm": "attn2.norm_k",
        },
    )
)
