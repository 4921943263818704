"""How often a shard is tried again: outages are waited out, verdicts are not put off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.retries import FAILURES_MAX, LONGEST_DELAY_S, OUTAGE_FAILURES_MAX, delay_s
from mover.errors import Retry


def test_a_tier_that_is_away_for_an_hour_fails_nobody():
    """A bucket that restarts must not turn every batch and run in flight into a failure."""
    waited_s, failures = 0.0, 0
    while waited_s < 3600:
        failures += 1
        delay = delay_s("later", foreseen=True, failures=failures)
        assert delay is not None
        waited_s += delay


@pytest.mark.parametrize(
    ("retry", "foreseen", "tries"),
    [("never", True, 1), ("never", False, FAILURES_MAX), ("elsewhere", True, FAILURES_MAX),
     ("later", True, OUTAGE_FAILURES_MAX), ("later", False, FAILURES_MAX)],
)  # fmt: skip
def test_every_kind_of_failure_has_its_bound(retry: Retry, foreseen: bool, tries: int):
    """Nothing is tried for ever (R10), and what is a verdict is not tried twice."""
    assert all(delay_s(retry, foreseen=foreseen, failures=n) is not None for n in range(1, tries))
    assert delay_s(retry, foreseen=foreseen, failures=tries) is None


@given(st.integers(1, OUTAGE_FAILURES_MAX - 1))
def test_pauses_grow_and_stay_below_the_longest(failures: int):
    pause = delay_s("later", foreseen=True, failures=failures)
    later = delay_s("later", foreseen=True, failures=failures + 1)
    assert pause is not None and 0 < pause <= LONGEST_DELAY_S
    assert later is None or later >= pause
