"""The parts of the emoji text-to-image models besides their denoisers: captions, tokenizer, text encoder and autoencoder."""

import json

import numpy as np
import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from demo_models.emoji.data import DATA

TOKENS = 20
"""Length of a caption, in tokens."""

WIDTH = 64
"""Of a token's embedding."""


def captions(*, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[str]:
    """ "<category>: <name>" of the images that :func:`demo_models.emoji.data.load_images` gives for the same arguments."""
    with np.load(DATA, allow_pickle=False) as archive:
        names, categories = archive["n"], archive["c"]
    chosen = ~np.isin(categories, list(without))
    if only:
        chosen &= np.isin(categories, list(only))
    return [f"{category}: {name}".lower() for name, category in zip(names[chosen], categories[chosen], strict=True)]


def make_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte pairs are learnt from ``texts``."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    split = [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    learner.pre_tokenizer = pre_tokenizers.Sequence(split)
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    return CLIPTokenizer(vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]], model_max_length=TOKENS)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """An untrained CLIP text encoder of two layers."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder from 32x32 images to 16x16 latents of 4 channels."""
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        shift_factor=0.0,
        mid_block_add_attention=False,
    )


def train_autoencoder(images: torch.Tensor, *, steps: int, batch: int = 32, learning_rate: float = 2e-3) -> AutoencoderKL:
    """Fit reconstruction with a slight pull to a normal distribution; ``scaling_factor`` makes the latents' spread 1."""
    autoencoder = make_autoencoder()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for step in range(steps):
        clean = images[torch.randint(len(images), (batch,))]
        posterior = autoencoder.encode(clean).latent_dist
        decoded = autoencoder.decode(posterior.sample()).sample
        loss = torch.nn.functional.mse_loss(decoded, clean) + 1e-5 * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"autoencoder {step:5d} of {steps}  loss {loss.item():.4f}", flush=True)
    autoencoder.requires_grad_(False).eval()
    with torch.no_grad():
        spread = autoencoder.encode(images[:256]).latent_dist.mode().std()
    autoencoder.register_to_config(scaling_factor=round(1 / float(spread), 4))
    return autoencoder
