import json
import math
import re
from importlib.metadata import PackageNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core import __version__
from aiao_core.errors import InvalidReport
from aiao_core.protocol import LIMIT_LOG10_P, STRONGEST_LOG10_P, verification_seed
from aiao_core.reports.pages import probability
from aiao_core.reports.parts import BitTest, Input, software
from aiao_core.reports.summary import Summary, read_report
from aiao_core.reports.verification import Report
from aiao_core.reports.verification_page import summary_to_html, to_html
from aiao_core.statistics import log10_binomial_tail
from tests.support.places import GOLDEN


@pytest.fixture
def report() -> Report:
    return Report.from_json((GOLDEN / "report-v1.json").read_bytes())


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_golden_reports_of_every_version_are_read(version):
    text = (GOLDEN / f"report-v{version}.json").read_text()
    report = Report.from_json(text)
    assert report.verdict == "match"
    assert report.strayed_channels == {1: None, 2: 128}.get(version, 0)
    assert report.to_json() == text
    page = to_html(report)
    assert ("This report is from before the rules of a verdict." in page) == (version < 6)
    assert ("Its limit was log10 p -9" in page) == (version < 6)
    assert ("triggered minus untriggered answer" in page) == (version < 3)
    assert ("the clearest half" in page) == (3 <= version <= 6)
    assert ("answers to any trigger" in page) == (version >= 4)
    assert ("of the bits must be right" in page) == (version == 7)
    assert (f"is multiplied by {report.test.best_of}." in page) == (version >= 5)
    assert ("can be read out of the published weights, in a minute" in page) == (version <= 6)
    assert (
        ("Subpaths that verify alone" in page) == ("answer to the owner's triggers minus the source" in page) == (version == 7)
    )
    # Whatever the score: no more is claimed than the derivation of the signs can bear.
    assert report.test.log10_p < STRONGEST_LOG10_P
    said = f"<b>{probability(STRONGEST_LOG10_P)}</b>"
    assert f"by chance with a probability of at most {said}" in " ".join(page.split())
    assert str(probability(report.test.log10_p)) not in page


def test_the_base_of_an_adapter_is_one_of_the_inputs(report):
    base = Input(role="base", name="base.zip", sha256="0" * 64)
    written = report.model_copy(update={"inputs": (*report.inputs, base)}).to_json()
    assert Report.from_json(written).inputs[-1] == base
    assert "base: base.zip" in to_html(Report.from_json(written))


@pytest.mark.parametrize(
    "change",
    [
        "verdict", "matches", "log10_p", "version", "format", "unknown field", "missing field", "nan", "decoy", "layers",
        "a reading", "one reading of two", "no readings", "an older version", "a newer version",
        "a field of a newer version", "a null in a field of a newer version", "a word of a newer version",
        "a charge of a newer version", "a choice of a newer version",
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
            document["version"] = 8
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
        case "a newer version":
            document["version"] = 6
        case "a field of a newer version":
            document["suspect_weights"] = "sha256:0"
        case "a null in a field of a newer version":
            document["tested"] = None
        case "a word of a newer version":
            document["verdict"] = "exploratory"
        case "a charge of a newer version":
            test = document["decoys"][0]
            document["decoys"][0] = dumped(BitTest.of(test["matches"], test["bits"], 2, 3.0))
        case "a choice of a newer version":
            test = document["decoys"][0]
            document["decoys"][0] = dumped(BitTest.of(test["matches"], test["bits"], 8))
    with pytest.raises(InvalidReport):
        Report.from_json(json.dumps(document))


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_test_from_before_there_were_several_readings_is_the_best_of_one(version):
    document = json.loads((GOLDEN / f"report-v{version}.json").read_bytes())
    document["test"] = dumped(BitTest.of(document["test"]["matches"], document["test"]["bits"], 2))
    with pytest.raises(InvalidReport):
        Report.from_json(json.dumps(document))


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_the_page_of_a_report_from_before_the_rules_says_what_it_did_not_check(version):
    """Each of the roads by which an innocent could be accused then."""
    page = " ".join(to_html(Report.from_json((GOLDEN / f"report-v{version}.json").read_bytes())).split())
    notice = page[page.index("This report is from before the rules of a verdict.") :].partition("</section>")[0]
    for part in (
        "seed and its draws",
        "controls did not decide",
        "own marked model",
        "were not checked",
        "Test the suspect again",
    ):
        assert part in notice
    assert "aiao verify --offline --key KEYFILE --seed" in page


@pytest.mark.parametrize(
    "change",
    [
        "key_version", "an older key", "verified_subpaths", "a subpath's test", "no subpath's test", "a tested source",
        "a reading less", "all subpaths", "does not count", "protocol", "draws", "an older report",
    ],
)  # fmt: skip
def test_an_altered_report_of_a_bound_key_is_refused(change):
    document = json.loads((GOLDEN / "report-v7.json").read_bytes())
    match change:
        case "key_version":
            del document["key_version"]
        case "an older key":
            document["key_version"] = 2
        case "verified_subpaths":
            document["verified_subpaths"] += 1
        case "a subpath's test":
            next(path for path in document["subpaths"] if path["log10_p"] > -3)["log10_p"] = -3.5
        case "no subpath's test":
            del document["subpaths"][0]["log10_p"]
        case "a tested source":
            document["source_test"] = dumped(BitTest.of(5, 10))
        case "a reading less":
            del document["ways"][-1]
        case "all subpaths":
            document["ways"][-1]["subpaths"] = "all"
        case "does not count":
            document["ways"][-1]["counts"] = False
        case "protocol":
            document["protocol"] = 2
        case "draws":
            document["draws"] = 100
        case "an older report":
            document["version"] = 6
    with pytest.raises(InvalidReport):
        Report.from_json(json.dumps(document))


def test_the_page_of_a_test_without_the_source_says_what_was_lost():
    document = json.loads((GOLDEN / "report-v7.json").read_bytes())
    decided = dumped(BitTest.of(document["test"]["matches"], document["test"]["bits"]))
    assert "many of its bits are lost" not in to_html(Report.from_json(json.dumps(document)))
    document["ways"] = [way | {"aligned": False} for way in document["ways"] if way["test"] == decided or not way["counts"]][
        -2:
    ]
    del document["source_weights"], document["strayed_channels"]
    for test in (document["test"], *document["decoys"]):
        test |= dumped(BitTest.of(test["matches"], test["bits"]))
        test.pop("best_of", None)
    document["bound_log10_p"] = STRONGEST_LOG10_P
    document["seed"] = verification_seed(document["commitment"], None, document["suspect_weights"])
    page = to_html(Report.from_json(json.dumps(document)))
    assert "many of its bits are lost" in page
    assert "minus answer to other keys" in page


def dumped(test: BitTest) -> dict:
    return json.loads(test.model_dump_json())


def ruled() -> dict:
    """The golden report of today's rules: a match by the service."""
    return json.loads((GOLDEN / "report-v6.json").read_bytes())


def key_file(document: dict) -> dict:
    """The same test as one with a key file, with which fewer readings count."""
    for way in document["ways"]:
        way["counts"] = way["subpaths"] == "all" and not way["aligned"]
    return document | {"registration": "key-file"}


def with_key_file(document: dict, log10_choices: float = 0) -> dict:
    """That test as a key file's report has it: of the best reading that counts, with the choice of layers charged."""
    document = key_file(document)
    best = min((way["test"] for way in document["ways"] if way["counts"]), key=lambda test: test["log10_p"])
    test = BitTest.of(best["matches"], best["bits"], 2, log10_choices)
    layers = [{"name": "a", "matches": test.matches, "bits": test.bits}]
    return document | {"test": dumped(test), "bound_log10_p": max(test.log10_p, STRONGEST_LOG10_P), "layers": layers}


def explored(document: dict, **changes: object) -> dict:
    """An exploration with the same numbers: of few draws, with a seed of choice."""
    return document | {"verdict": "exploratory", "reason": "draws", "draws": 10, "seed": 7, "decoys": []} | changes


def without_source(document: dict, aligned: bool = False) -> dict:
    """The same numbers as those of a test without the source: fewer readings, by another seed."""
    ways = [way for way in document["ways"] if way["aligned"] == aligned]
    best = min((way["test"] for way in ways), key=lambda test: test["log10_p"])
    test = BitTest.of(best["matches"], best["bits"], 4)
    document = {name: value for name, value in document.items() if name not in ("source_weights", "source_test")}
    return document | {
        "ways": ways,
        "test": dumped(test),
        "bound_log10_p": max(test.log10_p, STRONGEST_LOG10_P),
        "layers": [{"name": "a", "matches": test.matches, "bits": test.bits}],
        "seed": verification_seed(document["commitment"], None, document["suspect_weights"], 2),
    }


TAMPERED = {
    "the verdict": lambda d: d | {"verdict": "no-match"},
    "a match that is one no more": lambda d: d | {"max_log10_p": -1000.0},
    "a laxer limit": lambda d: d | {"max_log10_p": -9.0},
    "fewer draws": lambda d: d | {"draws": 10},
    "another share": lambda d: d | {"tau": 0.6},
    "another seed": lambda d: d | {"seed": d["seed"] + 1},
    "another protocol": lambda d: d | {"protocol": 1},
    "fewer decoys": lambda d: d | {"decoys": d["decoys"][:7]},
    "no decoys": lambda d: d | {"decoys": []},
    "other weights": lambda d: d | {"suspect_weights": "sha256:" + "0" * 64},
    "another source": lambda d: d | {"source_weights": "sha256:" + "0" * 64},
    "another key": lambda d: d | {"commitment": "sha256:" + "0" * 64},
    "a stronger claim": lambda d: d | {"bound_log10_p": d["test"]["log10_p"]},
    "no claim": lambda d: {name: value for name, value in d.items() if name != "bound_log10_p"},
    "no readings": lambda d: d | {"ways": []},
    "a reading less": lambda d: d | {"ways": d["ways"][1:]},
    "a reading twice": lambda d: d | {"ways": [*d["ways"][:7], d["ways"][0]]},
    "a reading that counts for less": lambda d: d | {"ways": [d["ways"][0] | {"counts": False}, *d["ways"][1:]]},
    "fewer readings to choose from": lambda d: d | {"test": dumped(BitTest.of(d["test"]["matches"], d["test"]["bits"], 4))},
    "a worse reading": lambda d: d | {"test": dumped(BitTest.of(d["test"]["matches"] - 1, d["test"]["bits"], 8))},
    "a choice of layers that is not charged": lambda d: key_file(d),
    "no test of the source": lambda d: {name: value for name, value in d.items() if name != "source_test"},
    "a source that carries the mark": lambda d: d | {"source_test": d["test"]},
    "a decoy that matches": lambda d: d | {"decoys": [d["test"], *d["decoys"][1:]]},
    "a reason without need": lambda d: d | {"reason": "none"},
    "invalid without a reason": lambda d: d | {"verdict": "invalid"},
    "an adapter without the test of its base": lambda d: d | {"tested": "adapter", "base_name": "base.zip"},
    "an adapter on a base that carries the mark": lambda d: d | {
        "tested": "adapter", "base_name": "base.zip", "base_test": d["test"]
    },
    "a base as a match": lambda d: d | {"tested": "base", "base_name": "base.zip"},
    "a base without a name": lambda d: d | {"tested": "base", "verdict": "base-marked"},
    "a checkpoint with a base": lambda d: d | {"base_name": "base.zip"},
    "a rate outside of its interval": lambda d: d | {"rs_rate": d["rs_rate"] | {"value": d["rs_rate"]["low"] - 0.01}},
    "nothing that was tested": lambda d: {name: value for name, value in d.items() if name != "tested"},
    "no registration": lambda d: {name: value for name, value in d.items() if name != "registration"},
    "an exploration as a match": lambda d: explored(d, verdict="match"),
    "an exploration as a match, its reason taken out": lambda d: {
        name: value for name, value in explored(d, verdict="match").items() if name != "reason"
    },
    "an exploration by a lax limit alone as a match": lambda d: explored(d) | {
        name: d[name] for name in ("verdict", "draws", "seed", "decoys")
    } | {"max_log10_p": -9.0},
    "an exploration that does not say why": lambda d: explored(d, reason=None),
    "a match as an exploration": lambda d: d | {"verdict": "exploratory", "reason": "none"},
    "a match as invalid": lambda d: d | {"verdict": "invalid", "reason": "none"},
    "a match of a checkpoint as that of a base": lambda d: d | {"verdict": "base-marked"},
    "a charge for layers that the service chose": lambda d: d | {
        "test": dumped(BitTest.of(d["test"]["matches"], d["test"]["bits"], 8, 3.0)),
        "bound_log10_p": STRONGEST_LOG10_P,
    },
    "a charge for layers without its effect": lambda d: d | {"test": d["test"] | {"log10_choices": 3.0}},
    "a charge for layers taken back": lambda d: (
        lambda k: k | {"test": {name: value for name, value in k["test"].items() if name != "log10_choices"}}
    )(with_key_file(d, 3.0)),
    "readings that count with the service alone": lambda d: d | {"registration": "key-file"},
    "an aligned reading that counts with a key file": lambda d: (
        lambda k: k | {"ways": [way | {"counts": way["counts"] or way["aligned"]} for way in k["ways"]]}
    )(with_key_file(d)),
    "registered subpaths that count with a key file": lambda d: (
        lambda k: k | {"ways": [way | {"counts": not way["aligned"]} for way in k["ways"]]}
    )(with_key_file(d)),
    "a key file's test with the best of all readings": lambda d: key_file(d) | {
        "test": dumped(BitTest.of(d["test"]["matches"], d["test"]["bits"], 2))
    },
    "aligned readings without a source": lambda d: without_source(d, aligned=True),
    "readings of a source that was not there": lambda d: without_source(d) | {"ways": d["ways"]},
    "a source that was not tested": lambda d: without_source(d) | {"source_weights": d["source_weights"], "seed": d["seed"]},
    "the version before": lambda d: d | {"version": 5},
    "a count of nothing": lambda d: d | {"tests": {"with_key": 0, "of_file": 1}},
}  # fmt: skip


@pytest.mark.parametrize("change", TAMPERED)
def test_a_report_that_claims_what_its_numbers_do_not_give_is_refused(change):
    with pytest.raises(InvalidReport):
        Report.from_json(json.dumps(TAMPERED[change](ruled())))


def test_what_the_same_numbers_do_give_is_read():
    """Each of these differs in one claim from a report that is refused above."""
    stricter = ruled() | {"max_log10_p": -30.0}
    strict = ruled() | {"max_log10_p": -1000.0, "verdict": "no-match"}
    marked = ruled() | {"tested": "base", "verdict": "base-marked", "base_name": "base.zip"}
    void = ruled() | {"source_test": ruled()["test"], "verdict": "invalid", "reason": "in other words than today's"}
    lax = ruled() | {"verdict": "exploratory", "reason": "max_log10_p", "max_log10_p": -9.0}
    files = [with_key_file(ruled()), with_key_file(ruled(), 3.0), without_source(ruled())]
    for document in (stricter, strict, marked, void, lax, explored(ruled()), *files):
        report = Report.from_json(json.dumps(document))
        assert json.loads(report.to_json()) == document
        assert to_html(report)
        assert report.ruled == (report.verdict != "exploratory")


@given(st.floats(-400, -1e-6), st.sampled_from(["match", "no-match", "base-marked", "invalid", "exploratory"]))
def test_no_limit_and_no_word_make_a_match_of_what_is_above_the_limit(limit, verdict):
    document = ruled()
    test = BitTest.of(130, document["test"]["bits"], 8)
    assert test.log10_p > LIMIT_LOG10_P
    document |= {"max_log10_p": limit, "verdict": verdict, "test": dumped(test), "bound_log10_p": test.log10_p}
    document["ways"] = [way | {"test": dumped(BitTest.of(130, test.bits))} for way in document["ways"]]
    document["layers"] = [{"name": "a", "matches": 130, "bits": test.bits}]
    if verdict == "no-match" and limit <= LIMIT_LOG10_P:
        assert Report.from_json(json.dumps(document)).verdict == "no-match"
    elif verdict != "exploratory":
        with pytest.raises(InvalidReport):
            Report.from_json(json.dumps(document))


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_a_summary_holds_no_figure_of_the_report(version):
    report = Report.from_json((GOLDEN / f"report-v{version}.json").read_bytes())
    summary = Summary.of(report)
    assert read_report(summary.to_json()) == summary
    assert read_report(report.to_json()) == report
    assert summary.bound_log10_p == STRONGEST_LOG10_P
    figures = {f"{report.test.log10_p:.1f}", f"{report.test.matches}", f"{report.test.bits}", f"{report.rs_rate.value:.3f}"}
    for text in (summary.to_json(), summary_to_html(summary)):
        assert not [each for each in figures if re.search(rf"(?<![\d.]){re.escape(each)}(?!\d)", text)]
        assert report.suspect_name in text


@pytest.mark.parametrize(("version", "added"), [(1, {}), (2, {"version": 7, "key_version": 2})])
def test_the_golden_summaries_are_read(version, added):
    text = (GOLDEN / f"report-summary-v{version}.json").read_text()
    assert Summary.from_json(text).to_json() == text
    report = Report.from_json((GOLDEN / "report-v6.json").read_bytes()).model_copy(update=added)
    assert Summary.from_json(text) == Summary.of(report).model_copy(update={"version": version})


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
    assert "The suspect answers with the owner&#39;s key." in page
    assert f"log10 of the ideal binomial {report.test.log10_p:.2f}" in page
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
    assert ("answers with the owner" in page) == (verdict == "match")
    assert "nan" not in page


def test_a_report_made_from_a_plain_checkout_names_its_version(monkeypatch):
    """As on a machine where the package is not installed, and its code lies beside."""

    def version(name: str) -> str:
        if name == "aiao":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("aiao_core.reports.parts.version", version)
    assert software() == {"aiao": __version__, "torch": "1", "diffusers": "1", "numpy": "1"}
