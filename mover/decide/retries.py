"""Is a shard that failed tried again, and when? Each kind of failure has a bound of its own.

What is away (a tier, the catalog, a locked repository) comes back, and a verdict on the work would be wrong:
it is tried for about a day, at most a minute apart. What may be better elsewhere, and what nobody foresaw, gets a
handful of tries. Everything else is a verdict at once.
"""

from __future__ import annotations

from mover.errors import Retry

FAILURES_MAX = 5
OUTAGE_FAILURES_MAX = 1_500
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0


def delay_s(retry: Retry, *, foreseen: bool, failures: int) -> float | None:
    """Seconds until the next try after this many failures, the newest included; None: give up."""
    if failures >= _failures_max(retry, foreseen=foreseen):
        return None
    # the exponent is bounded before it is used: 2 ** 1500 is a large number
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))


def _failures_max(retry: Retry, *, foreseen: bool) -> int:
    if not foreseen:
        return FAILURES_MAX
    return {"later": OUTAGE_FAILURES_MAX, "elsewhere": FAILURES_MAX, "never": 1}[retry]
