import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.reports.pages import POLICY, as_sentence, ordinal, probability, render
from tests.support.places import PROJECT

TEMPLATES = PROJECT / "aiao_core" / "reports" / "templates"
PAGES = [file.name for file in sorted(TEMPLATES.glob("*.html")) if "<!doctype html>" in file.read_text()]
ENDINGS = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 10: "10th", 11: "11th", 12: "12th", 13: "13th", 20: "20th", 21: "21st"}
ENDINGS |= {22: "22nd", 100: "100th", 101: "101st", 111: "111th", 112: "112th", 113: "113th", 1003: "1003rd", 1011: "1011th"}


@pytest.mark.parametrize(("number", "words"), ENDINGS.items())
def test_an_ordinal(number, words):
    assert ordinal(number) == words


@given(st.integers(0, 10**9))
def test_an_ordinal_is_its_number_and_one_of_four_endings(number):
    assert re.fullmatch(rf"{number}(st|nd|rd|th)", ordinal(number))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("found", "Found."), ("It is. ", "It is. ."), ("it is.", "It is."), ("GPU: no", "GPU: no.")],
)
def test_a_sentence_has_a_capital_and_one_full_stop(text, sentence):
    assert as_sentence(text) == sentence


@given(st.floats(-20_000, 0))
def test_a_probability_in_words_is_the_figure(log10_p):
    words = str(probability(log10_p))
    if found := re.fullmatch(r"1 in 10<sup>([\d.]+)</sup>", words):
        assert float(found[1]) == pytest.approx(-log10_p, abs=0.51 if log10_p <= -20 else 0.051)
    else:
        assert log10_p > -4
        assert float(words) == pytest.approx(10**log10_p, rel=0.06)


def test_a_template_without_a_value_is_an_error_and_no_empty_page():
    with pytest.raises(Exception, match="report"):
        render("report.html")


@pytest.mark.parametrize("template", PAGES)
def test_a_saved_page_forbids_itself_to_run_or_load_anything(template):
    head = (TEMPLATES / template).read_text().partition("</head>")[0]
    assert head.index("{{ policy }}") < head.index("<style>")
    assert "default-src 'none'" in POLICY
    assert "base-uri 'none'" in POLICY
    assert "script-src" not in POLICY
