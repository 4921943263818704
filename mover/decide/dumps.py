"""When a dump of vault and catalog is due, which dumps stay, and whether slides may be released (R15).

Facts in, answers with reasons out. `now` is the database's, already in the wall clock of the policy's time zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from mover.decide import retention
from mover.model.policy import DumpPolicy

# what failed, or was found damaged, is made anew so much later
RETRY = timedelta(minutes=15)
# whatever the rules say: a newest dump that turns out bad must have one before it
ALWAYS_KEPT = 2


class DumpFacts(Struct, frozen=True):
    id: str
    sequence: int
    state: str  # making, verified, failed, damaged
    started_at: datetime
    taken_at: datetime | None = None  # what it holds is of this moment


class Release(Struct, frozen=True):
    """Whether new slides may be released; `why` in words for people when not. `age_s`: of the newest verified dump."""

    allowed: bool
    why: str = ""
    age_s: float | None = None


def is_due(policy: DumpPolicy, newest: DumpFacts | None, *, now: datetime) -> str:
    """Why one is due now, or nothing."""
    if newest is None:
        return "there is none yet"
    if newest.state == "making":
        return ""
    if newest.state in ("failed", "damaged"):
        return f"the newest one {_ended(newest)}" if now - newest.started_at >= RETRY else ""
    hour, minute = (int(part) for part in policy.at.split(":"))
    scheduled = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    last = scheduled if scheduled <= now else scheduled - timedelta(days=1)
    return f"every day at {policy.at}" if newest.started_at < last else ""


def _ended(dump: DumpFacts) -> str:
    return "failed" if dump.state == "failed" else "is damaged"


def judge(policy: DumpPolicy, dumps: Sequence[DumpFacts], *, now: datetime) -> list[retention.Verdict]:
    """A verdict for each verified or damaged dump; the newest two verified ones are held whatever the rules say. Young
    ones count for nothing: whoever may ask for dumps displaces no night's. A damaged one is never held, and never
    needed to keep another from going; it goes when two newer ones are whole and no rule would keep it were it whole:
    that it is damaged is a word in a row, and whoever writes rows removes nothing by it."""
    whole = [one for one in dumps if one.state == "verified"]
    damaged = [one for one in dumps if one.state == "damaged"]
    verdicts = _planned(policy, whole, now=now)
    were_whole = {one.id: one for one in _planned(policy, [*whole, *damaged], now=now)}
    return verdicts + [
        were_whole[one.id] for one in damaged
        if sum(other.sequence > one.sequence for other in whole) >= ALWAYS_KEPT
    ]  # fmt: skip


def _planned(policy: DumpPolicy, dumps: Sequence[DumpFacts], *, now: datetime) -> list[retention.Verdict]:
    newest_first = sorted(dumps, key=lambda one: one.sequence, reverse=True)
    held = {one.id for one in newest_first[:ALWAYS_KEPT]}
    records = [
        retention.SnapshotRecord(one.id, one.sequence, one.taken_at or one.started_at, held=one.id in held)
        for one in newest_first
    ]
    return retention.plan(records, policy.keep, now=now)


def may_release(policy: DumpPolicy, age_s: float | None) -> Release:
    """`age_s` of the newest verified dump of the policy, None without any."""
    if age_s is None:
        return Release(False, "there is no verified dump of vault and catalog")
    if age_s > policy.max_age_s:
        allowed = _hours(policy.max_age_s)
        why = f"the newest verified dump of vault and catalog is {_hours(age_s)} old; {allowed} are allowed"
        return Release(False, why, age_s)
    return Release(True, "", age_s)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"
