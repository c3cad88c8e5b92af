import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.kit.errors import NotEnoughMemory
from service.kit.queues import GIB, Fleet

LIMITS = st.lists(st.integers(1, 1 << 44), min_size=1, max_size=6, unique=True).map(sorted)
NEEDS = st.integers(0, 1 << 45)


def fleet(limits: list[int]) -> Fleet:
    return Fleet.parse("aiao", " ".join(f"q{number}:{limit}B" for number, limit in enumerate(limits)))


def test_without_a_list_there_is_one_queue_that_takes_everything():
    one = Fleet.parse("aiao", " ")
    assert one.names == ["aiao"]
    assert {one.queue_for(need) for need in (None, 0, 1 << 60)} == {"aiao"}
    assert one.accepted(1 << 60) == 1 << 60


def test_a_list_names_queues_under_the_one_setting_and_their_memory():
    listed = Fleet.parse("aiao", "cpu:8GiB  gpu:22GiB large-gpu:76GiB")
    assert listed.names == ["aiao.cpu", "aiao.gpu", "aiao.large-gpu"]
    assert [queue.memory_bytes for queue in listed.queues] == [8 * GIB, 22 * GIB, 76 * GIB]
    assert [listed.queue_for(need * GIB) for need in (1, 8, 9, 22, 76)] == [
        "aiao.cpu", "aiao.cpu", "aiao.gpu", "aiao.gpu", "aiao.large-gpu"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "cpu", "cpu:", "cpu:8", ":8GiB", "cpu:much", "cpu:0GiB", "cpu:-1GiB", "CPU:8GiB", "a.b:8GiB", "gpu:22GiB cpu:8GiB",
        "a:8GiB b:8GiB", "cpu:8GiB cpu:22GiB", "cpu:8GiB,gpu:22GiB", "x" * 64 + ":8GiB", "cpu:1e400GiB",
    ],
)  # fmt: skip
def test_a_list_that_means_nothing_is_refused(text):
    with pytest.raises(ValueError, match=r"such as gpu:22GiB\. |more memory than the one before"):
        Fleet.parse("aiao", text)


@given(LIMITS, NEEDS)
def test_every_job_fits_its_queue_and_no_smaller_one_or_is_refused(limits, need):
    listed = fleet(limits)
    place = listed.names.index(listed.queue_for(need))
    if need > limits[-1]:
        with pytest.raises(NotEnoughMemory):
            listed.accepted(need)
    else:
        assert listed.accepted(need) == need
        assert need <= limits[place]
        assert all(limit < need for limit in limits[:place])


@given(LIMITS, NEEDS, NEEDS)
def test_a_job_that_needs_more_never_goes_to_a_smaller_queue(limits, one, other):
    listed = fleet(limits)
    less, more = sorted((one, other))
    assert listed.names.index(listed.queue_for(less)) <= listed.names.index(listed.queue_for(more))


@given(LIMITS)
def test_a_job_of_which_nobody_knows_what_it_needs_goes_where_there_is_most(limits):
    listed = fleet(limits)
    assert listed.queue_for(None) == listed.names[-1]
    assert listed.accepted(None) is None


def test_a_refusal_names_what_is_needed_and_what_there_is():
    with pytest.raises(NotEnoughMemory, match=r"about 30\.50 GiB .* have 22\.00 GiB; .* batch_size") as refused:
        Fleet.parse("aiao", "cpu:8GiB gpu:22GiB").accepted(int(30.5 * GIB))
    assert (refused.value.status, refused.value.slug) == (422, "not-enough-memory")
