"""When a tier will be full: from what it did, not from its last step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.forecast import LEVELS_MAX, Level, forecast

DAY_S = 86_400.0
GIB = 1 << 30


def line(days: int, *, a_day: int, start: int = 0) -> list[Level]:
    return [Level(day * DAY_S, start + day * a_day) for day in range(days + 1)]


def test_a_steady_tier_is_full_when_its_line_says() -> None:
    seen = forecast(line(10, a_day=GIB), capacity_bytes=30 * GIB)
    assert seen is not None and seen.likely_s is not None
    assert round(seen.likely_s / DAY_S) == 20 and round(seen.rate_bytes_s * DAY_S) == GIB
    assert seen.early_s == seen.likely_s == seen.late_s


def test_a_cleanup_in_between_is_no_promise() -> None:
    """One step down, among days that fill, does not make it never full."""
    levels = line(8, a_day=GIB) + [Level(9 * DAY_S, 2 * GIB), Level(10 * DAY_S, 3 * GIB), Level(11 * DAY_S, 4 * GIB)]
    seen = forecast(levels, capacity_bytes=20 * GIB)
    assert seen is not None and seen.likely_s is not None and seen.rate_bytes_s > 0
    assert seen.early_s is not None and seen.early_s <= seen.likely_s


def test_little_is_nothing_and_far_away_is_not_soon() -> None:
    assert forecast([], capacity_bytes=GIB) is None
    assert forecast([Level(0, 0), Level(3600, GIB)], capacity_bytes=2 * GIB) is None
    shrinking = forecast(line(5, a_day=-GIB, start=9 * GIB), capacity_bytes=10 * GIB)
    slow = forecast(line(5, a_day=1), capacity_bytes=GIB)
    assert shrinking is not None and shrinking.likely_s is None and slow is not None and slow.likely_s is None
    full = forecast(line(5, a_day=GIB), capacity_bytes=5 * GIB)
    assert full is not None and full.likely_s == 0.0


@given(st.lists(st.integers(0, 100 * GIB), min_size=2, max_size=3 * LEVELS_MAX), st.integers(1, 200 * GIB))
def test_early_is_before_likely_and_likely_before_late(used: list[int], capacity: int) -> None:
    """Whatever a tier did, the interval is one."""
    seen = forecast([Level(at * DAY_S, one) for at, one in enumerate(used)], capacity_bytes=capacity)
    assert seen is not None
    far = float("inf")
    early, likely, late = (far if s is None else s for s in (seen.early_s, seen.likely_s, seen.late_s))
    assert 0 <= early <= likely <= late
