import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.kit import ids
from service.kit.ids import new_id, pattern

MOMENTS = st.integers(0, 2**48 * 1_000_000 - 1)
"""In nanoseconds."""


@given(MOMENTS, MOMENTS)
@example(10**18, 10**18 + 1)
def test_ids_sort_by_the_moment_they_were_made_in(one, other):
    earlier, later = sorted((one, other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids.time, "time_ns", lambda: earlier)
        first = new_id("job")
        patch.setattr(ids.time, "time_ns", lambda: later)
        second = new_id("job")
    assert first < second or earlier == later


@given(MOMENTS)
def test_every_id_fits_its_pattern_and_no_other_prefix(moment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids.time, "time_ns", lambda: moment)
        made = new_id("mdl")
    assert re.search(pattern("mdl"), made)
    assert not re.search(pattern("job"), made)


def test_ids_of_one_moment_differ(monkeypatch):
    monkeypatch.setattr(ids.time, "time_ns", lambda: 10**18)
    assert len({new_id("art") for _ in range(1000)}) == 1000


def test_ids_made_one_after_the_other_sort_in_that_order():
    made = [new_id("art") for _ in range(10_000)]
    assert made == sorted(made)
