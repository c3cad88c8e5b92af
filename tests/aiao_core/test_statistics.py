import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, kstest

from aiao_core.statistics import _tail, clopper_pearson, log10_binomial_tail, randomized_p_value


@given(st.integers(1, 400).flatmap(lambda bits: st.tuples(st.integers(0, bits), st.just(bits))), st.integers(1, 9))
def test_the_best_of_several_has_their_number_times_the_chance(outcome, tests):
    one, best = log10_binomial_tail(*outcome), log10_binomial_tail(*outcome, best_of=tests)
    assert best == pytest.approx(min(0, one + math.log10(tests)), abs=1e-12)


@given(st.integers(1, 300), st.data())
def test_tail_is_exact(bits, data):
    matches = data.draw(st.integers(0, bits))
    exact = Fraction(sum(math.comb(bits, k) for k in range(matches, bits + 1)), 2**bits)
    expected = math.log10(exact.numerator) - math.log10(exact.denominator)
    assert log10_binomial_tail(matches, bits) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(st.integers(200, 4000), st.floats(0.4, 1))
def test_what_is_left_out_of_a_long_tail_is_less_than_a_float_can_tell(bits, share):
    first = math.ceil(share * bits)
    whole = sum(math.comb(bits, k) for k in range(first, bits + 1))
    assert abs(_tail(first, bits) - whole) <= whole >> 70


@given(st.integers(0, 50_000))
def test_tail_does_not_underflow(bits):
    assert log10_binomial_tail(bits, bits) == pytest.approx(-bits * math.log10(2))
    assert log10_binomial_tail(0, bits) == pytest.approx(0, abs=1e-9)
    assert log10_binomial_tail(0, bits) <= 0


@given(st.integers(1, 2000), st.data())
def test_tail_falls_with_every_match(bits, data):
    matches = data.draw(st.integers(1, bits))
    assert log10_binomial_tail(matches, bits) < log10_binomial_tail(matches - 1, bits) + 1e-12


@given(st.integers(1, 200), st.data())
def test_clopper_pearson_is_scipys(trials, data):
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_clopper_pearson_covers():
    """For many true rates the 95 % interval holds the rate in at least 95 % of all outcomes."""
    for rate in np.linspace(0.01, 0.99, 33):
        covered = sum(binom.pmf(k, 60, rate) for k in range(61) if (ci := clopper_pearson(k, 60))[0] <= rate <= ci[1])
        assert covered >= 0.95


@pytest.mark.parametrize("bits", [1, 7, 60, 801])
def test_randomized_p_value_is_uniform(bits):
    random = np.random.default_rng(bits)
    values = [randomized_p_value(int(random.binomial(bits, 0.5)), bits, random.random()) for _ in range(4000)]
    assert kstest(values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes, trials):
    for function in (log10_binomial_tail, clopper_pearson):
        with pytest.raises(ValueError, match="impossible"):
            function(successes, trials)
