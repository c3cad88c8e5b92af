import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from aiao_core.statistics import clopper_pearson
from aiao_core.verification.rates import response_success, verification_success


@given(st.integers(1, 40), st.floats(0, 1), st.floats(0.51, 1), st.integers(0, 2**32 - 1))
def test_an_interval_holds_its_rate_whatever_the_draws(draws, rate, tau, seed):
    random = torch.Generator().manual_seed(seed)
    right = [torch.rand(1 + draw % 7, generator=random) < rate for draw in range(draws)]
    shares = [float(signs.float().mean()) for signs in right]
    vs, rs = verification_success(right, tau), response_success(right, random)
    assert vs.value == sum(share >= tau for share in shares) / draws
    assert rs.value == pytest.approx(sum(shares) / draws)
    for each in (vs, rs):
        assert each.low <= each.value <= each.high
        assert each.draws == draws
    assert (vs.low, vs.high) == clopper_pearson(round(vs.value * draws), draws)


def test_the_interval_of_rs_rate_covers_what_it_should():
    """The channels of a draw depend on each other; the interval holds the true rate in 95 of 100 cases all the same."""
    random = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(1000):
        of_draw = torch.rand(50, generator=random)  # each draw is right by a rate of its own: 0.5 in the mean
        rs = response_success([torch.rand(9, generator=random) < rate for rate in of_draw], random)
        covered += rs.low <= 0.5 <= rs.high
    assert binomtest(covered, 1000, 0.95, alternative="less").pvalue > 1e-3
