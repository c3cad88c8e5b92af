"""Train the small emoji diffusion model that the demo and the tests protect.

    python -m examples.emoji.train --out examples/emoji/model

The model learns every category of the emoji set except "Animals & Nature" (kept for the thief who fine-tunes) and
"Flags". It is a DDPM (Ho et al. 2020) with the cosine noise schedule (Nichol and Dhariwal 2021) and an exponential moving
average of its weights; the result is a standard pipeline folder in half precision that ``DDPMPipeline.from_pretrained``
loads.
"""

import argparse
import copy
import math
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from examples.emoji.data import THIEF_CATEGORY, load_images, save_grid

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


def train(
    images: torch.Tensor, *, steps: int, batch: int, learning_rate: float, seed: int
) -> tuple[UNet2DModel, DDPMScheduler]:
    """Fit the noise prediction on ``images`` (N, 3, 16, 16) in [-1, 1] and return the averaged weights."""
    torch.manual_seed(seed)
    denoiser, scheduler = make_model()
    average = copy.deepcopy(denoiser).requires_grad_(False)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for step in range(steps):
        clean = images[torch.randint(len(images), (batch,))]
        mirrored = torch.rand(batch) < 0.5
        clean = torch.where(mirrored[:, None, None, None], clean.flip(-1), clean)
        noise = torch.randn_like(clean)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (batch,))
        prediction = denoiser(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        loss = torch.nn.functional.mse_loss(prediction, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.999, (step + 1) / (step + 10))
        for kept, current in zip(average.parameters(), denoiser.parameters(), strict=True):
            kept.lerp_(current.detach(), 1 - decay)
        if step % 100 == 0:
            print(f"step {step:5d} of {steps}  loss {loss.item():.4f}", flush=True)
    return average.eval(), scheduler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the pipeline and samples.png")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    images = load_images(without=HELD_OUT)
    print(f"{len(images)} images")
    denoiser, scheduler = train(
        images,
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    pipeline = DDPMPipeline(denoiser.half(), scheduler)
    pipeline.save_pretrained(arguments.out)

    pipeline = DDPMPipeline.from_pretrained(arguments.out)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    samples = pipeline(
        batch_size=48, num_inference_steps=50, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    save_grid(samples, arguments.out / "samples.png", columns=12)


if __name__ == "__main__":
    main()
