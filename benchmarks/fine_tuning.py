"""Does the watermark outlive fine-tuning as users do it? On the trained text-to-image models.

    python -m benchmarks.fine_tuning unet [--seed 1]
    python -m benchmarks.fine_tuning transformer [--seed 1]

A fresh key is embedded with the owner's captions and default options. Then the published model is fine-tuned, personalised and
merged in the usual ways, at twice the usual learning rate (a tenth of the rate of the pre-training), and each result verified.
The loss is the denoising loss on fixed noise: on the data of the fine-tuning, before and after it, and on the owner's data,
where it shows what the change cost. About 25 minutes on one CPU core.
"""

import argparse
import copy
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor, nn

from aiao_core.data.captions import encode_captions
from aiao_core.data.latents import encode_images, load_autoencoder
from aiao_core.denoisers import Conditions, predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.pipelines import load_model
from aiao_core.formats.suspects import load_suspect
from aiao_core.key import OwnerKey
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples, fine_tune, noised
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.progress import Progress
from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.verification.verify import Subject, verify
from demo_models.emoji.data import load_images
from demo_models.emoji_text.parts import captions
from demo_models.emoji_text.train import HELD_OUT

MODELS = Path(__file__).parent.parent / "demo_models" / "emoji_text"
PRETRAINING_RATE = 1e-3
RATE = 2 * PRETRAINING_RATE / 10
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
DRAWS = 16
"""For each trigger layer."""


@dataclass(frozen=True)
class Row:
    name: str
    denoiser: nn.Module
    data: Examples
    """What the fine-tuning was for: its loss is reported."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["unet", "transformer"])
    parser.add_argument("--seed", type=int, default=1, help="of the key")
    arguments = parser.parse_args()
    folder = MODELS / arguments.model
    model = load_model(folder)
    source = copy.deepcopy(model.denoiser)
    owners = _examples(folder, model, without=HELD_OUT)
    animals, flags = (_examples(folder, model, only=(category,)) for category in HELD_OUT)
    start = time.perf_counter()
    options = EmbeddingOptions()
    embedding = embed(model, _seed(arguments.seed), examples=owners, options=options, progress=_every(200))
    key = embedding.key
    print(f"\n{type(source).__name__}, {options.steps} steps in {time.perf_counter() - start:.0f} s; ", end="")
    print(f"{len(key.layers)} layers, {len(key.subpaths)} subpaths, {key.bits} bits; {DRAWS} draws for each trigger layer\n")
    print(
        f"{'suspect':44s} verdict   VS-rate  RS-rate  log10 p   without trigger  loss on its data  on the owner's", flush=True
    )
    judge = _Judge(model, source, key, owners)
    judge.show(Row("unmarked source", source, animals))
    judge.show(Row("published", model.denoiser, animals))
    for row in _rows(model, source, owners, animals, flags):
        judge.show(row)


def _seed(number: int) -> bytes:
    return hashlib.sha256(f"benchmarks.fine_tuning/{number}".encode()).digest()


def _every(steps: int) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        if progress.step % steps == 0:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
            print(f"  {progress.stage} {progress.step} of {progress.total}  {figures}", flush=True)

    return show


def _examples(folder: Path, model: DiffusionModel, **chosen: tuple[str, ...]) -> Examples:
    clean = encode_images(load_autoencoder(folder), load_images(size=32, **chosen))
    return Examples(clean, encode_captions(folder, model, captions(**chosen)))


class _Judge:
    """Verifies each suspect and measures what its making did to its predictions."""

    def __init__(self, model: DiffusionModel, source: nn.Module, key: OwnerKey, owners: Examples) -> None:
        self.model, self.source, self.key, self.owners = model, source, key, owners
        self.published = copy.deepcopy(model.denoiser)

    def show(self, row: Row) -> None:
        options = VerificationOptions(seed=0, draws=DRAWS, decoys=0)
        subject = Subject(row.name, "model")
        report = verify(row.denoiser, self.key, subject=subject, source=self.source, registration="service", options=options)
        verdict = "match" if report.test.log10_p <= LIMIT_LOG10_P else "no-match"
        before, after = (self._loss(denoiser, row.data) for denoiser in (self.published, row.denoiser))
        print(
            f"{row.name:44s} {verdict:8s}  {report.vs_rate.value:.3f}    {report.rs_rate.value:.3f}    "
            f"{report.test.log10_p:7.1f}   {report.untriggered.log10_p:7.2f}          {before:.4f} → {after:.4f}  "
            f"{self._loss(row.denoiser, self.owners):.4f}",
            flush=True,
        )

    def _loss(self, denoiser: nn.Module, examples: Examples, count: int = 256) -> float:
        generator = torch.Generator().manual_seed(7)
        inputs, target = noised(self.model.schedule, examples.draw(count, generator), generator)
        with torch.no_grad():
            return float(nn.functional.mse_loss(predict(denoiser, inputs), target))


def _rows(model: DiffusionModel, source: nn.Module, owners: Examples, animals: Examples, flags: Examples) -> Iterator[Row]:
    tuned = _tuned(model, animals, steps=800)
    yield Row("full fine-tuning, 800 steps", tuned, animals)
    for rank in (4, 64):
        yield Row(f"LoRA of rank {rank}, 800 steps, from its file", _lora(model, animals, rank), animals)
    word = {name: value[:1].expand(5, *value.shape[1:]) for name, value in animals.conditions.items()}
    subject = Examples(animals.clean[:5], word)
    yield Row("DreamBooth on 5 images, 400 steps", _tuned(model, subject, steps=400, batch_size=5), subject)
    inverted = _textual_inversion(model, subject)
    yield Row("textual inversion, 200 steps", model.denoiser, inverted)
    other = _tuned(model, flags, steps=800)
    for share in (0.3, 0.5, 0.7):
        yield Row(f"{share} x it + {1 - share:.1f} x another fine-tune of it", _merged(tuned, other, share), animals)
    sibling = _tuned(replace(model, denoiser=source), flags, steps=800)
    for share in (0.3, 0.5, 0.7):
        yield Row(f"{share} x it + {1 - share:.1f} x a fine-tune of the source", _merged(tuned, sibling, share), animals)
    yield Row("continued pre-training, 1600 steps", _tuned(model, owners, steps=1600), owners)


def _tuned(model: DiffusionModel, examples: Examples, *, steps: int, batch_size: int = 32) -> nn.Module:
    tuned = copy.deepcopy(model.denoiser)
    fine_tune(replace(model, denoiser=tuned), examples, steps=steps, learning_rate=RATE, batch_size=batch_size)
    return tuned


def _lora(model: DiffusionModel, examples: Examples, rank: int) -> nn.Module:
    """Trained by PEFT, saved by diffusers, and read as a suspect is: merged into the published model."""
    adapted = copy.deepcopy(model.denoiser)
    adapted.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_TARGETS, init_lora_weights="gaussian"))
    parameters = [parameter for name, parameter in adapted.named_parameters() if "lora" in name]
    fine_tune(replace(model, denoiser=adapted), examples, steps=800, learning_rate=RATE, parameters=parameters)
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_lora_adapter(folder)
        file = next(Path(folder).glob("*.safetensors"))
        return load_suspect(file, model.architecture, lambda: (dict(model.denoiser.state_dict()), "published")).denoiser


def _textual_inversion(model: DiffusionModel, subject: Examples) -> Examples:
    """The subject under an embedding that was learnt for it; the denoiser stays (Gal et al. 2022)."""
    name = "encoder_hidden_states"
    learnt = nn.Parameter(subject.conditions[name][:1].clone())
    optimizer = torch.optim.AdamW([learnt], lr=5e-3)
    generator = torch.Generator().manual_seed(0)

    def conditions(count: int) -> Conditions:
        return {other: value[:1].expand(count, *value.shape[1:]) for other, value in subject.conditions.items()} | {
            name: learnt.expand(count, *learnt.shape[1:])
        }

    for _ in range(200):
        clean = subject.draw(8, generator).clean
        inputs, target = noised(model.schedule, Examples(clean, conditions(8)), generator)
        loss = nn.functional.mse_loss(predict(model.denoiser, inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Examples(subject.clean, {other: value.detach() for other, value in conditions(len(subject)).items()})


def _merged(first: nn.Module, second: nn.Module, share: float) -> nn.Module:
    """The weighted average of two models' weights."""
    merged = copy.deepcopy(first)
    others: dict[str, Tensor] = dict(second.named_parameters())
    for name, parameter in merged.named_parameters():
        parameter.data.lerp_(others[name].data, 1 - share)
    return merged


if __name__ == "__main__":
    main()
