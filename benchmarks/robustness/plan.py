"""Which runs there are, the most telling first: an interrupted plan has something of everything."""

from collections.abc import Iterator

from benchmarks.rivals import RIVALS
from benchmarks.robustness.experiments import ATTACKS
from benchmarks.robustness.marks import AIAO, KINDS, Mark
from benchmarks.robustness.runs import Configuration
from benchmarks.robustness.variants import VARIANTS

KEYS = {"emoji": 38, "text-unet": 7, "text-transformer": 5}
"""Fifty pairs of a key and a model."""

TURNS = ((1, 101), (2, 102), (3, 103))
"""A key of ours and a seed of the rivals. None was looked at while the embedding and the rivals were tuned; but the number of
layers and the share of bits that counts were chosen by what the hardest attacks left of these three keys."""

COMPARED = ("emoji", "text-unet")
TELLING = (
    "full-fine-tuning-200-high-rate",
    "full-fine-tuning-800-high-rate",
    "averaging-with-sibling-30",
    "averaging-with-sibling-50",
    "magnitude-pruning-70",
    "structured-pruning-20",
    "fine-pruning-20",
    "re-initialisation-4",
    "overwriting-1",
    "overwriting-3",
    "trigger-unlearning",
    "distillation",
)
"""The attacks that took a third or more of the first key's mark: on these the other keys are tried too."""

HARDEST = {
    "overwriting-1": "overwritten",
    "trigger-unlearning": "unlearnt",
    "averaging-with-sibling-50": "averaged",
}
"""The attacks that take most of a small key's mark and leave the model as good, and a word for each. They decided how many
layers a key has."""

SMALL = "lazy-24"
"""The embedding with keys as small as the paper's."""

DECOYLESS = ("no-decoys", "overwriting-1")
"""The embedding without the decoys, under the attack against which they are there."""


def full() -> list[Configuration]:
    return list({str(each): each for each in _full()}.values())


def _full() -> Iterator[Configuration]:
    for key, rival_seed in TURNS:
        for model in COMPARED:
            rivals = [Mark(model, rival.name, rival_seed) for rival in RIVALS[KINDS[model]]]
            yield from _before_and_after([Mark(model, AIAO, key), *rivals])
        for attack in ATTACKS if key == 1 else TELLING:
            yield _run("attacked", Mark("emoji", AIAO, key), attack=attack)
        for attack in HARDEST:
            yield _run("attacked", Mark("emoji", AIAO, key, SMALL), attack=attack)
        if key == 1:
            yield _run("lazy_layers", Mark("emoji", AIAO, key))
            yield _run("spread", Mark("emoji", AIAO, key))
            yield from _before_and_after([Mark("emoji", AIAO, key, variant) for variant in VARIANTS])
            without_decoys, attack = DECOYLESS
            yield _run("attacked", Mark("emoji", AIAO, key, without_decoys), attack=attack)
    for model, keys in KEYS.items():
        for number in range(1, keys + 1):
            yield _run("erasure", Mark(model, AIAO, number))


def quick() -> list[Configuration]:
    return [
        *_before_and_after([Mark("emoji", AIAO, 1), Mark("emoji", "WDM", 101)]),
        *(
            _run("attacked", Mark("emoji", AIAO, 1), attack=attack)
            for attack in ("quantisation-4", "magnitude-pruning-30", "reparametrisation")
        ),
    ]


def _before_and_after(marks: list[Mark]) -> Iterator[Configuration]:
    """One experiment after the other: a second process would wait for a mark that the first still embeds."""
    for experiment in ("published", "erasure"):
        for mark in marks:
            yield _run(experiment, mark)


def _run(experiment: str, mark: Mark, **parameters: str) -> Configuration:
    return {"experiment": experiment, **vars(mark), **parameters, "revision": mark.revision}
