import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aiao_core.options import VerificationOptions
from aiao_core.protocol import DECOYS, DRAWS, LIMIT_LOG10_P, OLD_KEYS_DRAWS, OLD_KEYS_VERSION, TAU
from aiao_core.verification.verify import Subject, verify

ANY = st.fixed_dictionaries(
    {},
    optional={
        "draws": st.integers(1, 100_000),
        "decoys": st.integers(0, 10_000),
        "tau": st.floats(0.5, 1, exclude_min=True),
        "max_log10_p": st.floats(-10_000, 0, exclude_max=True),
        "seed": st.none() | st.integers(0, 2**32 - 1),
    },
)
FIXED = {"draws": DRAWS, "decoys": DECOYS, "tau": TAU, "seed": None}


def test_the_defaults_are_those_of_a_verdict():
    options = VerificationOptions()
    assert options.departures() == []
    assert not options.exploratory
    assert options.model_dump() == FIXED | {"draws": None, "max_log10_p": LIMIT_LOG10_P}
    assert VerificationOptions(draws=OLD_KEYS_DRAWS).departures(version=OLD_KEYS_VERSION) == []


@pytest.mark.parametrize("limit", [LIMIT_LOG10_P, -19.27, -25, -10_000])
def test_a_stricter_limit_is_a_verdict_all_the_same(limit):
    assert VerificationOptions(max_log10_p=limit).departures() == []
    assert not VerificationOptions(max_log10_p=limit).exploratory


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"draws": 99}, "draws is 4 in every verdict, not 99: nobody chooses how an accusation is tested"),
        ({"draws": 1000}, "draws is 4 in every verdict, not 1000: nobody chooses how an accusation is tested"),
        ({"decoys": 0}, "decoys is 8 in every verdict, not 0: nobody chooses how an accusation is tested"),
        ({"decoys": 9}, "decoys is 8 in every verdict, not 9: nobody chooses how an accusation is tested"),
        ({"tau": 0.76}, "tau is 0.75 in every verdict, not 0.76: nobody chooses how an accusation is tested"),
        ({"seed": 0}, "seed follows from key and weights: with a seed of choice a test is repeated until it matches"),
        ({"max_log10_p": -19.26}, "max_log10_p is at most -19.27 (2^-64), not -19.26: a laxer limit accuses innocents"),
        ({"max_log10_p": -0.000001}, "max_log10_p is at most -19.27 (2^-64), not -1e-06: a laxer limit accuses innocents"),
    ],
)
def test_whatever_else_departs_says_why(change, reason):
    options = VerificationOptions(**change)
    assert options.departures() == [reason]
    assert options.exploratory


@given(ANY)
def test_each_departure_is_named_once_and_nothing_else_is(chosen):
    options = VerificationOptions(**chosen)
    names = [reason.partition(" ")[0] for reason in options.departures()]
    departing = [name for name, value in FIXED.items() if chosen.get(name, value) != value]
    lax = ["max_log10_p"] * (chosen.get("max_log10_p", LIMIT_LOG10_P) > LIMIT_LOG10_P)
    assert names == departing + lax
    assert options.exploratory == bool(names)


@pytest.mark.parametrize(
    "change",
    [
        {"draws": 0}, {"decoys": -1}, {"tau": 0.5}, {"tau": 1.01}, {"max_log10_p": 0}, {"max_log10_p": -10_001},
        {"seed": -1}, {"seed": 2**32}, {"max_log10_p": float("nan")}, {"threshold": -9},
    ],
    ids=str,
)  # fmt: skip
def test_values_without_a_meaning_are_refused(change):
    with pytest.raises(ValidationError):
        VerificationOptions(**change)


def test_a_report_says_which_limit_it_had_and_every_departure(marked):
    """A stricter limit is a verdict; any other option makes an exploration, on the marked model too."""
    strict = VerificationOptions(max_log10_p=-25)
    lax = VerificationOptions(max_log10_p=-9, draws=20, decoys=1, tau=0.6, seed=3)
    subject = Subject("suspect", "model")
    verdict, exploration = (verify(marked.denoiser, marked.key, subject=subject, options=each) for each in (strict, lax))
    assert (verdict.verdict, verdict.max_log10_p, verdict.ruled, verdict.reason) == ("match", -25, True, None)
    assert (exploration.verdict, exploration.ruled) == ("exploratory", False)
    assert exploration.reason == "; ".join(lax.departures())
    assert exploration.reason.count(";") == 4
    assert (exploration.max_log10_p, exploration.draws, exploration.tau, exploration.seed) == (-9, 20, 0.6, 3)
