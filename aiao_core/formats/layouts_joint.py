"""The original layouts of transformers with two streams, of text and image, as tables (:mod:`aiao_core.formats.layouts`).

The names are those of Stability AI's ``sd3-ref``, Black Forest Labs' ``flux`` and ``flux2``, lodestone's Chroma, Tencent's
HunyuanVideo and fal's AuraFlow; tests compare the tables with diffusers' conversions.
"""

from aiao_core.formats.layouts import Layout, within

SD3 = Layout(
    {
        "x_embedder.proj": "pos_embed.proj",
        "pos_embed": "pos_embed.pos_embed",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    }
    | within(
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
    | within(
        "double_blocks.{}",
        "transformer_blocks.{}",
        {"img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear"} | _FLUX_ATTENTION | _FLUX_MLP,
    )
    | within("single_blocks.{}", "single_transformer_blocks.{}", {"modulation.lin": "norm.linear"} | _FLUX_SINGLE),
    exchanged=tuple(_FINAL_MODULATION),
)

CHROMA = Layout(
    _FLUX_ENDS
    | {
        "distilled_guidance_layer.layers.{}.in_layer": "distilled_guidance_layer.layers.{}.linear_1",
        "distilled_guidance_layer.layers.{}.out_layer": "distilled_guidance_layer.layers.{}.linear_2",
        "distilled_guidance_layer.norms.{}.scale": "distilled_guidance_layer.norms.{}.weight",
        "distilled_guidance_layer.norms.{}": "distilled_guidance_layer.norms.{}",
    }
    | within("double_blocks.{}", "transformer_blocks.{}", _FLUX_ATTENTION | _FLUX_MLP)
    | within("single_blocks.{}", "single_transformer_blocks.{}", _FLUX_SINGLE)
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
    | within(
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
    | within(
        "single_blocks.{}",
        "single_transformer_blocks.{}",
        {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"} | _FLUX_SINGLE_NORMS,
    ),
    exchanged=tuple(_FINAL_MODULATION),
)

HUNYUAN_VIDEO = Layout(
    {
        "img_in.proj": "x_embedder.proj",
        "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    }
    | within(
        "txt_in",
        "context_embedder",
        {
            "input_embedder": "proj_in",
            "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
            "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
            "c_embedder.linear_1": "time_text_embed.text_embedder.linear_1",
            "c_embedder.linear_2": "time_text_embed.text_embedder.linear_2",
        },
    )
    | within(
        "txt_in.individual_token_refiner.blocks.{}",
        "context_embedder.token_refiner.refiner_blocks.{}",
        {
            "norm1": "norm1",
            "norm2": "norm2",
            "self_attn_qkv": "attn.to_q attn.to_k attn.to_v",
            "self_attn_proj": "attn.to_out.0",
            "mlp.fc1": "ff.net.0.proj",
            "mlp.fc2": "ff.net.2",
            "adaLN_modulation.1": "norm_out.linear",
        },
    )
    | within(
        "double_blocks.{}",
        "transformer_blocks.{}",
        {
            "img_mod.linear": "norm1.linear",
            "txt_mod.linear": "norm1_context.linear",
            "img_attn_qkv": "attn.to_q attn.to_k attn.to_v",
            "img_attn_q_norm": "attn.norm_q",
            "img_attn_k_norm": "attn.norm_k",
            "img_attn_proj": "attn.to_out.0",
            "img_mlp.fc1": "ff.net.0.proj",
            "img_mlp.fc2": "ff.net.2",
            "txt_attn_qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
            "txt_attn_q_norm": "attn.norm_added_q",
            "txt_attn_k_norm": "attn.norm_added_k",
            "txt_attn_proj": "attn.to_add_out",
            "txt_mlp.fc1": "ff_context.net.0.proj",
            "txt_mlp.fc2": "ff_context.net.2",
        },
    )
    | within(
        "single_blocks.{}",
        "single_transformer_blocks.{}",
        {
            "modulation.linear": "norm.linear",
            "linear1": "attn.to_q attn.to_k attn.to_v proj_mlp",
            "linear2": "proj_out",
            "q_norm": "attn.norm_q",
            "k_norm": "attn.norm_k",
        },
    ),
    exchanged=("final_layer.adaLN_modulation.1",),
)

AURA_FLOW = Layout(
    {
        "t_embedder.mlp.0": "time_step_proj.linear_1",
        "t_embedder.mlp.2": "time_step_proj.linear_2",
        "cond_seq_linear": "context_embedder",
        "init_x_linear": "pos_embed.proj",
        "positional_encoding": "pos_embed.pos_embed",
        "final_linear": "proj_out",
        "modF.1": "norm_out.linear",
    }
    | within(
        "double_layers.{}",
        "joint_transformer_blocks.{}",
        {
            "modX.1": "norm1.linear",
            "modC.1": "norm1_context.linear",
            "mlpX.c_fc1": "ff.linear_1",
            "mlpX.c_fc2": "ff.linear_2",
            "mlpX.c_proj": "ff.out_projection",
            "mlpC.c_fc1": "ff_context.linear_1",
            "mlpC.c_fc2": "ff_context.linear_2",
            "mlpC.c_proj": "ff_context.out_projection",
            "attn.w1q": "attn.add_q_proj",
            "attn.w1k": "attn.add_k_proj",
            "attn.w1v": "attn.add_v_proj",
            "attn.w1o": "attn.to_add_out",
            "attn.w2q": "attn.to_q",
            "attn.w2k": "attn.to_k",
            "attn.w2v": "attn.to_v",
            "attn.w2o": "attn.to_out.0",
        },
    )
    | within(
        "single_layers.{}",
        "single_transformer_blocks.{}",
        {
            "modCX.1": "norm1.linear",
            "mlp.c_fc1": "ff.linear_1",
            "mlp.c_fc2": "ff.linear_2",
            "mlp.c_proj": "ff.out_projection",
            "attn.w1q": "attn.to_q",
            "attn.w1k": "attn.to_k",
            "attn.w1v": "attn.to_v",
            "attn.w1o": "attn.to_out.0",
        },
    ),
    exchanged=("modF.1",),
)
