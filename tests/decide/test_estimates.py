"""Estimates: intervals learnt from what happened here, and silence where nothing did."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.estimates import FILE_BYTES, Estimate, Hold, Pace, staging, together, waiting

GIB = 1 << 30
PACES = st.builds(
    Pace, copy_bytes=st.integers(0, 1 << 44), files=st.integers(0, 100_000), seconds=st.floats(0.1, 1e6)
)
HOLDS = st.builds(Hold, bytes=st.integers(1, 1 << 40), held_s=st.floats(0, 1e6))


def ordered(estimate: Estimate) -> bool:
    return 0 <= estimate.low_s <= estimate.likely_s <= estimate.high_s


def test_without_history_nothing_is_claimed():
    """A number out of nowhere is worse than none."""
    assert staging([], copy_bytes=GIB, files=1) is None
    assert waiting([Hold(10, 5.0)], [], missing_bytes=10) is None
    assert together(None, Estimate(1, 2, 3, 4)) is None


def test_many_runs_alike_give_their_own_time_in_a_narrow_interval():
    found = staging([Pace(GIB, 10, 100.0)] * 20, copy_bytes=GIB, files=10)
    assert found == Estimate(95.2, 100.0, 105.0, 20)


def test_a_few_large_files_are_compared_with_such_and_not_with_many_small_ones():
    """The same bytes take many times as long in a hundred thousand files."""
    large = [Pace(100 * GIB, 100, 100.0)] * 20
    small = [Pace(100 * GIB, 100_000, 3000.0)] * 20
    assert staging(large + small, copy_bytes=90 * GIB, files=90).likely_s < 120
    assert staging(large + small, copy_bytes=90 * GIB, files=90_000).likely_s > 2000


def test_what_is_staged_already_is_not_waited_for_again():
    history = [Pace(GIB, 10, 100.0)] * 20
    assert staging(history, copy_bytes=GIB, files=10, left=0.25).likely_s == 25.0


def test_a_run_of_which_nothing_is_copied_still_costs_its_files():
    assert staging([Pace(0, 100, 10.0)], copy_bytes=0, files=200).likely_s == 20.0


def test_waiting_ends_when_the_holders_that_end_first_make_up_what_is_missing():
    """Runs hold their place for 100 s: the older one ends in 10 s, the younger in 90."""
    holders = [Hold(5, 90.0), Hold(5, 10.0)]
    assert waiting(holders, [100.0] * 20, missing_bytes=5).likely_s == 10.0
    assert waiting(holders, [100.0] * 20, missing_bytes=6).likely_s == 90.0
    assert waiting(holders, [100.0] * 20, missing_bytes=0).high_s == 0


def test_a_run_that_holds_its_place_longer_than_any_before_makes_the_wait_unknown():
    assert waiting([Hold(5, 200.0)], [100.0] * 20, missing_bytes=5) is None


@given(st.lists(PACES, min_size=1, max_size=30), st.integers(0, 1 << 44), st.integers(0, 10**5))
def test_an_interval_is_in_order_and_says_how_many_runs_it_stands_on(history: list[Pace], copy_bytes: int, files: int):
    found = staging(history, copy_bytes=copy_bytes, files=files)
    assert found is not None and ordered(found) and found.based_on == min(len(history), 20)


@given(seconds=st.floats(1, 1e5), count=st.integers(1, 19))
def test_more_history_of_the_same_never_makes_the_interval_wider(seconds: float, count: int):
    few = staging([Pace(GIB, 10, seconds)] * count, copy_bytes=GIB, files=10)
    more = staging([Pace(GIB, 10, seconds)] * (count + 1), copy_bytes=GIB, files=10)
    assert few is not None and more is not None
    assert more.high_s - more.low_s <= few.high_s - few.low_s + 0.2


@given(st.lists(HOLDS, max_size=8), st.lists(st.floats(0.1, 1e6), max_size=20), st.integers(0, 1 << 42))
def test_a_wait_is_in_order_and_more_missing_bytes_never_make_it_shorter(
    holders: list[Hold], holds: list[float], missing: int
):
    found = waiting(holders, holds, missing_bytes=missing)
    more = waiting(holders, holds, missing_bytes=missing + 1 + FILE_BYTES)
    if found is None:
        assert more is None
        return
    assert ordered(found)
    assert more is None or more.likely_s >= found.likely_s
