"""The exact test's probabilities, without underflow and to the last digit of a float (this project)."""

import math
from fractions import Fraction
from functools import lru_cache

from scipy.special import betaincinv

FORMER_READINGS = 2
"""Number of readings of the response to the owner's trigger in reports of version 5; the p-value is corrected for them."""

MAX_READINGS = 8
"""Most readings of that response in later reports: channels in their own places or where the source has them, all subpaths or
the registered ones, with interference or without."""

CLEAREST = 0.5
"""Fraction of the bits that the test of keys of version 1 and 2 counts, the clearest first. Overwriting leaves many bits that
no longer respond."""

NEGLIGIBLE = 80
"""Binary digits to which a tail is summed."""

CHECKED = 64
"""Terms of a tail between two looks at how much is left."""


def log10_binomial_tail(matches: int, bits: int, best_of: int = 1) -> float:
    """Return log10 of P(X >= ``matches``) for X ~ Binomial(``bits``, 1/2): the p-value of the exact test.

    For the test with the least p of several, p is multiplied by their number, up to 1: it bounds how often chance brings any
    of them so far, however they depend on each other (Bonferroni). Summed in whole numbers, so that it neither underflows nor
    rounds before the logarithm. 0 for no matches.
    """
    _check(matches, bits)
    # The difference of two logarithms may round to a hair above 0 where the probability is almost 1.
    return min(0.0, _log10(_tail(matches, bits)) - bits * math.log10(2) + math.log10(best_of))


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval for a probability after ``successes`` in ``trials`` (Clopper and Pearson 1934)."""
    _check(successes, trials)
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, trials - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1 - tail)) if successes < trials else 1.0
    return low, high


def randomized_p_value(matches: int, bits: int, uniform: float) -> float:
    """Return P(X > ``matches``) + ``uniform`` * P(X = ``matches``) for X ~ Binomial(``bits``, 1/2).

    With an independent ``uniform`` in [0, 1] it is exactly uniform for a wrong key, where the plain p-value has steps.
    """
    _check(matches, bits)
    above = _tail(matches + 1, bits)
    return float(Fraction(above, 2**bits) + Fraction(uniform) * Fraction(math.comb(bits, matches), 2**bits))


def _check(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials are impossible")


@lru_cache(maxsize=256)
def _tail(first: int, bits: int) -> int:
    """Count the outcomes, of 2**bits, with at least ``first`` matches, to a part in 2**80: less than a float can tell."""
    if first > bits:
        return 0
    if first <= bits // 2:
        return (1 << bits) - _tail(bits - first + 1, bits)  # by symmetry: fewer than `first` matches are as likely
    outcomes = term = math.comb(bits, first)
    for k in range(first, bits):
        # The terms fall ever faster, so those that are left are together less than term * (bits - k) / (2 * k + 1 - bits).
        if k % CHECKED == 0 and (term * (bits - k)) << NEGLIGIBLE < outcomes * (2 * k + 1 - bits):
            break
        term = term * (bits - k) // (k + 1)
        outcomes += term
    return outcomes


def _log10(number: int) -> float:
    """Return log10 of a positive whole number of any size."""
    shift = max(0, number.bit_length() - 64)
    return math.log10(number >> shift) + shift * math.log10(2)
