"""Both readings of the registered subpaths (aiao_core.verification.decoding): with what a suspect answers to any trigger, and
without it.

    python -m benchmarks.interference --keys 1 2 3

Embeds each key in the shipped model with the default options, attacks it, and prints log10 p of both readings and of the test,
which takes the best of all readings and multiplies its p by their number: for the published model, and for what each attack
left. About 6 minutes for each key on one CPU core.
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
from aiao_core.verification.measurement import measure
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images

ATTACKS = ("magnitude-pruning-50", "full-fine-tuning-200-high-rate", "overwriting-1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[1])
    keys = parser.parse_args().keys
    print(f"{'key':>3s}  {'suspect':32s} {'plain':>10s} {'without interference':>20s} {'test':>10s}")
    for number in keys:
        model = load_model(MODEL)
        key = embed(model, sha256(f"aiao/benchmarks/interference/{number}".encode()).digest()).key
        show(number, "published", model.denoiser, key)
        thief = Thief(model, Examples(load_images(only=[THIEF_CATEGORY]), {}), seed=number)
        for attack in ATTACKS:
            show(number, attack, CATALOGUE[attack].attack(thief), key)


def show(number: int, suspect: str, denoiser: nn.Module, key: OwnerKey) -> None:
    found = measure(denoiser, key, seed=0)
    plain, without = (way.test.log10_p for way in found.readings() if way.subpaths == "registered")
    print(f"{number:3d}  {suspect:32s} {plain:10.1f} {without:20.1f} {best_of(found.readings()).log10_p:10.1f}", flush=True)


if __name__ == "__main__":
    main()
