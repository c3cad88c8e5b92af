"""The rules of a verdict: constants that no caller, option, key file or suspect can move (this project).

A verdict accuses somebody. So its limit, its draws and its controls are the same for every test, and its randomness follows
from the key and the weights: one key and one file have one test and one answer, forever.
"""

import math
from hashlib import sha256

VERSION = 2
"""Version of these rules. Before the second, callers chose the limit, the draws and the seed."""

LIMIT_LOG10_P = -64 * math.log10(2)
"""log10 of the p-value at or below which a test is a match: 2^-64. Chance alone reaches it once in 10^19 tests, so that neither
many tests nor a search through a billion keys finds an innocent model."""

STRONGEST_LOG10_P = -128 * math.log10(2)
"""log10 of the smallest bound that a report claims, 2^-128: the security of HKDF-SHA256, which derives the signs. A key has 256
bits, so a probability below 2^-256 cannot even be exact. Beyond this bound log10 p is a score."""

CONTROL_LOG10_P = -20 * math.log10(2)
"""log10 of the p-value at or below which a control voids a test: 2^-20, one control in a million by chance. Laxer than the
limit of a match, because a control that half matches is already a reason for doubt."""

DRAWS = 100
"""Monte Carlo draws of a trigger, an input and a timestep, for the owner's key and for every control alike."""

DECOYS = 8
"""Keys that nobody embedded, tested in the same way as the owner's."""

TAU = 0.75
"""Fraction of right signs at which a draw verifies (VS-rate)."""


def verification_seed(commitment: str, source: str | None, suspect: str) -> int:
    """Derive the seed of the test of one key on one suspect, 48 bits: repeating a test never changes its result.

    ``commitment`` is the key's; ``source`` and ``suspect`` are digests of weights
    (:func:`aiao_core.formats.weight_files.digest`), and ``source`` is None where the test has none.
    """
    text = f"aiao/v{VERSION}/verification/{commitment}/{source or 'no source'}/{suspect}"
    return int.from_bytes(sha256(text.encode()).digest()[:6], "big")


def bound(log10_p: float) -> float:
    """Return log10 of the probability that a report may claim for a score of ``log10_p``."""
    return max(log10_p, STRONGEST_LOG10_P)


def coarse_bound(log10_p: float) -> float | None:
    """Return log10 of one of two bounds of ``log10_p``, or None above both, for callers who neither own nor hold the key.

    Exact figures of many suspects, each with one channel changed, would reveal the key's signs.
    """
    return next((step for step in (STRONGEST_LOG10_P, LIMIT_LOG10_P) if log10_p <= step), None)
