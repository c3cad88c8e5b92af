import re
from typing import NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.verdicts import Tested, Verdict
from aiao_core.reports.words import ALTERNATIVES, MEANING, WORDS, before_the_rules, headline, sentence, subject

VERDICTS, TESTED = get_args(Verdict), get_args(Tested)


class Told(NamedTuple):
    verdict: Verdict
    tested: Tested | None = "checkpoint"
    suspect_name: str = "suspect.zip"
    base_name: str | None = "base.zip"
    reason: str | None = None


def told(verdict: Verdict, tested: Tested | None = "checkpoint") -> Told:
    return Told(verdict, tested, reason="the reason" if verdict in ("invalid", "exploratory") else None)


EVERY = [told(verdict, tested) for verdict in VERDICTS for tested in (*TESTED, None)]

ACCUSING = re.compile(
    r"descend|stole|steal|thief|theft|copied|copy|derive|plagiar|infring|owner of|belongs to|guilt", re.IGNORECASE
)


def test_every_verdict_has_words_and_no_two_the_same():
    assert set(WORDS) == set(VERDICTS)
    assert len(set(WORDS.values())) == len(VERDICTS)
    assert all(word == word.upper() for word in WORDS.values())
    for each in EVERY:
        assert headline(each).endswith(".")
        assert sentence(each)
    for tested in TESTED:
        assert len({headline(told(verdict, tested)) for verdict in VERDICTS}) == len(VERDICTS)
        assert len({sentence(told(verdict, tested)) for verdict in VERDICTS}) == len(VERDICTS)


@pytest.mark.parametrize("each", EVERY, ids=lambda each: f"{each.verdict}, {each.tested}")
def test_no_verdict_says_what_the_p_value_does_not_bound(each):
    """It bounds neither descent nor theft."""
    for text in (WORDS[each.verdict], headline(each), sentence(each)):
        assert not ACCUSING.search(text)


@pytest.mark.parametrize("tested", ["checkpoint", "adapter", None])
def test_a_match_says_that_the_suspect_answers_with_the_key(tested):
    assert "answers with the owner's key" in headline(told("match", tested))
    assert sentence(told("match", tested)) == f"{subject(told('match', tested))} answers with the owner's key"


@pytest.mark.parametrize("verdict", [verdict for verdict in VERDICTS if verdict != "match"])
def test_nothing_but_a_match_says_that(verdict):
    for tested in TESTED:
        assert "answers with the owner's key" not in headline(told(verdict, tested)) + sentence(told(verdict, tested))


def test_what_was_tested_is_named():
    assert subject(told("match")) == subject(told("match", None)) == "suspect.zip"
    assert subject(told("match", "adapter")) == "the adapter suspect.zip on its base base.zip"
    assert subject(told("base-marked", "base")) == "the base base.zip of the adapter suspect.zip"
    for each in EVERY:
        assert subject(each) in sentence(each)


def test_of_a_marked_base_nothing_is_said_of_the_adapter():
    each = told("base-marked", "base")
    assert headline(each) == "The base carries the mark. Nothing is said of the adapter."
    assert sentence(each) == "the base base.zip of the adapter suspect.zip carries the mark; nothing is said of the adapter"


@pytest.mark.parametrize("verdict", ["invalid", "exploratory"])
def test_what_is_no_verdict_says_so_and_why(verdict):
    assert "the reason" in sentence(told(verdict))
    assert re.search("proves nothing either way|not a verdict", headline(told(verdict)))
    assert re.search("proves nothing either way|did not keep the rules of a verdict", sentence(told(verdict)))


def test_a_match_has_one_meaning_and_several_explanations():
    assert "knowledge of the key or of the marked weights" in MEANING
    assert "not the probability that somebody copied" in MEANING
    assert "does not say who did" in MEANING
    for word in ("descend", "distilled", "disclosed", "planted", "claimant prepared"):
        assert any(word in each for each in ALTERNATIVES)


@given(st.floats(-10_000, -1e-9), st.floats(-20_000, 0))
def test_a_report_from_before_the_rules_says_what_it_did_not_check(limit, log10_p):
    verdict = "match" if log10_p <= limit else "no-match"
    notices = before_the_rules(limit, log10_p, verdict)
    assert len(notices) == len(set(notices)) >= 4
    assert all(notice.endswith(".") for notice in notices)
    assert ("With today's limit it would not be a match." in notices) == (verdict == "match" and log10_p > LIMIT_LOG10_P)
    assert any("a verdict needs -19.3 (2^-64) or less" in notice for notice in notices) == (limit > LIMIT_LOG10_P)
    for part in ("limit, its seed and its draws", "controls did not decide", "adapter without a named base", "not counted"):
        assert any(part in notice for notice in notices)
