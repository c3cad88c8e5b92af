"""Does any verification accuse an innocent? Unrelated and sibling models, and every option that a caller can send.

    python -m benchmarks.false_accusations [--count 2000]

Each verification draws a fresh key, a suspect that never saw it, and options at random from all that the schema takes: limits
down to p = 0.999998, single draws, any seed, no decoys; with the source or without, with an adapter's base or without, from a
key file or as the service tests. Siblings are what becomes of the source in other hands: fine-tuned, noised, averaged, pruned,
quantized, permuted. The tiny model is untrained; every fortieth verification is of the trained emoji model.
"""

import argparse
import copy
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from scipy.stats import binomtest
from torch import nn

from aiao_core.attacks.pruning import magnitude_pruning
from aiao_core.attacks.reparametrization import reparametrization
from aiao_core.attacks.thief import Thief
from aiao_core.attacks.weights import weight_noise, weight_quantization
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.pipelines import load_model, untrained
from aiao_core.key import OwnerKey, generate_seed
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.key_selection import select_key
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.verification.verify import Subject, verify
from demo_models.emoji.data import MODEL, load_images
from tests.support.tiny_models import make_tiny_model

EMOJI_EVERY = 40
KEY_EVERY = 10
"""Layers and subpaths are chosen by reach so often; in between a key has another seed, which is what its signs follow from."""

SHOWN = 100

Sibling = Callable[[DiffusionModel, random.Random], nn.Module]


def fine_tuned(model: DiffusionModel, dice: random.Random) -> nn.Module:
    """Every weight moved as a fine-tuning moves it: a little, at random."""
    other = copy.deepcopy(model.denoiser)
    generator = torch.Generator().manual_seed(dice.randrange(2**32))
    amount = dice.choice([0.003, 0.03, 0.1])
    for parameter in other.parameters():
        parameter.data += amount * parameter.data.std().nan_to_num(0) * torch.randn(parameter.shape, generator=generator)
    return other


def averaged(model: DiffusionModel, dice: random.Random) -> nn.Module:
    """Half of the source and half of an unrelated model."""
    other = untrained(model.architecture, dice.randrange(2**32))
    for mine, theirs in zip(other.parameters(), model.denoiser.parameters(), strict=True):
        mine.data = 0.5 * mine.data + 0.5 * theirs.data
    return other


def by_thief(attack: Callable[[Thief], nn.Module]) -> Sibling:
    """What an attack of the catalogue makes of the source."""

    def sibling(model: DiffusionModel, dice: random.Random) -> nn.Module:
        examples = Examples(torch.rand(4, *(model.architecture.config["in_channels"], 8, 8)), {})
        return attack(Thief(model, examples, dice.randrange(2**32)))

    return sibling


SUSPECTS: dict[str, Sibling] = {
    "unrelated": lambda model, dice: untrained(model.architecture, dice.randrange(2**32)),
    "the source": lambda model, dice: model.denoiser,
    "fine-tuned": fine_tuned,
    "averaged": averaged,
    "noised": by_thief(lambda thief: weight_noise(thief, strength=0.1)),
    "pruned": by_thief(lambda thief: magnitude_pruning(thief, share=0.3)),
    "quantized": by_thief(lambda thief: weight_quantization(thief, bits=6)),
    "permuted": by_thief(reparametrization),
}


def any_options(dice: random.Random) -> VerificationOptions:
    """Options that the schema takes: a verdict's, one of them changed, or all."""
    choices = {
        "max_log10_p": [-0.000001, -0.05, -0.42, -3.0, -9.0, -19.26, -19.27, -25.0],
        "draws": [1, 2, 8, 99],
        "decoys": [0, 1, 7],
        "tau": [0.51, 0.6, 1.0],
        "seed": [dice.randrange(2**32)],
    }
    changed = dice.choice([[], [dice.choice(list(choices))], list(choices)])
    return VerificationOptions(**{name: dice.choice(choices[name]) for name in changed})


def another(key: OwnerKey) -> OwnerKey:
    """Give a key another seed, with a trigger at each of the same layers: a mask of few channels may have none of them."""
    while True:
        key = replace(key, seed=generate_seed())
        if all(key.trigger_mask(i).any() for i in key.trigger_layers):
            return key


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice, began = random.Random(arguments.seed), time.monotonic()
    models = {"tiny": make_tiny_model(), "emoji": load_model(MODEL)}
    images = {"tiny": load_images(without=["Flags"], size=8)[:64], "emoji": load_images(without=["Flags"])[:64]}
    verdicts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    log10_p: list[float] = []
    keys: dict[str, OwnerKey] = {}
    for number in range(arguments.count):
        name = "emoji" if number % EMOJI_EVERY == EMOJI_EVERY - 1 else "tiny"
        model = models[name]
        if name not in keys or number % KEY_EVERY == 0:
            keys[name] = select_key(model, generate_seed(), Examples(images[name], {}), EmbeddingOptions())
        key = another(keys[name])
        kind = dice.choice(list(SUSPECTS))
        options = any_options(dice)
        service = dice.random() < 0.5
        report = verify(
            SUSPECTS[kind](model, dice),
            key,
            subject=Subject(kind, "model"),
            source=model.denoiser if service or dice.random() < 0.5 else None,
            base=SUSPECTS[dice.choice(list(SUSPECTS))](model, dice) if dice.random() < 0.2 else None,
            registration="service" if service else "key-file",
            options=options,
        )
        verdicts[report.verdict] += 1
        kinds[f"{name}, {kind}"] += 1
        if not options.exploratory:
            log10_p.append(report.test.log10_p)
        if (number + 1) % SHOWN == 0:
            print(f"{number + 1} of {arguments.count}: {dict(verdicts)}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"verdicts: {dict(verdicts)}")
    print(f"suspects: {dict(sorted(kinds.items()))}")
    print(f"tests by the rules: {len(log10_p)}, least log10 p {min(log10_p):.2f}")
    for limit in (0.1, 0.01, 0.001):
        hits = sum(each <= math.log10(limit) for each in log10_p)
        chance = binomtest(hits, len(log10_p), limit, alternative="greater").pvalue
        print(f"  p <= {limit}: {hits} of {len(log10_p)}; so many or more by chance alone with probability {chance:.3f}")
    print("NO MATCH AMONG THEM" if not verdicts["match"] else f"MATCHES: {verdicts['match']}")


if __name__ == "__main__":
    main()
