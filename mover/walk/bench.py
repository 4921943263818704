"""A walk without a daemon: for the benchmark, and for whoever wants the engine alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import psycopg
from msgspec import Struct

from mover.clock import monotonic_s
from mover.randomness import new_id
from mover.tiers import beneath
from mover.walk.changes import ChangesLedger
from mover.walk.conductor import Step, Totals, Walk
from mover.walk.ledger import CatalogLedger, Place
from mover.walk.reader import Job, Seen
from mover.walk.readers import PROCESSES, InThread, Lookers, Readers


class _Forgetful:
    """A ledger that keeps the frontier in memory and hands every part to `sink`."""

    def __init__(self, prefix: bytes, sink: Callable[[Seen], None]) -> None:
        self._left = [prefix]
        self._parked: dict[bytes, list[bytes]] = {}
        self._sink = sink

    def load(self, limit: int) -> list[bytes]:
        left, self._left = self._left[:limit], self._left[limit:]
        return left

    def reopened(self) -> set[bytes]:
        return set()

    def known(self, folders: Sequence[bytes]) -> Mapping[bytes, list[bytes]]:
        return {}

    def write(self, seen: Seen) -> None:
        self._sink(seen)

    def commit(self, step: Step) -> int:
        self._left += step.spilled
        for parent, folders in step.parked.items():
            self._parked.setdefault(parent, []).extend(folders)
        released = [folder for parent in step.released for folder in self._parked.pop(parent, [])]
        self._left += released
        return len(released)


def walk_posix(
    root: str | os.PathLike[str],
    sink: Callable[[Seen], None] = lambda seen: None,
    *,
    prefix: str = "",
    processes: int = PROCESSES,
    cross_mounts: bool = False,
) -> Totals:
    """Names and states of everything below `root`, part by part into `sink`; nothing is kept."""
    folder = beneath.open_root(os.fspath(root))
    try:
        job = Job(scan=b"-", root=folder, hide=True, sealed=False, cross_mounts=cross_mounts)
        readers = Readers(job, processes=processes)
        try:
            walk = Walk(_Forgetful(os.fsencode(prefix), sink), readers, left=1)
            walk.run()
            return walk.totals
        finally:
            readers.close()
    finally:
        os.close(folder)


class Staged(Struct, frozen=True):
    """A walk into the staging table and, if asked for, its merge. Seconds are of the walk alone, with the start of
    its processes and its commits, and of the merge alone."""

    scan: str
    totals: Totals
    walk_s: float
    merge_s: float = 0.0


def stage_posix(
    root: str | os.PathLike[str],
    dsn: str,
    *,
    project: str,
    tier: str,
    processes: int = PROCESSES,
    merge: bool = False,
) -> Staged:
    """A scan of a deidentified posix tier that is registered in this catalog. Without `merge` what it staged is
    thrown away at the end, so that it can be measured again."""
    place = _new_scan(dsn, project, tier)
    folder, state = beneath.open_root(os.fspath(root)), "incomplete"
    try:
        began_s = monotonic_s()
        with CatalogLedger(dsn, place) as ledger:
            job = Job(scan=place.scan.encode(), root=folder, hide=True, sealed=False, cross_mounts=False)
            readers = Readers(job, processes=processes, tier=tier)
            try:
                walk = Walk(ledger, readers, left=ledger.begin())
                walk.run()
            finally:
                readers.close()
            walked_s = monotonic_s()
            if merge:
                ledger.merge()
                state = "complete" if ledger.settle().complete else state
        merge_s = monotonic_s() - walked_s if merge else 0.0
        return Staged(place.scan, walk.totals, walked_s - began_s, merge_s)
    finally:
        os.close(folder)
        _end_scan(dsn, place, state)


def changes_posix(root: str | os.PathLike[str], dsn: str, *, project: str, tier: str) -> Staged:
    """A scan of changes, merged, after a complete `stage_posix` and with a watcher that was heard since."""
    place = _new_scan(dsn, project, tier, method="changes")
    folder, state = beneath.open_root(os.fspath(root)), "failed"
    try:
        began_s = monotonic_s()
        with ChangesLedger(dsn, place) as ledger:
            left = ledger.begin()
            job = Job(scan=place.scan.encode(), root=folder, hide=True, sealed=False, cross_mounts=False)
            lookers: Lookers = InThread(job) if ledger.pointed.few else Readers(job, tier=tier)
            try:
                walk = Walk(ledger, lookers, look=ledger.look, left=left)
                walk.run()
            finally:
                lookers.close()
            walked_s = monotonic_s()
            ledger.merge()
            state = "caught-up" if ledger.settle().complete else "incomplete"
        return Staged(place.scan, walk.totals, walked_s - began_s, monotonic_s() - walked_s)
    finally:
        os.close(folder)
        _end_scan(dsn, place, state)


def _new_scan(dsn: str, project: str, tier: str, *, method: str = "walk") -> Place:
    scan = new_id("scan")
    with psycopg.connect(dsn) as conn:
        conn.execute("select set_config('mover.project', %s, true)", [project])
        row = conn.execute(
            "insert into mover.scan (id, project_id, tier, method, created_by) values (%s, %s, %s, %s, 'bench')"
            " returning number",
            [scan, project, tier, method],
        ).fetchone()
    assert row is not None
    return Place(scan=scan, project=project, tier=tier, number=row[0], prefix=b"", tag=b"")


def _end_scan(dsn: str, place: Place, state: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("select set_config('mover.project', %s, true)", [place.project])
        conn.execute("delete from mover.staged where scan_id = %s", [place.scan])
        conn.execute("delete from mover.scan_folder where scan_id = %s", [place.scan])
        conn.execute("update mover.scan set state = %s where id = %s", [state, place.scan])
