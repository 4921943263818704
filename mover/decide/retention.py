"""Which snapshots to keep: facts in, verdicts with reasons out; and which rules protect less than others.

Time of record is what the database wrote at commit, order is the sequence it gave (D12); the time inside a snapshot,
which a client sent, is never seen here. So a back-dated or future-dated snapshot stands where it was recorded.
Rules are evaluated from the newest record to the oldest, in periods of UTC. With no rule at all everything is kept.

What may displace a legitimate snapshot? Every rule counts the newest first, so whoever can record can displace. Hence:

- *Young* ones, on record for less than `at_least_s`, are kept and count for nothing: people have that long to notice.
- *Doubtful* ones are kept and count for nothing until two persons agree: one of a flood (many of a series within an
  hour), one that collapsed (half of what the series had is gone from it), one whose file is missing.
- The newest of a series that counts is what proves it protected; no rule forgets it.

Nothing is lost by this: leaving a record out of the count can only keep older ones longer. Whatever somebody adds in
such a way, each snapshot that was kept without it is kept with it; a test holds us to that. What remains is patience:
somebody who records one plausible snapshot an hour for weeks does displace by `last`; `monthly` and holds do not care.

The database judges by the same rules in SQL (`mover.snapshots_kept`) before it lets anything go: this module gives the
reasons, that one the right. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from statistics import median
from typing import Any, Literal

from msgspec import Struct, structs

from mover.errors import RequestInvalid
from mover.model.policy import KeepRules, ProtectPolicy, SecondRule

Doubt = Literal["flood", "collapsed", "missing"]
COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
DOUBTS: dict[Doubt, str] = {
    "flood": "one of a flood: kept until two persons agree, and it displaces nothing",
    "collapsed": "far smaller than what was there: kept until two persons agree, and it displaces nothing",
    "missing": "its file is missing from the repository",
}
PERIODS_REMEMBERED = 1 << 16
END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class SnapshotRecord(Struct, frozen=True):
    id: str
    sequence: int
    recorded_at: datetime
    tags: tuple[str, ...] = ()
    held: bool = False
    doubt: Doubt | None = None
    bytes: int = 0


class Verdict(Struct, frozen=True):
    id: str
    keep: bool
    reasons: tuple[str, ...]
    bytes: int = 0


def plan(snapshots: Sequence[SnapshotRecord], keep: KeepRules, *, now: datetime | None = None) -> list[Verdict]:
    """One verdict per snapshot of one series, newest record first, each with every reason that applies. Without `now`
    none counts as young."""
    _refuse_nonsense(snapshots, keep)
    newest_first = sorted(snapshots, key=lambda snapshot: snapshot.sequence, reverse=True)
    young_since = END_OF_TIME if now is None else now - timedelta(seconds=keep.at_least_s)
    reasons: dict[str, list[str]] = {s.id: _own_reasons(s, keep, young_since) for s in newest_first}
    if keep.none:
        for snapshot in newest_first:
            reasons[snapshot.id].append("no keep rule is set, so everything is kept")
    counted = [s for s in newest_first if s.doubt is None and s.recorded_at <= young_since]
    for snapshot in counted[:1]:
        reasons[snapshot.id].append("the newest that counts: that the series is protected rests on it")
    _keep_last(counted, keep.last, reasons)
    for name, count, period in _periods(keep):
        _keep_periods(counted, name, count, period, reasons)
    _keep_within(counted, keep.within_s, reasons)
    lost = f"no rule keeps it ({spoken(keep)})"
    return [
        Verdict(snapshot.id, bool(reasons[snapshot.id]), tuple(reasons[snapshot.id]) or (lost,), snapshot.bytes)
        for snapshot in newest_first
    ]


def _own_reasons(snapshot: SnapshotRecord, keep: KeepRules, young_since: datetime) -> list[str]:
    found = ["it is held"] if snapshot.held else []
    if snapshot.doubt is not None:
        found.append(DOUBTS[snapshot.doubt])
    if snapshot.recorded_at > young_since:
        found.append(f"on record for less than {lasting(keep.at_least_s)}")
    return found + [f"tag {tag!r} is kept" for tag in keep.tags if tag in snapshot.tags]


def _keep_last(counted: list[SnapshotRecord], count: int, reasons: dict[str, list[str]]) -> None:
    for place, snapshot in enumerate(counted[:count], start=1):
        reasons[snapshot.id].append(f"last {place} of {count}")


def _keep_periods(
    counted: list[SnapshotRecord],
    name: str,
    count: int,
    period: Callable[[datetime], str],
    reasons: dict[str, list[str]],
) -> None:
    """The newest record of each period, for the `count` periods met first. Periods without a snapshot do
    not use up the count."""
    seen: set[str] = set()
    for snapshot in counted:
        if len(seen) >= count:
            return
        key = period(snapshot.recorded_at)
        if key not in seen:
            seen.add(key)
            reasons[snapshot.id].append(f"{name} {len(seen)} of {count} ({key})")


def _keep_within(counted: list[SnapshotRecord], within_s: int | None, reasons: dict[str, list[str]]) -> None:
    if within_s is None or not counted:
        return
    since = counted[0].recorded_at - timedelta(seconds=within_s)
    for snapshot in counted:
        if snapshot.recorded_at >= since:
            reasons[snapshot.id].append(f"recorded within {lasting(within_s)} of the newest that counts")


@lru_cache(maxsize=PERIODS_REMEMBERED)
def _spelt(time: datetime, form: str) -> str:
    return time.strftime(form)


def _periods(keep: KeepRules) -> tuple[tuple[str, int, Callable[[datetime], str]], ...]:
    """A week belongs to the year of its Thursday (ISO 8601): the 31st of December may lie in week 1."""
    return (
        ("hourly", keep.hourly, lambda time: _spelt(time, "%Y-%m-%d %H h")),
        ("daily", keep.daily, lambda time: _spelt(time, "%Y-%m-%d")),
        ("weekly", keep.weekly, lambda time: _spelt(time, "%G-W%V")),
        ("monthly", keep.monthly, lambda time: _spelt(time, "%Y-%m")),
        ("yearly", keep.yearly, lambda time: _spelt(time, "%Y")),
    )


def spoken(keep: KeepRules) -> str:
    """The rules in a person's words, for the reason of what is forgotten."""
    counted = [f"{name} {getattr(keep, name)}" for name in COUNTS if getattr(keep, name)]
    if keep.within_s is not None:
        counted.append(f"within {lasting(keep.within_s)}")
    return ", ".join(counted + [f"tag {tag!r}" for tag in keep.tags])


def lasting(seconds: int) -> str:
    """A duration as people say it, where it is one of whole days or hours."""
    for unit, length in (("days", 86_400), ("hours", 3600)):
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _refuse_nonsense(snapshots: Sequence[SnapshotRecord], keep: KeepRules) -> None:
    counts = (*(getattr(keep, name) for name in COUNTS), keep.at_least_s)
    if any(count < 0 for count in counts) or (keep.within_s is not None and keep.within_s < 0):
        raise RequestInvalid("a keep rule counts less than nothing")
    if len({snapshot.id for snapshot in snapshots}) != len(snapshots):
        raise RequestInvalid("a snapshot stands twice in the list to judge")
    if len({snapshot.sequence for snapshot in snapshots}) != len(snapshots):
        raise RequestInvalid("two snapshots have the same place in the order of record")
    if any(snapshot.recorded_at.utcoffset() != timedelta(0) for snapshot in snapshots):
        raise RequestInvalid("a time of record is not UTC")


# --- terms: what protects less -----------------------------------------------------------------------------------


class Terms(Struct, frozen=True):
    """What a protect policy promises about how long: the part of its file that cannot be shortened by one person."""

    keep: KeepRules = KeepRules()
    trash_s: int = 0
    delay_s: int = 0
    breaker_percent: int = 0
    lock_s: int = 0
    lock_strength: int = 0  # 2: nobody can unlock; 1: who has a special right can; 0: not locked
    copy: str = ""  # tier/prefix of the second repository
    copy_every_s: int = 0


def terms_of(policy: ProtectPolicy) -> Terms:
    strength = 2 if policy.lock_s and policy.lock_mode == "compliance" else 1
    second = policy.copy
    return Terms(
        policy.keep, policy.trash_s, policy.delay_s, policy.breaker_percent, policy.lock_s or 0,
        strength if policy.lock_s or policy.append_only else 0,
        f"{second.repository}/{second.prefix}" if second else "", second.every_s if second else 0,
    )  # fmt: skip


def in_force(policy: ProtectPolicy, terms: Terms) -> ProtectPolicy:
    """The policy with what holds of it whatever less its file says: what is done by a policy's own words, without the
    database, is its lock, its immutable files, its second repository and how much may go at once."""
    changes = _locked(terms_of(policy), terms) | _copied(policy, terms)
    if 0 < terms.breaker_percent < policy.breaker_percent:
        changes["breaker_percent"] = terms.breaker_percent
    return structs.replace(policy, **changes) if changes else policy


def _locked(said: Terms, terms: Terms) -> dict[str, Any]:
    if said.lock_s >= terms.lock_s and said.lock_strength >= terms.lock_strength:
        return {}
    if not terms.lock_s:
        return {"append_only": "chattr"} if not said.lock_s else {}
    strict = max(said.lock_strength, terms.lock_strength) == 2
    mode = "compliance" if strict else "governance"
    return {"lock_s": max(said.lock_s, terms.lock_s), "lock_mode": mode, "append_only": None}


def _copied(policy: ProtectPolicy, terms: Terms) -> dict[str, Any]:
    if not {"copy", "copy_every_s"} & set(shorter(terms, terms_of(policy))):
        return {}
    repository, _, prefix = terms.copy.partition("/")
    return {"copy": SecondRule(repository=repository, prefix=prefix, every_s=terms.copy_every_s)}


def shorter(before: Terms, after: Terms) -> tuple[str, ...]:
    """The words of `after` that promise less than `before` did, as the database names them. Anything that is not at
    least as long in every rule counts as shorter: `last 3` is not made up for by `monthly 12`."""
    found = _shorter_rules(before.keep, after.keep)
    lengths = ("trash_s", "delay_s", "lock_s", "lock_strength")
    found += [word for word in lengths if getattr(after, word) < getattr(before, word)]
    if after.breaker_percent > before.breaker_percent:
        found.append("breaker_percent")
    if before.copy and after.copy != before.copy:
        found.append("copy")
    if 0 < before.copy_every_s < after.copy_every_s:
        found.append("copy_every_s")
    return tuple(sorted(found))


def _shorter_rules(before: KeepRules, after: KeepRules) -> list[str]:
    found = ["keep.at_least_s"] if after.at_least_s < before.at_least_s else []
    if after.none:
        return found
    found += [f"keep.{name}" for name in COUNTS if before.none or getattr(after, name) < getattr(before, name)]
    within = [-1 if keep.within_s is None else keep.within_s for keep in (before, after)]
    if within[1] < within[0]:
        found.append("keep.within_s")
    if not set(before.tags) <= set(after.tags):
        found.append("keep.tags")
    return found


FREE_PACKS = 20  # so few may always go: of a small repository they are many percent


def breaks(removed: int, total: int, percent: int) -> bool:
    """Whether so much at once needs two persons (`large`)."""
    return removed > max(FREE_PACKS, total * percent // 100)


# --- simulation ----------------------------------------------------------------------------------------------------

STEP_DAYS = 7
LATER_MAX = 500  # snapshots that are thought up for one series
PACE_OF = 20  # its newest ones tell how often a series is recorded


class Moment(Struct, frozen=True):
    """What would be kept at one time, and how much that is before anything is shared."""

    at: datetime
    kept: int
    bytes: int


class Leaving(Struct, frozen=True):
    """A snapshot that stands today, and when it would have to go; in the past: it would be gone already."""

    id: str
    series: str
    at: datetime
    reason: str


class Simulation(Struct, frozen=True):
    moments: tuple[Moment, ...]
    leaving: tuple[Leaving, ...]
    later: int  # how many snapshots the time ahead was thought to bring


def simulate(
    history: Mapping[str, Sequence[SnapshotRecord]], keep: KeepRules, *, now: datetime, past_days: int, ahead_days: int
) -> Simulation:
    """What these rules would have kept, week by week, and will keep if each series goes on at its pace. `history`
    holds every record, forgotten ones too. Exact at each moment: what rules keep at a time, they kept at every time
    before, so in which steps one forgets makes no difference."""
    times = [now + timedelta(days=day) for day in _days(past_days, ahead_days)]
    later = {name: _later(records, now=now, until=times[-1]) for name, records in history.items()}
    kept, size_bytes = [0] * len(times), [0] * len(times)
    leaving: list[Leaving] = []
    for name, records in history.items():
        gone: dict[str, Leaving] = {}
        for at, time in enumerate(times):
            seen = [one for one in (*records, *later[name]) if one.recorded_at <= time]
            sizes = {one.id: one.bytes for one in seen}
            for verdict in plan(seen, keep, now=time):
                if verdict.keep:
                    kept[at] += 1
                    size_bytes[at] += sizes[verdict.id]
                else:
                    gone.setdefault(verdict.id, Leaving(verdict.id, name, time, verdict.reasons[0]))
        thought_up = {one.id for one in later[name]}
        leaving += [one for one in gone.values() if one.id not in thought_up]
    moments = tuple(Moment(*one) for one in zip(times, kept, size_bytes, strict=True))
    return Simulation(
        moments, tuple(sorted(leaving, key=lambda one: (one.at, one.id))), sum(len(one) for one in later.values())
    )


def _days(past: int, ahead: int) -> list[int]:
    return [*range(-past, 0, STEP_DAYS), 0, *range(STEP_DAYS, ahead, STEP_DAYS), *([ahead] if ahead else [])]


def _later(records: Sequence[SnapshotRecord], *, now: datetime, until: datetime) -> list[SnapshotRecord]:
    """What a series would bring by going on as its newest ones did; one that stood still for longer than its pace
    brings nothing more."""
    newest = sorted(records, key=lambda one: one.sequence)[-PACE_OF:]
    gaps = [(b.recorded_at - a.recorded_at).total_seconds() for a, b in zip(newest, newest[1:], strict=False)]
    if not gaps or median(gaps) <= 0:
        return []
    pace = timedelta(seconds=max(median(gaps), (until - now).total_seconds() / LATER_MAX))
    last = newest[-1]
    if now - last.recorded_at > 3 * pace:
        return []
    first = max(1, -(-(now - last.recorded_at) // pace))
    times = [last.recorded_at + count * pace for count in range(first, first + LATER_MAX + 1)]
    return [
        SnapshotRecord(f"later {count}", last.sequence + count, time, bytes=last.bytes)
        for count, time in enumerate(times, start=1)
        if now < time <= until
    ]
