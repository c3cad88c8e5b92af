"""The page's sections about AIAO alone: attacks, lazy layers, ablations, draws."""

import statistics
from collections.abc import Sequence

import numpy as np

from aiao_core.attacks.catalogue import CATALOGUE
from aiao_core.method.lazy import Swap
from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.lazy_page import density_figure, swap_figure
from benchmarks.quality import LIMIT
from benchmarks.robustness import figures
from benchmarks.robustness.comparison import MODELS, SHOWN_STEPS, Found, at_step
from benchmarks.robustness.estimates import mean, rate, signed, strength
from benchmarks.robustness.experiments import ATTACKS
from benchmarks.robustness.marks import AIAO, TAUS
from benchmarks.robustness.page import Drawing, Picture, Section, Table
from benchmarks.robustness.plan import HARDEST
from benchmarks.robustness.runs import Store
from benchmarks.robustness.variants import VARIANTS

AIM = -20
"""log10 p that every model still of use should leave."""

SIBLING = "average with a fine-tune of the unmarked source, {} % of that"


def attacks(store: Store, model: str) -> Section | None:
    rows, points, pictures = [], [], []
    for attack in ATTACKS:
        grid = store.path.parent / "grids" / f"{model}-{attack}.png"
        if grid.is_file():
            pictures.append(
                Picture(grid, f"{_name(attack)}: the published model, and below it the same seeds after the attack.")
            )
        runs = store.of(experiment="attacked", model=model, variant="default", attack=attack)
        done = store.done(experiment="attacked", model=model, variant="default", attack=attack)
        if not done:
            rows += [
                [_name(attack), str(len(runs)), "", "", "", "", "", f"not possible: {run.result['reason']}"] for run in runs[:1]
            ]
            continue
        found = [run.result["found"] for run in done]
        losses = [run.result["quality_loss"] for run in done]
        weakest = max(each["log10_p"] for each in found)
        outcome = _outcome(statistics.mean(losses), weakest)
        points.append((statistics.mean(losses), weakest, outcome))
        rows.append(
            [
                _name(attack),
                str(len(done)),
                rate(found).text(),
                rate(found, "rs", "rs_interval").text(),
                strength(found).text(".0f"),
                signed(f"{weakest:.0f}"),
                mean(losses).text(".0%"),
                outcome,
            ]
        )
    if not points:
        return None
    caption = (
        "Each dot is an attack: green withstood, orange where the mark is weakened, red where it ends, grey where the "
        "model is ruined. Dashed: the aim."
    )
    return Section(
        f"Removal attacks on the {MODELS[model]}",
        "Each attack works on the published model, without the key and with images of another kind than the owner's. Quality "
        "loss as below, against the owner's images or against the thief's, whichever is the better; from 20 % on the model "
        f"counts as ruined. An attack is withstood if every run leaves log10 p of {signed(str(AIM))} or less; it has weakened "
        "the mark if every run is still a match, and else has ended it.",
        [Drawing(f"attacks-{model}", figures.attacks(points, LIMIT, AIM), caption)],
        pictures,
        tables=[Table(["attack", "runs", "VS", "RS", "log10 p", "weakest", "quality loss", "outcome"], rows)],
    )


def _name(attack: str) -> str:
    return CATALOGUE[attack].name if attack in CATALOGUE else SIBLING.format(attack.rsplit("-", 1)[1])


def _outcome(quality_loss: float, weakest: float) -> str:
    if quality_loss >= LIMIT:
        return "ruined"
    if weakest <= AIM:
        return "withstood"
    return "weakened" if weakest <= LIMIT_LOG10_P else "ended"


def lazy_layers(store: Store) -> Section | None:
    runs = store.done(experiment="lazy_layers")
    if not runs:
        return None
    result = runs[0].result
    densities = {name: np.array(density) for name, density in result["densities"].items()}
    swaps = [Swap(**each) for each in result["swaps"]]
    return Section(
        "Busy and lazy layers",
        "A thief's fine-tuning changes a few layers much and most hardly. One run on the published emoji model, "
        f"{SHOWN_STEPS[-1]} steps.",
        [
            Drawing(
                "busy-and-lazy",
                density_figure(densities),
                "After the paper's Fig. 2: each column is a layer; the darker a cell, the more of its weights changed by so "
                "much, in units of the layer's root mean square weight.",
            ),
            Drawing(
                "swap",
                swap_figure(swaps),
                "After the paper's Fig. 3: k layers of the fine-tuned model are copied into the published one; 100 % is the "
                "fine-tuned model's own prediction.",
            ),
        ],
    )


def ablations(store: Store) -> Section | None:
    rows = []
    for variant, changed in VARIANTS.items():
        erased, published, *attacked = (
            store.done(model="emoji", method=AIAO, variant=variant, **chosen)
            for chosen in (
                {"experiment": "erasure"},
                {"experiment": "published"},
                *({"attack": attack} for attack in HARDEST),
            )
        )
        if not (erased and published):
            continue
        ends = [at_step(erased, step) for step in (0, SHOWN_STEPS[-1])]
        rows.append(
            [
                changed.name,
                str(len(erased)),
                f"{statistics.mean(run.result['bits'] for run in published):.0f}",
                *(rate(found).text() for found in ends),
                *(strength(found).text(".0f") for found in ends),
                *(strength([run.result["found"] for run in runs]).text(".0f") if runs else "" for runs in attacked),
                mean([run.result["quality"]["quality_loss"] for run in published]).text(".1%"),
                mean([run.result["quality"]["psnr"]["value"] for run in published]).text(".1f"),
            ]
        )
    if not rows:
        return None
    headers = [
        "embedding",
        "runs",
        "bits",
        "VS",
        "after fine-tuning",
        "log10 p",
        "after",
        *HARDEST.values(),
        "quality loss",
        "PSNR, dB",
    ]
    return Section(
        "Which parts of the method matter",
        "As an owner gets it: a key of at most 48 of all layers, masks of half of the channels, all three terms of the "
        "objective, half of each batch under decoy triggers. Then a key of 24 layers of the lazy half, and that with one more "
        "part changed. On the emoji model: before and after the thief's 800 steps, and under the attacks that take most of a "
        "small key's mark and leave the model as good: overwritten by one AIAO watermark of the thief's own, unlearnt by "
        "training against random triggers at all layers, averaged with as much of a fine-tune of the unmarked source. A "
        "thief's key is as large as the owner's.",
        tables=[Table(headers, rows), _by_tau(store)],
    )


def _by_tau(store: Store) -> Table:
    """τ decides VS-rate and nothing else."""
    erased = store.done(experiment="erasure", model="emoji", method=AIAO, variant="default")
    suspects: dict[str, Sequence[Found]] = {
        "published": at_step(erased, 0),
        "fine-tuned": at_step(erased, SHOWN_STEPS[-1]),
        "unmarked source": [run.result["in_source"] for run in erased],
    }
    taus = sorted({*TAUS, 0.75})

    def vs(found: Found, tau: float) -> float:
        return float(found["rate"] if tau == 0.75 else found["by_tau"][str(tau)])

    rows = [
        [name, str(len(found)), *(mean([vs(each, tau) for each in found], bounds=(0, 1)).text() for tau in taus)]
        for name, found in suspects.items()
        if found
    ]
    return Table(
        ["VS-rate by τ", "runs", *(f"{tau:g}" for tau in taus)],
        rows,
        "τ is the share of right signs from which a draw counts as verified. The verdict does not depend on it.",
    )


def spread(store: Store) -> Section | None:
    runs = store.done(experiment="spread")
    if not runs:
        return None
    result = runs[0].result
    rows = [
        [
            str(row["draws"]),
            f"{row['vs']:.3f}",
            f"{row['vs_deviation']:.4f}",
            signed(f"{row['log10_p']:.1f}"),
            f"{row['log10_p_deviation']:.2f}",
        ]
        for row in result["rows"]
    ]
    return Section(
        "How many draws a verification needs",
        f"{result['runs']} verifications of one published emoji model for each number of draws, each with other draws.",
        [Drawing("spread", figures.spread(result["rows"]), "More draws make VS-rate steadier; the verdict is safe with few.")],
        tables=[Table(["draws", "mean VS", "its deviation", "mean log10 p", "its deviation"], rows)],
    )
