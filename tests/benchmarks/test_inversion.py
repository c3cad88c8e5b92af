"""The bookkeeping of the attacks on published weights, and one run of it on a tiny model."""

import json

import pytest
from safetensors.torch import save_file

from aiao_core.method import embedding, objective
from benchmarks.inversion import __main__ as main
from benchmarks.inversion import experiments, marks
from benchmarks.inversion.marks import Setting
from benchmarks.robustness.runs import Run, Store
from tests.support.tiny_models import make_marked, make_tiny_examples, make_tiny_model


def test_the_plans_name_each_run_once():
    for plan in (list(main.reads(2, 1.0, 300)), list(main.grid(2, 1.0))):
        assert len({json.dumps(each, sort_keys=True) for each in plan}) == len(plan)
    assert {each["beside"] for each in main.reads(1, 1.0, 0)} == {"", *main.BESIDE}


def test_a_setting_is_undone_after_use():
    before = objective.MARGIN, objective.LAMBDA_COVERT, embedding.NEAR
    with Setting(margin=0.15, near=0.5).applied():
        assert (objective.MARGIN, embedding.NEAR) == (0.15, 0.5)
        assert pytest.approx(before[1] * 2) == objective.LAMBDA_COVERT
    assert before == (objective.MARGIN, objective.LAMBDA_COVERT, embedding.NEAR)


@pytest.fixture
def tiny_marks(monkeypatch, tmp_path, run_folder):
    """The emoji model's place is the tiny model's, and its mark is there already."""
    marked = make_marked(run_folder)
    monkeypatch.setattr(marks, "FOLDER", tmp_path)
    monkeypatch.setattr(main, "RESULTS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(marks, "load_model", lambda _: make_tiny_model())
    monkeypatch.setattr(experiments, "tuned", lambda model, *_: model)
    cached = marks.source, marks.marked
    for function in cached:
        function.cache_clear()
    for number in (1, 1 + experiments.TWIN):
        save_file(marked.model.denoiser.state_dict(), tmp_path / f"{Setting().id}-key-{number}.safetensors")
        (tmp_path / f"{Setting().id}-key-{number}.key.json").write_text(marked.key.to_json())
    for module in (marks, experiments):
        monkeypatch.setattr(module, "thiefs_examples", make_tiny_examples)
    yield
    for function in cached:
        function.cache_clear()


def test_a_run_goes_on_where_it_was_and_prints_a_table(tiny_marks, monkeypatch, capsys):
    arguments = ["benchmarks.inversion", "--minutes", "0.001", "--plant", "2", "--only", "coupling", "twin"]
    monkeypatch.setattr("sys.argv", arguments)
    main.main()
    first = capsys.readouterr().out
    (run,) = Store(main.RESULTS).of(experiment="read")
    assert run.result["published_log10_p"] < run.result["forged_source_log10_p"]
    assert (run.result["forged_source_verdict"], run.result["removed_verdict"]) == ("no-match", "match")
    assert run.result["removed_share"] > 5 / 8 > run.result["forged_source_plain_share"]
    assert f"| coupling | twin | 1 | {run.result['seconds']:.0f} |" in first
    assert f"({run.result['removed_share']:.1%}) match | {run.result['removed_quality_loss']:.1%} |" in first
    main.main()
    assert capsys.readouterr().out == first[first.index("| method") :]


@pytest.mark.slow
def test_a_setting_is_compared_by_its_strength_and_its_stealth(tiny_marks, monkeypatch):
    monkeypatch.setattr(marks, "SAMPLES", 2)
    monkeypatch.setattr(marks, "SAMPLING_STEPS", 2)
    result = experiments.compare(Setting(), 1, minutes=0.001)
    assert result["method"] in experiments.SETTINGS_METHODS
    assert result["published_log10_p"] == result["thief_log10_p"] < result["read_log10_p"] <= 0
    assert result["change"] > 0


def test_the_table_of_settings_has_a_row_for_each(tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    for configuration in main.grid(1, 1.0):
        result = {
            "method": "coupling", "share": 0.51, "read_log10_p": -1.5, "published_log10_p": -3000.0, "thief_log10_p": -900.0,
            "change": 0.0045, "bits": 13504,
        }  # fmt: skip
        store.add(Run(configuration, result, 1.0))
    rows = main.settings_table(store).splitlines()
    assert len(rows) == 2 + len(list(main.grid(1, 1.0))) + 1
    assert "| 0.3 | 0.75 | 800 | 48 | 1 | coupling | 0.510 | -1.5 | -3000 | -900 | 0.0045 |" in rows
