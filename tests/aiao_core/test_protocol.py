"""The rules of a verdict are constants: a change of one is another version of the protocol."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core import protocol
from aiao_core.key import commitment
from aiao_core.protocol import (
    CONTROL_LOG10_P,
    LIMIT_LOG10_P,
    STRONGEST_LOG10_P,
    bound,
    coarse_bound,
    verification_seed,
)

COMMITMENT, SOURCE, SUSPECT = (f"sha256:{digit * 64}" for digit in "abc")
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
scores = st.floats(-20_000, 0)


def test_the_constants_are_those_of_version_3_and_older_keys_keep_those_of_version_2():
    assert [protocol.version_for(key) for key in (1, 2, 3)] == [2, 2, protocol.VERSION] == [2, 2, 3]
    assert [protocol.draws_for(version) for version in (2, 3)] == [100, protocol.DRAWS] == [100, 4]
    assert [protocol.least_share(version) for version in (2, 3)] == [0, protocol.LEAST_SHARE] == [0, 0.625]
    assert (protocol.DECOYS, protocol.TAU, protocol.SUBPATH_LOG10_P) == (8, 0.75, -3)
    for value, power in ((CONTROL_LOG10_P, 20), (LIMIT_LOG10_P, 64), (STRONGEST_LOG10_P, 128)):
        assert math.isclose(10**value, 2**-power)
    assert [round(value, 4) for value in (LIMIT_LOG10_P, STRONGEST_LOG10_P)] == [-19.2659, -38.5318]
    assert STRONGEST_LOG10_P < LIMIT_LOG10_P < CONTROL_LOG10_P < 0


def test_the_seed_of_a_test_never_changes():
    """Golden values: a report of each version is repeated with the same draws."""
    assert verification_seed(COMMITMENT, SOURCE, SUSPECT, 3) == verification_seed(COMMITMENT, SOURCE, SUSPECT)
    assert verification_seed(COMMITMENT, SOURCE, SUSPECT) == 204390257207939
    assert verification_seed(COMMITMENT, None, SUSPECT) == 231780546215928
    assert verification_seed(COMMITMENT, SOURCE, SUSPECT, 2) == 108974722023099
    assert verification_seed(COMMITMENT, None, SUSPECT, 2) == 170433364543819
    assert verification_seed(commitment(bytes(range(32))), None, SUSPECT, 2) == 87694587159665


@given(digests, st.none() | digests, digests, st.sampled_from([2, 3]))
def test_the_seed_is_a_hash_of_what_is_tested_and_needs_no_library(of_key, source, suspect, version):
    text = f"aiao/v{version}/verification/{of_key}/{source or 'no source'}/{suspect}"
    seed = verification_seed(of_key, source, suspect, version)
    assert seed == int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
    assert 0 <= seed < 2**48
    assert verification_seed(of_key, source, suspect, version) == seed


@given(st.lists(digests, min_size=6, max_size=6, unique=True))
def test_every_part_of_what_is_tested_has_a_say_in_the_seed(six):
    (key, source, suspect), (other_key, other_source, other_suspect) = six[:3], six[3:]
    seeds = {
        verification_seed(key, source, suspect),
        verification_seed(other_key, source, suspect),
        verification_seed(key, other_source, suspect),
        verification_seed(key, source, other_suspect),
        verification_seed(key, None, suspect),
        verification_seed(key, suspect, source),
    }
    assert len(seeds) == 6


@given(scores)
def test_no_bound_is_claimed_below_what_derives_the_signs(log10_p):
    assert bound(log10_p) == max(log10_p, STRONGEST_LOG10_P)
    assert log10_p <= bound(log10_p) <= 0
    assert bound(bound(log10_p)) == bound(log10_p)


@given(scores)
def test_a_coarse_bound_is_one_of_two_or_none_and_never_too_strong(log10_p):
    coarse = coarse_bound(log10_p)
    assert coarse in (STRONGEST_LOG10_P, LIMIT_LOG10_P, None)
    assert coarse is None or coarse >= bound(log10_p)
    assert (coarse is None) == (log10_p > LIMIT_LOG10_P)
    assert (coarse == STRONGEST_LOG10_P) == (log10_p <= STRONGEST_LOG10_P)


@pytest.mark.parametrize(
    ("log10_p", "coarse"),
    [
        (0.0, None),
        (-19.26, None),
        (math.nextafter(LIMIT_LOG10_P, 0), None),
        (LIMIT_LOG10_P, LIMIT_LOG10_P),
        (-30.0, LIMIT_LOG10_P),
        (math.nextafter(STRONGEST_LOG10_P, 0), LIMIT_LOG10_P),
        (STRONGEST_LOG10_P, STRONGEST_LOG10_P),
        (-400.0, STRONGEST_LOG10_P),
    ],
)
def test_the_steps_of_a_coarse_bound(log10_p, coarse):
    assert coarse_bound(log10_p) == coarse
