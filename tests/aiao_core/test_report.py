import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.errors import InvalidReport
from aiao_core.pages import probability
from aiao_core.report import BitTest, Input, Report
from aiao_core.report_html import to_html
from aiao_core.statistics import log10_binomial_tail

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def report() -> Report:
    return Report.from_json((GOLDEN / "report-v1.json").read_bytes())


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_golden_reports_of_every_version_are_read(version):
    text = (GOLDEN / f"report-v{version}.json").read_text()
    report = Report.from_json(text)
    assert report.verdict == "match"
    assert report.strayed_channels == {1: None, 2: 128}.get(version, 0)
    assert report.to_json() == text
    page = to_html(report)
    assert ("triggered minus untriggered answer" in page) == (version < 3)
    assert ("the clearest half" in page) == (version >= 3)
    assert ("answers to any trigger" in page) == (version >= 4)
    assert ("is doubled" in page) == (version >= 5)
    said = f"{'at most ' if version >= 5 else ''}<b>{probability(report.test.log10_p)}</b>"
    assert f"with a probability of {said}" in " ".join(page.split())


def test_the_base_of_an_adapter_is_one_of_the_inputs(report):
    base = Input(role="base", name="base.zip", sha256="0" * 64)
    written = report.model_copy(update={"inputs": (*report.inputs, base)}).to_json()
    assert Report.from_json(written).inputs[-1] == base
    assert "base: base.zip" in to_html(Report.from_json(written))


@pytest.mark.parametrize(
    "change",
    [
        "verdict", "matches", "log10_p", "version", "format", "unknown field", "missing field", "nan", "decoy", "layers",
        "a reading", "one reading of two", "no readings", "an older version",
    ],
)  # fmt: skip
def test_an_altered_report_is_refused(change):
    document = json.loads((GOLDEN / "report-v5.json").read_bytes())
    match change:
        case "verdict":
            document["verdict"] = "no-match"
        case "matches":
            document["test"]["matches"] += 1
        case "log10_p":
            document["test"]["log10_p"] -= 1
        case "version":
            document["version"] = 6
        case "format":
            document["format"] = "other"
        case "unknown field":
            document["note"] = "hello"
        case "missing field":
            del document["seed"]
        case "nan":
            document["tau"] = float("nan")
        case "decoy":
            document["decoys"][0]["log10_p"] = -80.0
        case "layers":
            document["layers"] = document["layers"][1:]
        case "a reading":
            document["readings"] = dict.fromkeys(document["readings"], json.loads(BitTest.of(9, 10).model_dump_json()))
        case "one reading of two":
            document["test"] = json.loads(BitTest.of(document["test"]["matches"], document["test"]["bits"]).model_dump_json())
        case "no readings":
            del document["readings"]
        case "an older version":
            document["version"] = 4
    with pytest.raises(InvalidReport):
        Report.from_json(json.dumps(document))


@given(st.text(max_size=200) | st.binary(max_size=200) | st.just("[" * 100_000))
def test_any_text_is_a_report_or_an_invalid_one(text):
    with pytest.raises(InvalidReport):
        Report.from_json(text)


@given(st.integers(1, 3000), st.data())
def test_a_bit_test_says_its_exact_probability(bits, data):
    matches = data.draw(st.integers(0, bits))
    test = BitTest.of(matches, bits)
    assert test.log10_p == log10_binomial_tail(matches, bits)
    assert BitTest.of(matches, bits, best_of=2).log10_p == pytest.approx(min(0, test.log10_p + math.log10(2)))
    with pytest.raises(ValueError, match="does not follow"):
        BitTest(matches=matches, bits=bits, log10_p=test.log10_p - 0.01)


@pytest.mark.parametrize(
    ("log10_p", "words"),
    [
        (-0.27, "0.54"),
        (-6.02, "1 in 10<sup>6</sup>"),
        (0.0, "1"),
        (-180.6, "1 in 10<sup>181</sup>"),
        (-9.5, "1 in 10<sup>9.5</sup>"),
    ],
)
def test_a_probability_in_words(log10_p, words):
    assert probability(log10_p) == words


def test_the_page_is_self_contained_and_says_the_verdict(report):
    page = to_html(report)
    assert "The suspect carries the owner&#39;s watermark" in page or "The suspect carries the owner's watermark" in page
    assert f"log10 p = {report.test.log10_p:.2f}" in page
    assert page.count("<svg") == 3
    assert "<script" not in page
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in page
    assert all(entry.sha256 in page for entry in report.inputs)


def test_a_hostile_name_is_text_and_nothing_else(report):
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    page = to_html(report.model_copy(update={"suspect_name": evil, "model_name": evil}))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


@given(
    st.integers(1, 2000).flatmap(lambda bits: st.tuples(st.integers(0, bits), st.just(bits))),
    st.lists(st.integers(0, 400), max_size=40),
)
def test_a_page_for_any_outcome(test, decoys):
    report = Report.from_json((GOLDEN / "report-v1.json").read_bytes())
    decided = BitTest.of(*test)
    verdict = "match" if decided.log10_p <= report.max_log10_p else "no-match"
    changed = report.model_copy(
        update={
            "test": decided,
            "verdict": verdict,
            "decoys": tuple(BitTest.of(matches, 400) for matches in decoys),
            "subpaths": report.subpaths if decoys else (),
        }
    )
    page = to_html(changed)
    assert ("carries the owner" in page) == (verdict == "match")
    assert "nan" not in page
