"""What a caller sees who neither owns nor holds the key: nothing from which the key's signs could be put together."""

import html
import json
import re
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.errors import InvalidReport
from aiao_core.protocol import LIMIT_LOG10_P, STRONGEST_LOG10_P
from aiao_core.reports.parts import BitTest, Interval, LayerResult, SubpathResult
from aiao_core.reports.summary import Summary, read_report
from aiao_core.reports.verdicts import Verdict
from aiao_core.reports.verification import Counts, Report
from aiao_core.reports.verification_page import summary_to_html, to_html
from aiao_core.reports.words import OLD_KEY
from tests.support.places import GOLDEN

REPORTS = {version: Report.from_json((GOLDEN / f"report-v{version}.json").read_bytes()) for version in range(1, 8)}
every_version = pytest.mark.parametrize("version", REPORTS)

tests = st.integers(0, 3000).flatmap(
    lambda bits: st.builds(BitTest.of, st.integers(0, bits), st.just(bits), st.integers(1, 8), st.floats(0, 30))
)
shares = st.floats(0, 1)
rates = st.builds(
    lambda three, draws: Interval(low=three[0], value=three[1], high=three[2], draws=draws),
    st.lists(shares, min_size=3, max_size=3).map(sorted),
    st.integers(1, 1000),
)
FIGURES: dict[str, Any] = {
    "layers": st.lists(
        st.builds(LayerResult, name=st.just("a"), matches=st.integers(0, 9), bits=st.integers(9, 99)), max_size=3
    ),
    "trigger_layers": st.integers(1, 500),
    "strayed_channels": st.none() | st.integers(0, 10_000),
    "ways": st.none(),
    "verified_subpaths": st.none(),
    "readings": st.none(),
    "triggered_alone": tests,
    "untriggered": tests,
    "vs_rate": rates,
    "rs_rate": rates,
    "tau": st.floats(0.51, 1),
    "decoys": st.lists(tests, max_size=9).map(tuple),
    "source_test": st.none() | tests,
    "base_test": st.none() | tests,
    "panel": st.none() | st.lists(tests, max_size=3).map(tuple),
    "subpaths": st.lists(
        st.builds(SubpathResult, trigger=st.just(0), response=st.just(1), draws=st.just(1), rs=shares, vs=shares), max_size=2
    ),
    "seed": st.integers(0, 2**48),
    "draws": st.integers(1, 1000),
    "source_weights": st.none() | st.just("sha256:" + "e" * 64),
}
"""Of a report: all that depends on the key's signs, or that a test of theirs would need."""


@pytest.mark.slow
@every_version
@given(data=st.data(), changes=st.fixed_dictionaries(FIGURES))
def test_of_two_reports_with_the_same_verdict_and_coarse_bound_the_summaries_are_the_same(version, data, changes):
    """Whatever the figures are. So no number of suspects tells more than their verdicts and bounds do."""
    report = REPORTS[version]
    bits = data.draw(st.integers(300, 2000))
    test = BitTest.of(data.draw(st.integers(bits - 20, bits)), bits)  # of the same coarse bound as the golden one
    assert test.log10_p < STRONGEST_LOG10_P
    other = report.model_copy(update={**changes, "test": test, "bound_log10_p": STRONGEST_LOG10_P})
    first, second = Summary.of(report), Summary.of(other)
    assert second == first
    assert second.to_json() == first.to_json()
    assert summary_to_html(second) == summary_to_html(first)


def numbers(value: Any) -> list[float]:
    """Every number in a JSON value, at any depth."""
    if isinstance(value, dict | list):
        return [number for each in (value.values() if isinstance(value, dict) else value) for number in numbers(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@every_version
def test_no_exact_figure_of_the_report_is_in_its_summary(version):
    report = REPORTS[version]
    document, summary = json.loads(report.to_json()), json.loads(Summary.of(report).to_json())
    told = {"version": 2, "report_version": version, "max_log10_p": report.max_log10_p, "bound_log10_p": STRONGEST_LOG10_P}
    counts = [7, 3] if version >= 6 else []
    if report.key_version:
        told["key_version"] = report.key_version
    assert sorted(numbers(summary)) == sorted([*told.values(), *counts])
    public = {"version", "key_version", "max_log10_p", "bound_log10_p", "tests", "protocol"}
    private = {number for name, value in document.items() if name not in public for number in numbers(value)}
    private = {number for number in private if number != int(number) or number > 9}  # a digit is no secret
    assert len(private) > 50
    assert private.isdisjoint(numbers(summary))
    page = re.sub(r"<style>.*?</style>|<[^>]+>|[0-9a-f]{64}", " ", summary_to_html(Summary.of(report)), flags=re.DOTALL)
    for version_of_software in report.software.values():
        page = page.replace(version_of_software, "")
    shown = set(re.findall(r"\d+(?:\.\d+)?", page)) - {"2026"}
    exact = {f"{abs(number):.{digits}f}" for number in private for digits in range(4) if digits or abs(number) > 60}
    percent = {f"{100 * number:.{digits}f}" for number in private if 0 < number < 1 for digits in (1, 2)}
    assert shown.isdisjoint(exact | percent)


@every_version
def test_a_summary_is_read_again_and_told_from_a_report(version):
    report = REPORTS[version]
    summary = Summary.of(report)
    assert summary.report_version == version
    for text in (summary.to_json(), summary.to_json().encode()):
        assert Summary.from_json(text) == summary
        assert read_report(text) == summary
    assert read_report(report.to_json()) == read_report(report.to_json().encode()) == report
    with pytest.raises(InvalidReport, match="this report is damaged"):
        Report.from_json(summary.to_json())
    with pytest.raises(InvalidReport, match="this summary of a report is damaged"):
        Summary.from_json(report.to_json())


@given(st.text(max_size=100) | st.binary(max_size=100))
def test_any_text_is_a_report_a_summary_or_an_invalid_one(text):
    with pytest.raises(InvalidReport):
        read_report(text)


def summary_of(verdict: Verdict, test: BitTest, **changes: Any) -> Summary:
    reason = "for a reason" if verdict in ("invalid", "exploratory") else None
    return Summary.of(REPORTS[6].model_copy(update={"verdict": verdict, "reason": reason, "test": test, **changes}))


@pytest.mark.parametrize("verdict", get_args(Verdict))
@pytest.mark.parametrize(
    ("matches", "bound"), [(150, None), (200, None), (235, LIMIT_LOG10_P), (290, STRONGEST_LOG10_P)], ids=str
)
def test_a_bound_is_told_of_a_match_alone_and_coarsely(verdict, matches, bound):
    test = BitTest.of(matches, 300)
    summary = summary_of(verdict, test)
    told = bound if verdict in ("match", "base-marked") else None
    assert summary.bound_log10_p == told
    page = " ".join(summary_to_html(summary).split())
    assert ("answers as well by chance with a probability of at most" in page) == (told is not None)
    if told:
        assert f"of at most <b>1 in 10<sup>{round(-told, 1 if told > -20 else 0):g}</sup></b>" in page
    assert ("A match is compatible with each of these" in page) == (verdict == "match")


def test_the_pages_say_in_which_test_of_how_many_this_was():
    report = REPORTS[6].model_copy(update={"tests": Counts(with_key=1, of_file=2)})
    sentence = "The 1st test with this key, and the 2nd of these weights by this tenant."
    assert sentence in summary_to_html(Summary.of(report))
    page = " ".join(to_html(report).split())
    assert sentence in page
    assert "The probability times the 2 tests with the key or of the weights is at most" in page
    assert "times the" not in summary_to_html(Summary.of(report))
    offline = report.model_copy(update={"tests": None})
    assert "Made offline, where nobody counts" in to_html(offline)
    assert offline.corrected_log10_p == offline.claimed_log10_p


def test_the_notice_of_a_verdict_from_before_the_rules_is_on_its_summary_too():
    for version, report in REPORTS.items():
        page = summary_to_html(Summary.of(report))
        assert ("This verdict is from before the rules of today." in page) == (version <= 5)


@pytest.mark.parametrize(("key_version", "named"), [(None, "1 or 2"), (1, "1"), (2, "2"), (3, None)])
def test_the_notice_of_an_older_key_is_on_its_summary_too(key_version, named):
    report = REPORTS[6].model_copy(update={"version": 7, "key_version": key_version})
    page = " ".join(html.unescape(summary_to_html(Summary.of(report))).split())
    assert (f"<strong>The key is of version {named}.</strong> {OLD_KEY}" in page) == (named is not None)
    assert (OLD_KEY in page) == (named is not None)
    assert json.loads(Summary.of(report).to_json()).get("key_version") == key_version


def test_a_hostile_name_is_text_and_nothing_else_in_a_summary_too():
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    changes = dict.fromkeys(("suspect_name", "model_name", "base_name", "suspect_form"), evil)
    for verdict in get_args(Verdict):
        page = summary_to_html(summary_of(verdict, BitTest.of(290, 300), tested="adapter", **changes))
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;script&gt;" in page


def test_a_summary_has_no_field_of_the_report_but_those_that_anybody_may_know():
    assert set(Summary.model_fields) - {"report_version"} <= set(Report.model_fields)
    assert set(Report.model_fields) - set(Summary.model_fields) == set(FIGURES) | {"test", "registration", "protocol"}
    assert Summary.of(REPORTS[6]).created_at == datetime(2026, 11, 27, 12, tzinfo=UTC)
