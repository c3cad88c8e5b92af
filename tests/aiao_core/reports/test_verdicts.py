from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.protocol import CONTROL_LOG10_P, LEAST_SHARE, LIMIT_LOG10_P, OLD_KEYS_VERSION
from aiao_core.reports.parts import BitTest
from aiao_core.reports.verdicts import Controls, Tested, decide, finds

NOTHING, SOMETHING, HALF_FOUND, FOUND = (BitTest.of(matches, 300) for matches in (150, 185, 200, 290))
"""What chance gives; what it hardly gives; less than a match and too much of a control; a match."""

FORGEABLE, CLEAR = BitTest.of(2499, 4000), BitTest.of(2500, 4000)
"""Far beyond chance, with less and with as much as 5/8 of the bits."""

SOURCE = "the owner's key is found in the source, which must not carry the mark: the source is the marked model, or the key was"
BASE = "the owner's key is found in the base alone: what base and adapter show together cannot be put down to the adapter"
DECOYS = "keys that nobody embedded are found in the suspect too: the test does not measure what it must"
WEAK = (
    "the owner's key is found by more than chance, but so weakly that somebody could have read as much out of the published "
    "weights and planted it: this does not tell a derivative from a forgery"
)
HALF_A_BASE = "the base alone shows too much of the mark to test an adapter on it, and too little for a match"

tests = st.integers(0, 400).flatmap(
    lambda bits: st.builds(BitTest.of, st.integers(0, bits), st.just(bits), st.integers(1, 8), st.floats(0, 30))
)
controls = st.builds(
    Controls,
    decoys=st.lists(tests, max_size=8).map(tuple),
    source=st.none() | tests,
    base=st.none() | tests,
)
tested = st.sampled_from(get_args(Tested))
limits = st.floats(-10_000, 0)
finding = st.integers(60, 400).map(lambda bits: BitTest.of(bits, bits))
"""Controls that find a mark."""


def test_the_tests_here_are_what_they_are_called():
    assert NOTHING.log10_p > -1
    assert CONTROL_LOG10_P < SOMETHING.log10_p < -3
    assert LIMIT_LOG10_P < HALF_FOUND.log10_p <= CONTROL_LOG10_P
    assert FOUND.log10_p < -60
    assert [finds(test) for test in (NOTHING, SOMETHING, HALF_FOUND, FOUND)] == [False, False, True, True]


@given(tests)
def test_a_control_finds_a_mark_from_its_own_limit_on(test):
    assert finds(test) == (test.log10_p <= CONTROL_LOG10_P)


def clean(*, decoys=(NOTHING, SOMETHING), source=SOMETHING, base=None) -> Controls:
    return Controls(decoys, source, base)


@pytest.mark.parametrize(
    ("test", "what", "controls", "verdict", "reason"),
    [
        (FOUND, "checkpoint", clean(), "match", None),
        (FOUND, "checkpoint", clean(source=None, decoys=()), "match", None),
        (FOUND, "adapter", clean(base=NOTHING), "match", None),
        (NOTHING, "checkpoint", clean(), "no-match", None),
        (HALF_FOUND, "checkpoint", clean(), "no-match", None),
        (NOTHING, "adapter", clean(base=SOMETHING), "no-match", None),
        (FOUND, "base", clean(), "base-marked", None),
        (HALF_FOUND, "base", clean(), "invalid", HALF_A_BASE),
        (NOTHING, "base", clean(), "invalid", HALF_A_BASE),
        (FOUND, "checkpoint", clean(source=HALF_FOUND), "invalid", SOURCE),
        (NOTHING, "checkpoint", clean(source=FOUND), "invalid", SOURCE),
        (FOUND, "checkpoint", clean(decoys=(NOTHING, HALF_FOUND)), "invalid", DECOYS),
        (NOTHING, "checkpoint", clean(decoys=(FOUND, FOUND)), "invalid", DECOYS),
        (FOUND, "adapter", clean(base=HALF_FOUND), "invalid", BASE),
        (FOUND, "base", clean(source=FOUND), "invalid", SOURCE),
        (FOUND, "base", clean(decoys=(FOUND,)), "invalid", DECOYS),
        (CLEAR, "checkpoint", clean(), "match", None),
        (FORGEABLE, "checkpoint", clean(), "invalid", WEAK),
        (FORGEABLE, "adapter", clean(base=NOTHING), "invalid", WEAK),
        (FORGEABLE, "base", clean(), "invalid", WEAK),
    ],
)
def test_every_way_to_decide(test, what, controls, verdict, reason):
    found, why = decide(test, LIMIT_LOG10_P, what, controls)
    assert found == verdict
    assert why is None if reason is None else why.startswith(reason)
    assert why is None or ";" not in why


def test_keys_before_version_3_need_no_share_of_the_bits():
    """They have too few bits for a low share to be a match, and their rules stay as they were."""
    assert decide(FORGEABLE, LIMIT_LOG10_P, "checkpoint", clean(), version=OLD_KEYS_VERSION) == ("match", None)


@given(st.integers(1, 20_000), st.floats(0, 1))
def test_no_share_that_somebody_may_have_read_is_a_match(bits, share):
    test = BitTest.of(round(share * bits), bits)
    if decide(test, LIMIT_LOG10_P, "checkpoint", clean())[0] == "match":
        assert test.matches / bits >= LEAST_SHARE


def test_every_reason_is_named_in_its_order():
    verdict, reason = decide(HALF_FOUND, LIMIT_LOG10_P, "base", Controls((FOUND,), FOUND, FOUND))
    assert verdict == "invalid"
    parts = reason.split("; ")
    assert [part[:40] for part in parts] == [each[:40] for each in (SOURCE, BASE, DECOYS, HALF_A_BASE)]
    assert not any(character.isdigit() for character in reason)  # figures would tell the key


@given(tests, limits, tested, controls)
def test_nothing_laxer_than_the_limit_is_ever_a_match_whatever_is_asked_for(test, limit, what, controls):
    verdict, _ = decide(test, limit, what, controls)
    if verdict in ("match", "base-marked"):
        assert test.log10_p <= min(LIMIT_LOG10_P, limit)
    assert (verdict == "base-marked") <= (what == "base")
    assert (verdict == "match") <= (what != "base")


@given(tests, limits, tested, controls)
def test_any_control_that_finds_the_mark_voids_the_test(test, limit, what, controls):
    found = [each for each in (*controls.decoys, controls.source, controls.base) if each and each.log10_p <= CONTROL_LOG10_P]
    verdict, reason = decide(test, limit, what, controls)
    if found:
        assert verdict == "invalid"
    assert (verdict == "invalid") == (reason is not None)
    if verdict == "invalid" and not found:
        assert (what, reason) == ("base", HALF_A_BASE)


@given(tests, limits, tested, st.sampled_from(["decoy", "source", "base"]), finding)
def test_one_control_is_enough(test, limit, what, which, control):
    controls = {
        "decoy": Controls((NOTHING,) * 7 + (control,), NOTHING),
        "source": Controls((NOTHING,) * 8, control),
        "base": Controls((NOTHING,) * 8, NOTHING, control),
    }[which]
    assert decide(test, limit, what, controls)[0] == "invalid"


@given(tests, st.floats(-10_000, LIMIT_LOG10_P), tested)
def test_without_a_control_that_objects_the_limit_decides_alone(test, limit, what):
    verdict, _ = decide(test, limit, what, clean())
    match = test.log10_p <= limit
    if what == "base":
        assert verdict == ("base-marked" if match else "invalid")
    else:
        assert verdict == ("match" if match else "no-match")


@given(tests, tests, limits, tested, controls)
def test_more_evidence_never_turns_a_match_back(one, other, limit, what, controls):
    weaker, stronger = sorted((one, other), key=lambda test: -test.log10_p)
    if decide(weaker, limit, what, controls)[0] in ("match", "base-marked"):
        assert decide(stronger, limit, what, controls)[0] == decide(weaker, limit, what, controls)[0]
