"""Train the two small text-to-image models of the tests and benchmarks: a UNet and a diffusion transformer.

    cd demo_models/emoji_text
    python -m demo_models.emoji_text.train unet --out unet
    python -m demo_models.emoji_text.train transformer --text unet --out transformer

Both learn every category of the emoji set except "Animals & Nature" (kept for those who fine-tune) and "Flags", in the latents
of a small autoencoder. The UNet is a Stable Diffusion in small (noise prediction, trained with its text encoder); the
transformer is a Stable Diffusion 3 in small (rectified flow) over the UNet's frozen text encoder and autoencoder. The results
are standard pipeline folders in half precision.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel

from aiao_core.data.latents import encode_images
from aiao_core.denoisers.schedules import Diffusion, RectifiedFlow
from aiao_core.denoisers.sd3 import WITHOUT_T5_TOKENS
from aiao_core.method.fine_tuning import Examples
from demo_models.emoji.data import THIEF_CATEGORY, load_images, save_grid
from demo_models.emoji_text.parts import WIDTH, captions, make_text_encoder, make_tokenizer, train_autoencoder
from demo_models.training import fit

HELD_OUT = (THIEF_CATEGORY, "Flags")
UNCONDITIONED = 0.1
"""Share of the captions that are left out in training, for classifier-free guidance (Ho and Salimans 2022)."""

SHOWN = (
    "smileys & emotion: grinning face",
    "smileys & emotion: smiling face with heart-shaped eyes",
    "smileys & emotion: angry face",
    "food & drink: pizza",
    "food & drink: watermelon",
    "travel & places: fire engine",
    "travel & places: crescent moon",
    "objects: closed umbrella",
    "objects: books",
    "activities: soccer ball",
    "symbols: heavy black heart",
    "people & body: woman",
)
"""The captions of ``samples.png``, one column each."""


def make_unet() -> UNet2DConditionModel:
    """An untrained UNet over 16x16 latents."""
    return UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 56, 72),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # the number of heads, despite its name
        norm_num_groups=8,
    )


def make_transformer() -> SD3Transformer2DModel:
    """An untrained transformer over 16x16 latents."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=96,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )


def with_captions(
    latents: Tensor, batch: int, conditions: Callable[[Tensor], dict[str, Tensor]]
) -> Callable[[torch.Generator], Examples]:
    """Draws ``batch`` of ``latents`` (N, ...) under the ``conditions`` of their rows, or of row -1, the empty caption's."""

    def draw(generator: torch.Generator) -> Examples:
        rows = torch.randint(len(latents), (batch,), generator=generator)
        left_out = torch.rand(batch, generator=generator) < UNCONDITIONED
        return Examples(latents[rows], conditions(torch.where(left_out, -1, rows)))

    return draw


def train_unet(steps: int, batch: int, seed: int) -> DiffusionPipeline:
    texts = captions(without=HELD_OUT)
    tokenizer = make_tokenizer(captions())
    text_encoder = make_text_encoder(tokenizer).text_model
    encoder = CLIPTextModel(text_encoder.config)
    encoder.load_state_dict({f"text_model.{name}": value for name, value in text_encoder.state_dict().items()}, strict=False)
    autoencoder = train_autoencoder(load_images(without=HELD_OUT, size=32), steps=steps // 3)
    latents = encode_images(autoencoder, load_images(without=HELD_OUT, size=32))
    tokens = tokenizer([*texts, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, steps_offset=1)
    draw = with_captions(latents, batch, lambda rows: {"encoder_hidden_states": encoder(tokens[rows]).last_hidden_state})
    unet = fit(make_unet(), Diffusion(scheduler), draw, steps=steps, seed=seed, others=[encoder])
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train_transformer(text: Path, steps: int, batch: int, seed: int) -> DiffusionPipeline:
    source = StableDiffusionPipeline.from_pretrained(text, torch_dtype=torch.float32)
    encoder = make_text_encoder(source.tokenizer)
    encoder.load_state_dict(source.text_encoder.state_dict(), strict=False)
    encoder.text_projection.weight.data.copy_(torch.eye(WIDTH))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipeline = StableDiffusion3Pipeline(
        vae=source.vae,
        text_encoder=encoder.eval(),
        text_encoder_2=encoder,
        text_encoder_3=None,
        tokenizer=source.tokenizer,
        tokenizer_2=source.tokenizer,
        tokenizer_3=None,
        transformer=make_transformer(),
        scheduler=scheduler,
    )
    with torch.no_grad():
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            [*captions(without=HELD_OUT), ""],
            None,
            None,
            do_classifier_free_guidance=False,
            max_sequence_length=WITHOUT_T5_TOKENS,
        )
    latents = encode_images(source.vae, load_images(without=HELD_OUT, size=32))
    draw = with_captions(
        latents, batch, lambda rows: {"encoder_hidden_states": embeddings[rows], "pooled_projections": pooled[rows]}
    )
    pipeline.transformer = fit(pipeline.transformer, RectifiedFlow(1000), draw, steps=steps, seed=seed)
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["unet", "transformer"])
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the pipeline and samples.png")
    parser.add_argument("--text", type=Path, help="the UNet's folder, whose text encoder and autoencoder the transformer uses")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    if arguments.model == "unet":
        pipeline = train_unet(arguments.steps, arguments.batch, arguments.seed)
    else:
        pipeline = train_transformer(arguments.text, arguments.steps, arguments.batch, arguments.seed)
    pipeline.to(torch.float16)
    pipeline.save_pretrained(arguments.out)

    draw_samples(arguments.out)


def draw_samples(folder: Path) -> None:
    """Write ``samples.png`` into a pipeline folder: the captions of :data:`SHOWN`, one column each."""
    without_t5, length = {}, {}
    if (folder / "transformer").is_dir():
        without_t5 = {"text_encoder_3": None, "tokenizer_3": None}
        length = {"max_sequence_length": WITHOUT_T5_TOKENS}
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **without_t5)
    pipeline.set_progress_bar_config(disable=True)
    samples = pipeline(
        list(SHOWN) * 4,
        height=32,
        width=32,
        num_inference_steps=50,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **length,
    ).images
    save_grid(samples, folder / "samples.png", columns=len(SHOWN), zoom=2)


if __name__ == "__main__":
    main()
