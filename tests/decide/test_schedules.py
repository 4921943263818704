"""When a plain folder is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mover.decide.schedules import FolderState, cron_problem, due, next_time, unprotected_since
from mover.model.policy import FolderRule

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NIGHTLY = FolderRule(name="plans", path="/srv/plans", cron="0 2 * * *")
WATCHED = FolderRule(name="plans", path="/srv/plans", settled_s=600)


def ago(**spent: int) -> datetime:
    return NOW - timedelta(**spent)


def test_a_folder_with_a_schedule_is_protected_once_before_its_first_time_comes() -> None:
    """Otherwise a folder that was added on a Monday would stand unprotected until its weekly time."""
    assert due(NIGHTLY, FolderState(), now=NOW, zone=UTC) == "first"


@pytest.mark.parametrize(("started", "expected"), [(ago(hours=3), None), (ago(hours=11), "schedule")])
def test_a_schedule_is_due_when_its_time_passed_since_the_last_attempt(started: datetime, expected: str | None) -> None:
    assert due(NIGHTLY, FolderState(started_at=started), now=NOW, zone=UTC) == expected


def test_a_week_without_a_daemon_is_caught_up_once() -> None:
    """Seven missed nights are one snapshot, not seven of the same."""
    assert due(NIGHTLY, FolderState(started_at=ago(days=7)), now=NOW, zone=UTC) == "schedule"
    assert due(NIGHTLY, FolderState(started_at=NOW), now=NOW, zone=UTC) is None


def test_a_change_is_protected_once_it_stood_still() -> None:
    """A folder that is still written to is not cut in half."""
    fresh = FolderState(seen_mark="b", seen_since=ago(minutes=9), protected_mark="a")
    settled = FolderState(seen_mark="b", seen_since=ago(minutes=10), protected_mark="a")
    known = FolderState(seen_mark="a", seen_since=ago(days=3), protected_mark="a")
    assert [due(WATCHED, state, now=NOW, zone=UTC) for state in (fresh, settled, known)] == [None, "change", None]
    assert unprotected_since(settled) == settled.seen_since and unprotected_since(known) is None


def test_a_folder_that_cannot_be_looked_at_is_no_change() -> None:
    """An unmounted folder has no mark; a snapshot of nothing must not follow from it."""
    away = FolderState(seen_mark="", seen_since=ago(hours=2), protected_mark="a")
    assert due(WATCHED, away, now=NOW, zone=UTC) is None


def test_who_asks_is_not_made_to_wait_and_is_served_once() -> None:
    asked = FolderState(started_at=ago(hours=1), asked_at=ago(minutes=1))
    served = FolderState(started_at=NOW, asked_at=ago(minutes=1))
    rule = FolderRule(name="plans", path="/srv/plans")
    assert [due(rule, state, now=NOW, zone=UTC) for state in (asked, served, FolderState())] == ["asked", None, None]


def test_a_schedule_follows_the_wall_clock_of_its_zone_over_a_change_of_summer_time() -> None:
    """Two at night in Berlin is 00:00 UTC in summer and 01:00 in winter."""
    berlin = ZoneInfo("Europe/Berlin")
    before = datetime(2026, 10, 24, 12, 0, tzinfo=UTC)
    first = next_time("0 2 * * *", before, berlin)
    second = next_time("0 2 * * *", first, berlin)
    assert (first.astimezone(UTC).hour, second.astimezone(UTC).hour) == (0, 1)


@pytest.mark.parametrize("cron", ["61 * * * *", "every night", "0 0 31 2 *", ""])
def test_what_never_comes_is_no_schedule(cron: str) -> None:
    """Said when the policy is read, not found out when nothing was protected for a month."""
    assert cron_problem(cron)
    assert not cron_problem("*/5 8-18 * * 1-5")
