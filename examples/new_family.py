"""Teach the method a family of denoisers that it does not know, and mark a small model of that family.

    python examples/new_family.py

docs/families.md explains the class, and how a service's workers find it.
"""

import json
import tempfile
from pathlib import Path

import torch
from diffusers import CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler

import aiao
from aiao_core import denoisers
from aiao_core.denoisers import DenoiserFamily
from aiao_core.denoisers.family import RANDOM_TOKENS, normal


class CogView4(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = CogView4Transformer2DModel
    side = 128
    activation_bytes = 45

    def random_conditions(self, config, count, generator):
        width = config["text_embed_dim"]
        return {"encoder_hidden_states": normal(count, RANDOM_TOKENS, width, generator=generator)}

    def predict(self, denoiser, inputs):
        height, width = (8 * side for side in inputs.noisy.shape[-2:])  # of the image, in pixels
        size = inputs.noisy.new_tensor([[height, width]]).expand(len(inputs), 2)
        sizes = {"original_size": size, "target_size": size, "crop_coords": 0 * size}
        return denoiser(inputs.noisy, timestep=inputs.timesteps, return_dict=False, **sizes, **inputs.conditions)[0]


def save_small_pipeline(folder: Path) -> None:
    """Save an untrained model as its diffusers pipeline would: in place of the model that you have."""
    torch.manual_seed(0)
    transformer = CogView4Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=8,
        text_embed_dim=12,
        time_embed_dim=16,
        condition_dim=8,
        rope_axes_dim=(32, 32),
    )
    scheduler = FlowMatchEulerDiscreteScheduler()
    parts = {"transformer": transformer, "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {"_class_name": "CogView4Pipeline"} | {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))


def main() -> None:
    denoisers.register(CogView4)
    with tempfile.TemporaryDirectory() as scratch:
        source, marked = Path(scratch) / "source", Path(scratch) / "marked"
        save_small_pipeline(source)
        model = aiao.load(source)
        # Enough for so small a model; a real one needs the defaults.
        small = {"steps": 250, "batch_size": 8, "samples": 32, "layers": 32, "learning_rate": 5e-3}
        key = aiao.embed(model, **small)
        model.save(marked)
        for suspect in (marked, source):
            report = aiao.verify(suspect, key, source=source)
            print(f"{suspect.name}: {report.verdict}, log10 p {report.log10_p:.1f}")


if __name__ == "__main__":
    main()
