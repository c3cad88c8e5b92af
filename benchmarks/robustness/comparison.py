"""The page's sections that compare the methods: under fine-tuning, in detection, in quality."""

from collections.abc import Iterator, Sequence
from typing import Any

from scipy import stats

from benchmarks.rivals import RIVALS
from benchmarks.robustness import figures
from benchmarks.robustness.estimates import Figure, mean, rate, share, signed, strength
from benchmarks.robustness.marks import AIAO, KINDS
from benchmarks.robustness.page import Drawing, Picture, Section, Table
from benchmarks.robustness.runs import Run, Store

MODELS = {"emoji": "emoji model", "text-unet": "text-to-image UNet", "text-transformer": "text-to-image transformer"}
LEVELS = (-6, -9)
"""log10 of the probabilities of a false accusation at which detection is stated."""

SHOWN_STEPS = (0, 100, 200, 400, 800)

Found = dict[str, Any]


def methods(store: Store, experiment: str) -> Iterator[tuple[str, str, list[Run]]]:
    """Model, method and runs of the embedding as an owner gets it, in the plan's order; only what has runs."""
    for model in MODELS:
        for method in (AIAO, *(rival.name for rival in RIVALS[KINDS[model]])):
            runs = store.done(experiment=experiment, model=model, method=method, variant="default")
            if runs:
                yield model, method, runs


def at_step(runs: Sequence[Run], steps: int) -> list[Found]:
    return [run.result["found"][run.result["steps"].index(steps)] for run in runs]


def erasure(store: Store) -> Section:
    drawings, rows = [], []
    curves: dict[str, dict[str, list[tuple[int, Figure]]]] = {}
    for model, method, runs in methods(store, "erasure"):
        steps = runs[0].result["steps"]
        curves.setdefault(model, {})[method] = [(step, rate(at_step(runs, step))) for step in steps]
        rows.append([f"{method}, {MODELS[model]}", str(len(runs)), *(rate(at_step(runs, step)).text() for step in SHOWN_STEPS)])
    for model, of_model in curves.items():
        caption = f"After the paper's Fig. 1, on the {MODELS[model]}. AIAO: VS-rate. Others: their own rates. Bars: 95 %."
        drawings.append(Drawing(f"erasure-{model}", figures.erasure(of_model), caption))
    return Section(
        "A watermark under fine-tuning, step by step",
        "A thief fine-tunes every weight on images of another kind, at twice the usual rate, in batches of 32. Every method "
        "had the same source model, data and number of training steps for its embedding, and meets the same thief.",
        drawings,
        tables=[
            Table(
                ["rate after so many steps", "runs", *map(str, SHOWN_STEPS)],
                rows,
                "AIAO: VS-rate. WDM and prompt trigger: share of the drawn pictures that are the secret one. Trigger residual "
                "and Uchida: share of right bits, of which chance gives 0.50. Uchida's bits lie in the weights themselves, "
                "which such fine-tuning hardly moves; who knows the method overwrites them.",
            )
        ],
    )


def before_and_after(store: Store) -> Section:
    rows = []
    for model, method, runs in methods(store, "erasure"):
        ends = [at_step(runs, step) for step in (0, SHOWN_STEPS[-1])]
        responses = [rate(found, "rs", "rs_interval").text() if method == AIAO else "" for found in ends]
        rows.append(
            [
                f"{method}, {MODELS[model]}",
                str(len(runs)),
                *(rate(found).text() for found in ends),
                *responses,
                *(strength(found).text(".0f") for found in ends),
            ]
        )
    return Section(
        "VS-rate and RS-rate before and after fine-tuning",
        f"The paper's Fig. 5 and its figures after fine-tuning ({SHOWN_STEPS[-1]} steps). VS-rate: share of draws in which at "
        "least three quarters of the signs are right. RS-rate: share of right signs. log10 p: of each method's exact test; "
        "unmarked models are near 0.",
        tables=[
            Table(
                ["", "runs", "VS or rate", "after", "RS", "after", "log10 p", "after"],
                rows,
                "RS-rate is AIAO's alone. A run is another key and embedding.",
            )
        ],
    )


def detection(store: Store) -> Section:
    """ROC: exact p-values make the abscissa; the unmarked models check it."""
    curves, rows = {}, []
    for name in dict.fromkeys(method for _, method, _ in methods(store, "erasure")):
        runs = store.done(experiment="erasure", method=name, variant="default")
        for when, step in (("published", 0), ("fine-tuned", SHOWN_STEPS[-1])):
            values = [found["log10_p"] for found in at_step(runs, step)]
            recognised = [share(sum(value <= level for value in values), len(values)) for level in LEVELS]
            rows.append(
                [f"{name}, {when}", str(len(values)), *(figure.text() for figure in recognised), signed(f"{max(values):.0f}")]
            )
            if when == "fine-tuned":
                curves[f"{name}, {when}"] = [
                    (step / 4, share(sum(value <= step / 4 for value in values), len(values)).value) for step in range(-48, 1)
                ]
    return Section(
        "Detection at a stated probability of a false accusation",
        "Share of the marked models that the owner recognises (TPR) when the exact test accuses an innocent with a probability "
        "of at most 10⁻⁶ or 10⁻⁹, over independent pairs of a key and a model.",
        [Drawing("detection", figures.detection(curves), "ROC after 800 steps of fine-tuning. Dashed: 10⁻⁹ and 10⁻⁶.")],
        tables=[
            Table(["", "keys and models", "TPR at 10⁻⁶", "TPR at 10⁻⁹", "weakest log10 p"], rows),
            Table(["AIAO, no mark to find", "tests", "p ≤ 10⁻²", "p ≤ 10⁻⁶", "lowest log10 p", "uniform?"], _innocent(store)),
        ],
    )


def _innocent(store: Store) -> list[list[str]]:
    """Are p-values where there is no mark as small as they say, and no smaller?"""
    runs = store.done(experiment="erasure", method=AIAO, variant="default")
    sources = [run.result["in_source"]["log10_p"] for run in runs]
    decoys = [value for run in runs for value in run.result["found"][0]["decoys"]]
    # The test is discrete, so that its p-values may only be larger than uniform ones: that is the side that matters.
    uniform = stats.kstest([10**value for value in sources], "uniform", alternative="greater").pvalue
    rows = []
    for name, values, verdict in (
        ("owners' keys on the unmarked source", sources, f"p = {uniform:.2f}"),
        # Not independent: each of these keys has the same signs on every model.
        ("32 keys that nobody embedded, the same on every marked model", decoys, ""),
    ):
        small = [share(sum(value <= level for value in values), len(values)) for level in (-2, -6)]
        rows.append(
            [
                name,
                str(len(values)),
                small[0].text(".3f"),
                small[1].text(".3f"),
                signed(f"{min(values):.1f}"),
                verdict,
            ]
        )
    return rows


def quality(store: Store) -> Section:
    rows, features, pictures = [], "", []
    for model, method, runs in methods(store, "published"):
        measured = [run.result["quality"] for run in runs]
        features = measured[0]["features"]

        def over_runs(name: str, measured: list[Found] = measured) -> Figure:
            first = measured[0][name]
            return mean([each[name]["value"] for each in measured], single=(first["low"], first["high"]))

        loss = mean([each["quality_loss"] for each in measured])
        rows.append(
            [
                f"{method}, {MODELS[model]}",
                str(len(runs)),
                over_runs("fid").text(".2f"),
                over_runs("kid").text(".4f"),
                over_runs("denoising_loss").text(".4f"),
                over_runs("psnr").text(".1f"),
                over_runs("ssim").text(".3f"),
                over_runs("feature_distance").text(".3f"),
                loss.text(".1%"),
            ]
        )
    for model, name in MODELS.items():
        path = store.path.parent / "grids" / f"{model}-published.png"
        if path.is_file():
            pictures.append(
                Picture(path, f"The {name}: the unmarked source, and below it the same seeds watermarked. One key.")
            )
    return Section(
        "What a watermark costs in quality",
        f"Watermarked against unmarked. FID and KID with the features of: {features}. PSNR, SSIM and feature distance compare "
        "images of the same seed. Quality loss is the larger of two shares: the relative rise of the denoising loss on "
        "held-out data, and the way of the FID towards that of plain noise.",
        pictures=pictures,
        tables=[
            Table(["", "runs", "FID", "KID", "held-out loss", "PSNR, dB", "SSIM", "feature distance", "quality loss"], rows)
        ],
    )
