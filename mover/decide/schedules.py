"""When a plain folder is protected next: by the clock, after a change that has settled, or when somebody asks.

A change has settled when the folder looked the same for `settled_s`: a training run that still writes is not cut in
half. By the clock means cron's five fields (POSIX crontab, in the rule's time zone); a time that passed while no daemon
ran is caught up once, not as often as it passed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from cronsim import CronSim, CronSimError
from msgspec import Struct

from mover.model.policy import FolderRule

Cause = Literal["first", "schedule", "change", "asked"]


class FolderState(Struct, frozen=True, kw_only=True):
    """What is known of a folder. Marks are digests over names, sizes and times; '' is none."""

    started_at: datetime | None = None  # of the newest attempt
    asked_at: datetime | None = None
    protected_mark: str = ""  # what the newest whole snapshot saw
    seen_mark: str = ""
    seen_since: datetime | None = None  # it has looked like this since


def due(rule: FolderRule, state: FolderState, *, now: datetime, zone: tzinfo) -> Cause | None:
    """Why the folder is protected now, or None."""
    if state.asked_at is not None and (state.started_at is None or state.asked_at > state.started_at):
        return "asked"
    if rule.cron is not None:
        if state.started_at is None:
            return "first"
        if next_time(rule.cron, state.started_at, zone) <= now:
            return "schedule"
    changed_at = unprotected_since(state)
    if rule.settled_s is not None and changed_at is not None and now - changed_at >= timedelta(seconds=rule.settled_s):
        return "change"
    return None


def unprotected_since(state: FolderState) -> datetime | None:
    """Since when the folder has held something that no whole snapshot does, as far as it was looked at."""
    return state.seen_since if state.seen_mark and state.seen_mark != state.protected_mark else None


def next_time(cron: str, after: datetime, zone: tzinfo) -> datetime:
    """The next time of this schedule after `after`. ValueError for what is no schedule."""
    try:
        return next(CronSim(cron, after.astimezone(zone)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"{cron!r} is no schedule that ever comes: {error}") from error


def cron_problem(cron: str) -> str:
    """What is wrong with a schedule, in words; '' when nothing is. Which day it is asked for does not matter."""
    try:
        next_time(cron, datetime(2024, 1, 1, tzinfo=UTC), UTC)
    except ValueError as error:
        return str(error)
    return ""
