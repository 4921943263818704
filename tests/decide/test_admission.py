"""Admission: capacity that concurrent requests can never over-commit."""

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.admission import TierSpace, admit

SIZES = st.integers(0, 10_000)


def space(capacity: int, *, promised: int = 0, free: int | None = None, outstanding: int = 0, reserve: int = 0):
    return TierSpace(capacity, capacity if free is None else free, promised, outstanding, reserve)


def test_what_fits_is_admitted_with_numbers():
    found = admit(40, 40, space(100))
    assert (found.verdict, found.reason) == ("admit", "fits: 40 bytes to copy, 100 free")


def test_what_can_never_fit_is_refused_at_once():
    """Waiting for ever would be a lie."""
    assert admit(101, 1, space(100)).verdict == "refuse"
    assert admit(95, 1, space(100, reserve=10)).verdict == "refuse"


def test_what_fits_later_waits():
    assert admit(40, 40, space(100, promised=70)).verdict == "wait"
    assert admit(40, 40, space(100, free=30)).verdict == "wait"


def test_bytes_that_stand_on_the_tier_need_no_free_space():
    assert admit(40, 0, space(100, free=0)).verdict == "admit"


@given(capacity=SIZES, reserve=SIZES, requests=st.lists(SIZES, max_size=20))
def test_promises_never_exceed_what_the_tier_offers(capacity: int, reserve: int, requests: list[int]):
    """One request judged after the other, as the tier's lock makes them."""
    promised = 0
    for size in requests:
        verdict = admit(size, size, space(capacity, promised=promised, free=capacity - promised, reserve=reserve))
        if verdict.verdict == "admit":
            promised += size
    assert promised <= max(0, capacity - reserve)
