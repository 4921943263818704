"""Eviction: least recently used first, and never more than is needed."""

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.eviction import Idle, plan_eviction

IDLE = st.lists(st.builds(Idle, st.text("0123456789abcdef", min_size=4, max_size=4), st.integers(1, 100)), max_size=8)


def test_the_least_recently_used_go_first():
    idle = [Idle("old", 5), Idle("older", 5), Idle("new", 5)]
    assert [c.digest for c in plan_eviction(idle, need_bytes=6)] == ["old", "older"]


def test_nothing_goes_when_nothing_is_needed():
    assert plan_eviction([Idle("a", 5)], need_bytes=0) == []


@given(IDLE, st.integers(-10, 300))
def test_the_fewest_that_suffice_are_chosen_in_order(idle: list[Idle], need_bytes: int):
    chosen = plan_eviction(idle, need_bytes=need_bytes)
    assert chosen == idle[: len(chosen)]
    freed = sum(c.size_bytes for c in chosen)
    assert freed >= need_bytes or chosen == idle
    assert not chosen or freed - chosen[-1].size_bytes < need_bytes
