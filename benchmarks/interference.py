"""The readings of a key beside its source (aiao_core.verification.differences): as they are, and less what the source answers.

    python -m benchmarks.interference --keys 1 2 3

Embeds each key in the shipped model with the default options, attacks it, and prints log10 p of the four readings and of the
test, which takes the best of them and multiplies its p by their number: for the published model, and for what each attack left.
About 6 minutes for each key on one CPU core.
"""

import argparse
from hashlib import sha256

from torch import nn

from aiao_core.attacks.catalogue import CATALOGUE
from aiao_core.attacks.thief import Thief
from aiao_core.formats.pipelines import load_model
from aiao_core.key import OwnerKey
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples
from aiao_core.reports.parts import best_of
from aiao_core.verification.measurement import Source, know_source, measure
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images

ATTACKS = ("magnitude-pruning-50", "full-fine-tuning-200-high-rate", "overwriting-1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[1])
    keys = parser.parse_args().keys
    columns = ("plain", "less source", "aligned", "both", "test")
    print(f"{'key':>3s}  {'suspect':32s}" + "".join(f"{column:>13s}" for column in columns))
    for number in keys:
        model, source = load_model(MODEL), load_model(MODEL).denoiser
        key = embed(model, sha256(f"aiao/benchmarks/interference/{number}".encode()).digest()).key
        beside = know_source(source, key, 0)
        show(number, "published", model.denoiser, key, beside)
        thief = Thief(model, Examples(load_images(only=[THIEF_CATEGORY]), {}), seed=number)
        for attack in ATTACKS:
            show(number, attack, CATALOGUE[attack].attack(thief), key, beside)


def show(number: int, suspect: str, denoiser: nn.Module, key: OwnerKey, source: Source) -> None:
    ways = measure(denoiser, key, seed=0, source=source).readings()
    figures = [*(way.test.log10_p for way in ways), best_of(ways).log10_p]
    print(f"{number:3d}  {suspect:32s}" + "".join(f"{figure:13.1f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
