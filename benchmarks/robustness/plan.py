"""Which runs there are, the most telling first: an interrupted plan has something of everything."""

from collections.abc import Iterator

from benchmarks.rivals import RIVALS
from benchmarks.robustness.experiments import ATTACKS
from benchmarks.robustness.marks import AIAO, KINDS, REVISION
from benchmarks.robustness.runs import Configuration
from benchmarks.robustness.variants import VARIANTS

KEYS = {"emoji": 30, "text-unet": 12, "text-transformer": 8}
"""Fifty pairs of a key and a model."""

RIVAL_SEEDS = (101, 102, 103)
"""None of these was looked at while the rivals were tuned."""

COMPARED = ("emoji", "text-unet")
ATTACKED_KEYS = (1, 2, 3)
ABLATION_KEYS = (1, 2, 3)
UNLEARNING = "trigger-unlearning"
"""The attack that leaves the least of the mark: variants are also compared by what withstands it."""


def full() -> list[Configuration]:
    return list({str(each): each for each in _full()}.values())


def _full() -> Iterator[Configuration]:
    for turn, rival_seed in enumerate(RIVAL_SEEDS):
        for model in COMPARED:
            yield from _mark(model, AIAO, turn + 1)
            for rival in RIVALS[KINDS[model]]:
                yield from _mark(model, rival.name, rival_seed)
            if model == "emoji":
                yield from _attacks(model, ATTACKED_KEYS[turn])
        if turn == 0:
            yield _run("lazy_layers", "emoji", AIAO, 1)
            yield _run("spread", "emoji", AIAO, 1)
        for variant in VARIANTS:
            yield from _mark("emoji", AIAO, ABLATION_KEYS[turn], variant)
            yield _run("attacked", "emoji", AIAO, ABLATION_KEYS[turn], variant, attack=UNLEARNING)
        for model, keys in KEYS.items():
            for key in range(turn * keys // 3 + 1, (turn + 1) * keys // 3 + 1):
                yield from _mark(model, AIAO, key)
    yield from _attacks("text-unet", 1)


def _attacks(model: str, key: int) -> Iterator[Configuration]:
    for attack in reversed(ATTACKS):  # the catalogue ends with those that know the most
        yield _run("attacked", model, AIAO, key, attack=attack)


def quick() -> list[Configuration]:
    return [
        *_mark("emoji", AIAO, 1),
        *_mark("emoji", "WDM", RIVAL_SEEDS[0]),
        *(
            _run("attacked", "emoji", AIAO, 1, attack=attack)
            for attack in ("quantisation-4", "magnitude-pruning-30", "reparametrisation")
        ),
    ]


def _mark(model: str, method: str, seed: int, variant: str = "default") -> Iterator[Configuration]:
    yield _run("published", model, method, seed, variant)
    yield _run("erasure", model, method, seed, variant)


def _run(experiment: str, model: str, method: str, seed: int, variant: str = "default", **parameters: str) -> Configuration:
    mark = {"model": model, "method": method, "seed": seed, "variant": variant}
    return {"experiment": experiment, **mark, **parameters, "revision": REVISION}
