"""What taking interference out does (aiao_core.interference): the test with it, without it, and where every direction is taken.

    python -m benchmarks.interference --keys 1 2 3

Embeds each key in the shipped model with the default options, attacks it, and prints log10 p of the published model and of what
each attack left, three times: of the answer as it is, of what is left of it if the directions in which the owner's answer
stands out are taken too, and of what is left as the test does it. About 6 minutes for each key on one CPU core.
"""

import argparse
from hashlib import sha256
from unittest.mock import patch

from torch import nn

from aiao_core import interference
from aiao_core.attacks.catalogue import CATALOGUE
from aiao_core.attacks.thief import Thief
from aiao_core.checkpoints import load_model
from aiao_core.embedding import embed
from aiao_core.key import OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.training import Examples
from aiao_core.verification import Subject, verify
from examples.emoji.data import MODEL, THIEF_CATEGORY, load_images

ATTACKS = ("magnitude-pruning-50", "full-fine-tuning-200-high-rate", "overwriting-1")
WAYS: dict[str, dict[str, float]] = {"as it is": {"PASSES": 0}, "all taken": {"STANDS_OUT": float("inf")}, "the test": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[1])
    parser.add_argument("--attacks", nargs="*", choices=sorted(CATALOGUE), metavar="ATTACK", default=ATTACKS)
    arguments = parser.parse_args()
    print(f"{'key':>3s}  {'suspect':32s}", *(f"{way:>10s}" for way in WAYS))
    for number in arguments.keys:
        model = load_model(MODEL)
        key = embed(model, sha256(f"aiao/benchmarks/interference/{number}".encode()).digest()).key
        show(number, "published", model.denoiser, key)
        thief = Thief(model, Examples(load_images(only=[THIEF_CATEGORY]), {}), seed=number)
        for attack in arguments.attacks:
            show(number, attack, CATALOGUE[attack].attack(thief), key)


def show(number: int, suspect: str, denoiser: nn.Module, key: OwnerKey) -> None:
    found = []
    for way in WAYS.values():
        with patch.dict(vars(interference), way):
            found.append(verify(denoiser, key, options=VerificationOptions(seed=0), subject=Subject(suspect, "model")).test)
    print(f"{number:3d}  {suspect:32s}", *(f"{test.log10_p:10.1f}" for test in found), flush=True)


if __name__ == "__main__":
    main()
