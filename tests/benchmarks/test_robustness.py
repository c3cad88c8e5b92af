"""The laboratory's bookkeeping, statistics and page, and one small experiment of each kind that trains."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.derivation import derive_bits
from aiao_core.method import objective
from aiao_core.options import EmbeddingOptions
from benchmarks.robustness import comparison, experiments, limits, marks, variants
from benchmarks.robustness.estimates import mean, share
from benchmarks.robustness.experiments import Laboratory
from benchmarks.robustness.marks import Mark
from benchmarks.robustness.page import write
from benchmarks.robustness.plan import full, quick
from benchmarks.robustness.runs import Run, Store
from benchmarks.robustness.variants import VARIANTS, masks_of


def test_a_store_finds_runs_by_configuration_and_outlives_a_crash(tmp_path):
    path = tmp_path / "deep" / "runs.jsonl"
    store = Store(path)
    store.add(Run({"experiment": "published", "seed": 1}, {"found": 1}, 2.0))
    store.add(Run({"experiment": "published", "seed": 2}, {"found": 2}, 2.0))
    with path.open("a") as file:
        file.write('{"configuration": {"experiment": "publ')
    again = Store(path)
    assert {"seed": 2, "experiment": "published"} in again
    assert {"seed": 3, "experiment": "published"} not in again
    assert [run.result for run in again.of(experiment="published")] == [{"found": 1}, {"found": 2}]
    again.add(Run({"experiment": "published", "seed": 3}, {"found": 3}, 2.0))
    assert {"experiment": "published", "seed": 3} in Store(path)


def test_a_run_just_made_is_as_one_read_again(tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    store.add(Run({"experiment": "erasure"}, {"by_tau": {0.6: 1.0}}, 2.0))
    assert store.of() == Store(store.path).of()
    assert store.of()[0].result == {"by_tau": {"0.6": 1.0}}


def test_runs_of_an_earlier_revision_are_forgotten_but_not_lost(tmp_path):
    old, new = ({"experiment": "published", "revision": revision} for revision in (1, 2))
    store = Store(tmp_path / "runs.jsonl")
    store.add(Run(old, {"found": 1}, 2.0))
    store.keep([new])
    store.add(Run(new, {"found": 2}, 2.0))
    assert [run.result["found"] for run in store.of(experiment="published")] == [2]
    assert old in Store(store.path)


def test_the_plan_names_each_run_once_and_meets_the_issue(tmp_path):
    plan = full()
    assert len({json.dumps(each, sort_keys=True) for each in plan}) == len(plan)
    keys = {(each["model"], each["seed"]) for each in plan if each["experiment"] == "erasure" and each["method"] == "AIAO"}
    assert len(keys) >= 50
    assert all(each in plan for each in quick())
    store = Store(tmp_path / "runs.jsonl")
    for each in plan:
        store.add(Run(each, {}, 0.0))
    assert all(each in Store(tmp_path / "runs.jsonl") for each in plan)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        figure = mean(generator.normal(5, 2, size=4).tolist())
        covered += figure.low <= 5 <= figure.high
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_interval_of_rates_holds_their_mean_and_stays_among_rates(rates):
    figure = mean(rates, bounds=(0, 1))
    assert 0 <= figure.low <= figure.value + 1e-9
    assert figure.value - 1e-9 <= figure.high <= 1
    assert figure.runs == len(rates)


def test_one_run_has_no_interval_but_its_own():
    assert mean([0.5]).text() == "0.50"
    assert mean([0.5], single=(0.4, 0.6)).text() == "0.50 [0.40, 0.60]"
    assert mean([-3.0, -3.0]).text(".0f") == "\N{MINUS SIGN}3 [\N{MINUS SIGN}3, \N{MINUS SIGN}3]"
    assert share(50, 50).low == pytest.approx(0.9289, abs=1e-4)


@given(st.binary(min_size=32, max_size=32), st.sampled_from([0.125, 0.25, 0.75]))
def test_masks_have_the_ratio_and_signs_stay(seed, ratio):
    derive = masks_of(ratio)
    assert derive(seed, "response-mask", "layer", 4096).mean() == pytest.approx(ratio, abs=0.05)
    assert (derive(seed, "response-sign", "layer", 64) == derive_bits(seed, "response-sign", "layer", 64)).all()


def test_a_variant_is_undone_after_use():
    before = objective.LAMBDA_COVERT
    with VARIANTS["no-covertness"].applied():
        assert objective.LAMBDA_COVERT == 0
    assert before == objective.LAMBDA_COVERT


@pytest.fixture
def short(monkeypatch):
    """Everything that trains, a few steps long."""
    options = EmbeddingOptions(steps=3, batch_size=4)
    monkeypatch.setitem(marks.VARIANTS, "default", variants.Variant("short", options))
    monkeypatch.setattr(experiments, "ERASURE_STEPS", (0, 1))
    monkeypatch.setattr(experiments, "ERASURE_BATCH", 2)
    monkeypatch.setattr(marks, "TAUS", (0.6,))
    monkeypatch.setattr(experiments, "SPREAD_DRAWS", (10, 20))
    monkeypatch.setattr(experiments, "SPREAD_RUNS", 2)


@pytest.mark.slow
def test_a_mark_is_embedded_once_and_experiments_leave_it_as_it_is(short, tmp_path):
    mark = Mark("emoji", "AIAO", 7)
    first = Laboratory(tmp_path, tmp_path / "grids")
    erased = first.erasure(mark)
    weights = tmp_path / f"{mark.id}.safetensors"
    written = weights.stat().st_mtime_ns
    again = Laboratory(tmp_path, tmp_path / "grids").erasure(mark)
    assert weights.stat().st_mtime_ns == written
    assert erased == again
    assert len(erased["found"]) == 2
    assert erased["found"][0]["log10_p"] == first.marked(mark).detect(first.marked(mark).model.denoiser)["log10_p"]
    assert first.spread(mark)["rows"][1]["draws"] == 20
    json.dumps(erased)


@pytest.mark.slow
def test_two_keys_are_two_marks(short, tmp_path):
    laboratory = Laboratory(tmp_path, tmp_path / "grids")
    one, two = (laboratory.marked(Mark("emoji", "AIAO", seed)) for seed in (1, 2))
    assert one.secret.commitment != two.secret.commitment
    assert not torch.equal(next(one.model.denoiser.parameters()), next(two.model.denoiser.parameters()))


def found(log10_p, rate):
    return {
        "log10_p": log10_p,
        "rate": rate,
        "interval": [rate - 0.1, rate],
        "rs": rate,
        "rs_interval": [rate - 0.1, rate],
        "decoys": [-0.1, -1.0],
        "by_tau": {str(tau): rate for tau in marks.TAUS},
    }


def estimate(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


QUALITY = {name: estimate(0.5) for name in ("fid", "kid", "denoising_loss", "psnr", "ssim", "feature_distance")} | {
    "features": "classifier <16>",
    "quality_loss": 0.05,
}


def results(configuration):
    """A result such as an experiment gives."""
    strong = configuration["method"] == "AIAO"
    match configuration["experiment"]:
        case "published":
            return {
                "found": found(-150, 0.99),
                "quality": QUALITY,
                "bits": 600 if strong else None,
            }
        case "erasure":
            steps = experiments.ERASURE_STEPS
            return {
                "steps": steps,
                "found": [found(-150 if strong else -5, 0.99 if strong else 1 / (1 + n)) for n in steps],
                "in_source": found(-0.2, 0),
            }
        case "attacked" if configuration["attack"] == "structured-pruning-20":
            return {"reason": "this model does not allow it"}
        case "attacked":
            left = {"distillation": -1, "overwriting-3": -19.5}.get(configuration["attack"], -100)
            return {"found": found(left, 0.9), "quality": {}, "quality_loss": 0.1}
        case _:
            return None


def test_the_page_says_what_the_runs_say_in_both_forms(tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    for configuration in full():
        if result := results(configuration):
            store.add(Run(configuration, result, 10.0))
    store = Store(tmp_path / "runs.jsonl")
    sections = [
        comparison.erasure(store),
        comparison.before_and_after(store),
        comparison.detection(store),
        limits.attacks(store, "emoji"),
        comparison.quality(store),
        limits.ablations(store),
    ]
    write("Title & more", "meta", sections, tmp_path)
    html, markdown = ((tmp_path / name).read_text() for name in ("index.html", "README.md"))
    assert "Title &amp; more" in html
    assert "classifier &lt;16&gt;" in html
    assert "| AIAO, fine-tuned | 50 | 1.00 [0.93, 1.00] | 1.00 [0.93, 1.00] | \N{MINUS SIGN}150 |" in markdown
    assert "| WDM, fine-tuned | 3 | 0.00 [0.00, 0.71] | 0.00 [0.00, 0.71] | \N{MINUS SIGN}5 |" in markdown
    assert re.search(r"\| distillation.*\| ended \|", markdown)
    assert re.search(r"\| overwriting with 3.*\| weakened \|", markdown)
    assert re.search(r"\| quantisation to 8 bits.*\| withstood \|", markdown)
    assert "not possible: this model does not allow it" in markdown
    for drawing in re.findall(r"\]\((figures/.*?\.svg)\)", markdown):
        assert (tmp_path / drawing).read_text().startswith("<svg xmlns")
    for table in sections[0].tables:
        for cell in (cell for row in table.rows for cell in row):
            assert cell in html


def test_a_page_without_runs_has_only_what_there_is(tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    assert limits.attacks(store, "emoji") is None
    assert limits.ablations(store) is None
    assert limits.lazy_layers(store) is None
    assert limits.spread(store) is None
