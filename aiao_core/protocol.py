"""The rules of a verdict: constants that no caller, option, key file or suspect can move (this project).

A verdict accuses somebody. So its limit, its draws and its controls are the same for every test, and its randomness follows
from the key and the weights: one key and one file have one test and one answer, forever.
"""

import math
from hashlib import sha256

VERSION = 3
"""Version of these rules. Before the second, callers chose the limit, the draws and the seed; the third is of keys of version
3, which are read against the source. Older keys keep the second."""

KEY_VERSION = 3
"""First version of keys that are tested by these rules."""

OLD_KEYS_VERSION = 2
"""Version of the rules for keys of version 1 and 2."""

LIMIT_LOG10_P = -64 * math.log10(2)
"""log10 of the p-value at or below which a test is a match: 2^-64. Chance alone reaches it once in 10^19 tests, so that neither
many tests nor a search through a billion keys finds an innocent model."""

STRONGEST_LOG10_P = -128 * math.log10(2)
"""log10 of the smallest bound that a report claims, 2^-128: the security of HKDF-SHA256, which derives the signs. A key has 256
bits, so a probability below 2^-256 cannot even be exact. Beyond this bound log10 p is a score."""

LEAST_SHARE = 5 / 8
"""Share of right bits that a match with a key of version 3 needs besides. Chance has no part in it: a forger who reads some of
the signs out of published weights can plant these in an innocent model, and a few percent more than half of many bits have any
p. The limit lies between the best forger that we know and derivatives that are still useful (docs/threat-model.md)."""

CONTROL_LOG10_P = -20 * math.log10(2)
"""log10 of the p-value at or below which a control voids a test: 2^-20, one control in a million by chance. Laxer than the
limit of a match, because a control that half matches is already a reason for doubt."""

DRAWS = 4
"""Monte Carlo draws of an input and a timestep for each trigger layer of a key of version 3."""

OLD_KEYS_DRAWS = 100
"""Monte Carlo draws of a trigger, an input and a timestep, for keys of version 1 and 2."""

DECOYS = 8
"""Keys that nobody embedded, tested in the same way as the owner's."""

TAU = 0.75
"""Fraction of right signs at which a draw verifies (VS-rate)."""

SUBPATH_LOG10_P = -3.0
"""log10 of the p-value of a subpath's own exact test at or below which it verifies: by chance one in a thousand does."""


def version_for(key_version: int) -> int:
    """Return the version of the rules by which a key of this version is tested."""
    return VERSION if key_version >= KEY_VERSION else OLD_KEYS_VERSION


def draws_for(version: int) -> int:
    """Return the draws of a verdict by this version of the rules."""
    return DRAWS if version > OLD_KEYS_VERSION else OLD_KEYS_DRAWS


def least_share(version: int) -> float:
    """Return the share of right bits that a match needs by this version of the rules."""
    return LEAST_SHARE if version > OLD_KEYS_VERSION else 0.0


def verification_seed(commitment: str, source: str | None, suspect: str, version: int = VERSION) -> int:
    """Derive the seed of the test of one key on one suspect, 48 bits: repeating a test never changes its result.

    ``commitment`` is the key's; ``source`` and ``suspect`` are digests of weights
    (:func:`aiao_core.denoisers.weights.digest`), and ``source`` is None where the test has none. ``version`` is of the rules.
    """
    text = f"aiao/v{version}/verification/{commitment}/{source or 'no source'}/{suspect}"
    return int.from_bytes(sha256(text.encode()).digest()[:6], "big")


def bound(log10_p: float) -> float:
    """Return log10 of the probability that a report may claim for a score of ``log10_p``."""
    return max(log10_p, STRONGEST_LOG10_P)


def coarse_bound(log10_p: float) -> float | None:
    """Return log10 of one of two bounds of ``log10_p``, or None above both, for callers who neither own nor hold the key.

    Exact figures of many suspects, each with one channel changed, would reveal the key's signs.
    """
    return next((step for step in (STRONGEST_LOG10_P, LIMIT_LOG10_P) if log10_p <= step), None)
