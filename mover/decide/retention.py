"""Which snapshots to keep: facts in, verdicts with reasons out.

Time of record is what the server wrote at commit, order is the sequence it gave (D12); the time inside a
snapshot, which a client sent, is never seen here. So a back-dated or future-dated snapshot stands where it
was recorded and displaces nothing. Rules are evaluated from the newest record to the oldest; periods are
UTC. A snapshot is kept when it is held or when any rule keeps it; with no rule at all, everything is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from mover.errors import RequestInvalid
from mover.model.policy import KeepRules


class SnapshotRecord(Struct, frozen=True):
    id: str
    sequence: int
    recorded_at: datetime
    tags: tuple[str, ...] = ()
    held: bool = False


class Verdict(Struct, frozen=True):
    id: str
    keep: bool
    reasons: tuple[str, ...]


def plan(snapshots: Sequence[SnapshotRecord], keep: KeepRules) -> list[Verdict]:
    """One verdict per snapshot, newest record first, each with every reason that applies."""
    _refuse_nonsense(snapshots, keep)
    newest_first = sorted(snapshots, key=lambda snapshot: snapshot.sequence, reverse=True)
    reasons: dict[str, list[str]] = {snapshot.id: _own_reasons(snapshot, keep) for snapshot in newest_first}
    if keep.none:
        for snapshot in newest_first:
            reasons[snapshot.id].append("no keep rule is set, so everything is kept")
    _keep_last(newest_first, keep.last, reasons)
    for name, count, period in _periods(keep):
        _keep_periods(newest_first, name, count, period, reasons)
    _keep_within(newest_first, keep.within_s, reasons)
    lost = f"no rule keeps it ({_spoken(keep)})"
    return [
        Verdict(snapshot.id, bool(reasons[snapshot.id]), tuple(reasons[snapshot.id]) or (lost,))
        for snapshot in newest_first
    ]


def _own_reasons(snapshot: SnapshotRecord, keep: KeepRules) -> list[str]:
    found = ["it is held"] if snapshot.held else []
    return found + [f"tag {tag!r} is kept" for tag in keep.tags if tag in snapshot.tags]


def _keep_last(newest_first: list[SnapshotRecord], count: int, reasons: dict[str, list[str]]) -> None:
    for place, snapshot in enumerate(newest_first[:count], start=1):
        reasons[snapshot.id].append(f"last {place} of {count}")


def _keep_periods(
    newest_first: list[SnapshotRecord],
    name: str,
    count: int,
    period: Callable[[datetime], str],
    reasons: dict[str, list[str]],
) -> None:
    """The newest record of each period, for the `count` periods met first. Periods without a snapshot do
    not use up the count."""
    seen: set[str] = set()
    for snapshot in newest_first:
        if len(seen) >= count:
            return
        key = period(snapshot.recorded_at)
        if key not in seen:
            seen.add(key)
            reasons[snapshot.id].append(f"{name} {len(seen)} of {count} ({key})")


def _keep_within(
    newest_first: list[SnapshotRecord], within_s: int | None, reasons: dict[str, list[str]]
) -> None:
    if within_s is None or not newest_first:
        return
    since = newest_first[0].recorded_at - timedelta(seconds=within_s)
    for snapshot in newest_first:
        if snapshot.recorded_at >= since:
            reasons[snapshot.id].append(f"recorded within {within_s} s of the newest")


def _periods(keep: KeepRules) -> tuple[tuple[str, int, Callable[[datetime], str]], ...]:
    return (
        ("hourly", keep.hourly, lambda time: time.strftime("%Y-%m-%d %H h")),
        ("daily", keep.daily, lambda time: time.strftime("%Y-%m-%d")),
        ("weekly", keep.weekly, lambda time: time.strftime("%G-W%V")),
        ("monthly", keep.monthly, lambda time: time.strftime("%Y-%m")),
        ("yearly", keep.yearly, lambda time: time.strftime("%Y")),
    )


def _spoken(keep: KeepRules) -> str:
    """The rules in a person's words, for the reason of what is forgotten."""
    counted = [
        f"{name} {count}"
        for name, count in (("last", keep.last), *((name, count) for name, count, _ in _periods(keep)))
        if count
    ]
    if keep.within_s is not None:
        counted.append(f"within {keep.within_s} s")
    return ", ".join(counted + [f"tag {tag!r}" for tag in keep.tags])


def _refuse_nonsense(snapshots: Sequence[SnapshotRecord], keep: KeepRules) -> None:
    counts = (keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly)
    if any(count < 0 for count in counts) or (keep.within_s is not None and keep.within_s < 0):
        raise RequestInvalid("a keep rule counts less than nothing")
    if len({snapshot.id for snapshot in snapshots}) != len(snapshots):
        raise RequestInvalid("a snapshot stands twice in the list to judge")
    if len({snapshot.sequence for snapshot in snapshots}) != len(snapshots):
        raise RequestInvalid("two snapshots have the same place in the order of record")
    if any(snapshot.recorded_at.utcoffset() != timedelta(0) for snapshot in snapshots):
        raise RequestInvalid("a time of record is not UTC")
