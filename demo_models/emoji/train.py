"""Train the small emoji diffusion model that the demo and the tests protect.

    python -m demo_models.emoji.train --out demo_models/emoji/model --samples demo_models/emoji/model/samples.png

The model learns every category of the emoji set except "Animals & Nature" (kept for the thief who fine-tunes) and
"Flags". It is a DDPM (Ho et al. 2020) with the cosine noise schedule (Nichol and Dhariwal 2021) and an exponential moving
average of its weights; the result is a standard pipeline folder in half precision that ``DDPMPipeline.from_pretrained``
loads.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.utils import logging
from torch import nn

from aiao_core.denoisers.schedules import Diffusion
from aiao_core.method.fine_tuning import Examples
from demo_models.emoji.data import THIEF_CATEGORY, load_images, save_grid
from demo_models.training import fit

HELD_OUT = (THIEF_CATEGORY, "Flags")


def make_model() -> tuple[UNet2DModel, DDPMScheduler]:
    """An untrained 16x16 denoiser of 1.7 M parameters, and the noise schedule it is trained on."""
    denoiser = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")
    return denoiser, scheduler


def train(images: torch.Tensor, *, steps: int, batch: int, seed: int) -> tuple[nn.Module, DDPMScheduler]:
    """Fit the noise prediction on ``images`` (N, 3, 16, 16) in [-1, 1], mirrored at random; the averaged weights."""
    torch.manual_seed(seed)
    denoiser, scheduler = make_model()
    examples = Examples(images, {})

    def draw(generator: torch.Generator) -> Examples:
        clean = examples.draw(batch, generator).clean
        mirrored = torch.rand(batch, generator=generator) < 0.5
        return Examples(torch.where(mirrored[:, None, None, None], clean.flip(-1), clean), {})

    return fit(denoiser, Diffusion(scheduler), draw, steps=steps, seed=seed), scheduler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the pipeline")
    parser.add_argument("--samples", type=Path, help="PNG file that receives 48 samples")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    images = load_images(without=HELD_OUT)
    print(f"{len(images)} images")
    denoiser, scheduler = train(
        images,
        steps=arguments.steps,
        batch=arguments.batch,
        seed=arguments.seed,
    )
    pipeline = DDPMPipeline(denoiser.half(), scheduler)
    pipeline.save_pretrained(arguments.out)
    if arguments.samples:
        save_samples(arguments.out, arguments.samples)


def save_samples(model: Path, picture: Path) -> None:
    """Draw 48 samples of the pipeline in the folder ``model``."""
    logging.disable_progress_bar()
    pipeline = DDPMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    samples = pipeline(
        batch_size=48, num_inference_steps=50, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    save_grid(samples, picture, columns=12)


if __name__ == "__main__":
    main()
