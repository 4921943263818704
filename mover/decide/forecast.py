"""When a tier will be full: the slope that most pairs of levels agree on (Theil and Sen), as an interval.

A tier does not fill in a straight line: a cleanup makes a step down, a batch one up. The median of slopes is moved by
neither; the spread between slopes says how sure it is. Nothing is foretold from less than a day, and nothing beyond a
year: there the answer is "not soon".
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

LEAST_S = 86_400.0
FARTHEST_S = 365 * 86_400.0
# slopes of more levels than this cost more than they tell
LEVELS_MAX = 200
LOW, LIKELY, HIGH = 0.25, 0.5, 0.75


class Level(Struct, frozen=True):
    at_s: float
    used_bytes: int


class Forecast(Struct, frozen=True):
    """`rate_bytes_s` may be negative. Seconds from the newest level until full; None: not within a year."""

    rate_bytes_s: float
    likely_s: float | None
    early_s: float | None
    late_s: float | None


def forecast(levels: Sequence[Level], *, capacity_bytes: int) -> Forecast | None:
    """None where there is too little to learn from."""
    some = _thinned(levels)
    if len(some) < 2 or some[-1].at_s - some[0].at_s < LEAST_S:
        return None
    slopes = sorted(
        (later.used_bytes - earlier.used_bytes) / (later.at_s - earlier.at_s)
        for place, earlier in enumerate(some)
        for later in some[place + 1 :]
        if later.at_s > earlier.at_s
    )
    left = max(0, capacity_bytes - some[-1].used_bytes)
    low, likely, high = (slopes[round(share * (len(slopes) - 1))] for share in (LOW, LIKELY, HIGH))
    return Forecast(likely, _until(left, likely), _until(left, high), _until(left, low))


def _until(left_bytes: int, rate_bytes_s: float) -> float | None:
    if not left_bytes:
        return 0.0
    if rate_bytes_s <= 0 or left_bytes / rate_bytes_s > FARTHEST_S:
        return None
    return left_bytes / rate_bytes_s


def _thinned(levels: Sequence[Level]) -> Sequence[Level]:
    """The newest always stays."""
    step = -(-len(levels) // LEVELS_MAX)
    return levels if step <= 1 else list(levels[::-1][::step])[::-1]
