"""Admission: capacity that concurrent requests can never over-commit, and a line in which nobody is delayed."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.admission import PASSED_MAX, TierSpace, _released, admit, copy, missing_bytes

SIZES = st.integers(0, 10_000)
SMALL = st.integers(1, 12)


def space(capacity: int, *, promised: int = 0, free: int | None = None, outstanding: int = 0, reserve: int = 0):
    return TierSpace(capacity, capacity if free is None else free, promised, outstanding, reserve)


def test_what_fits_is_admitted_with_numbers():
    found = admit(40, space(100))
    assert (found.verdict, found.reason) == ("admit", "fits: 40 bytes, 100 not promised")


def test_what_can_never_fit_is_refused_at_once():
    """Waiting for ever would be a lie."""
    assert admit(101, space(100)).verdict == "refuse"
    assert admit(95, space(100, reserve=10)).verdict == "refuse"


def test_what_fits_later_waits():
    assert admit(40, space(100, promised=70)).verdict == "wait"
    assert copy(40, space(100, free=30)).verdict == "wait"
    assert copy(40, space(100, free=60, outstanding=30)).verdict == "wait"


def test_bytes_that_stand_on_the_tier_need_no_free_space():
    assert copy(0, space(100, free=0)).verdict == "admit"


def test_who_passes_somebody_short_of_room_takes_none_of_it():
    """What is free may be what the one ahead waits for."""
    assert copy(1, space(100), passing=True).verdict == "wait"
    assert copy(0, space(100), passing=True).verdict == "admit"


def test_a_small_run_passes_only_where_nobody_could_have_begun_earlier_without_it():
    """100 bytes, 60 of them held: the run ahead needs all of those 60 back, and 20 beside it harm nobody. Two such
    would: then the run ahead could have begun, and could not."""
    tier = space(100, promised=60)
    assert admit(20, tier, ahead=[80], holders=[60]).verdict == "admit"
    again = admit(20, space(100, promised=80), ahead=[80], holders=[60, 20])
    assert again.verdict == "wait" and "could delay the run at place 1" in again.reason


def test_when_too_many_orders_are_possible_nobody_passes():
    """An answer that would take for ever to find is the cautious one."""
    holders = [2**n for n in range(13)]
    tier = space(10_000, promised=sum(holders))
    assert admit(1, tier, ahead=[9_000], holders=holders).verdict == "wait"


def test_a_thousand_runs_behind_a_large_one_cost_as_little_as_a_few():
    """The line is judged under the tier's lock: what those who wait could release is worked out once for each place
    that may be passed, not once for each run behind."""
    holders = list(range(1, 40))
    tier = space(10_000, promised=sum(holders))
    ahead = [9_900]
    before = _released.cache_info().misses
    for size in range(500, 1500):
        if admit(size, tier, ahead=ahead, holders=holders).verdict == "wait":
            ahead.append(size)
    assert len(ahead) > 900 and _released.cache_info().misses - before <= PASSED_MAX


def test_who_stands_far_behind_passes_nobody():
    """Whom it could delay is looked at for so many places, and no further."""
    tier = space(100, promised=60)
    assert admit(0, tier, ahead=[80] * PASSED_MAX, holders=[60]).verdict == "admit"
    assert admit(0, tier, ahead=[80] * (PASSED_MAX + 1), holders=[60]).verdict == "wait"


@given(capacity=SIZES, reserve=SIZES, requests=st.lists(SIZES, max_size=20))
def test_promises_never_exceed_what_the_tier_offers(capacity: int, reserve: int, requests: list[int]):
    """One request judged after the other, as the tier's lock makes them, with whoever may pass passing."""
    holders: list[int] = []
    ahead: list[int] = []
    for size in requests:
        tier = space(capacity, promised=sum(holders), reserve=reserve)
        verdict = admit(size, tier, ahead=ahead, holders=holders).verdict
        {"admit": holders, "wait": ahead, "refuse": []}[verdict].append(size)
    assert sum(holders) <= max(0, capacity - reserve)


@given(holders=st.lists(SMALL, max_size=4), ahead=SMALL, run=SMALL, capacity=st.integers(1, 30))
def test_whoever_passes_delays_nobody_whatever_the_order_of_endings(
    holders: list[int], ahead: int, run: int, capacity: int
):
    """The law itself, played: with every order in which the runs on the tier can end, the run ahead begins after the
    same ending whether somebody passed it or not."""
    tier = space(capacity, promised=sum(holders))
    if sum(holders) > capacity or admit(ahead, tier).verdict != "wait":
        return
    if admit(run, tier, ahead=[ahead], holders=holders).verdict != "admit":
        return
    for order in permutations(holders):
        assert _begins(ahead, order, capacity) == _begins(ahead, order, capacity - run)


@given(line=st.lists(SIZES, min_size=1, max_size=8), capacity=SIZES, promised=SIZES)
def test_what_is_missing_is_just_enough_for_the_whole_line(line: list[int], capacity: int, promised: int):
    missing = missing_bytes(line, space(capacity, promised=promised))
    assert missing == 0 or sum(line) + promised - missing == capacity
    assert missing or sum(line) + promised <= capacity


def _begins(ahead: int, order: tuple[int, ...], capacity: int) -> int:
    """After how many endings there is room."""
    held = sum(order)
    for ended in range(len(order) + 1):
        if ahead + held - sum(order[:ended]) <= capacity:
            return ended
    return -1
