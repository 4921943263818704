"""What changed, for whoever looks at it: one look each second for a project that somebody watches, told to all of them.

The source is the audit, whose chains have no gap and whose records commit with what they record, and the shards that
run; so nothing is written for this, and nothing held. Many daemons see the same. An event's id is the database's clock,
so a watcher that was cut off goes on at any daemon; a little is told twice rather than missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock, end_if_cancelled
from mover.decide import changes as decide
from mover.errors import CatalogUnavailable
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity

LOOK_S = 1.0
# between two looks at what works: its rows move all the time
WORK_S = 3.0
# longer than a record takes from its stamp to its commit
OVERLAP_MS = 10_000
# a watcher that was away for longer, or missed more, asks for everything anew
RESUME_MS = 900_000
RECORDS_MAX = 2_000
SUBJECTS_MAX = 1_000

log = get_logger("changes")
_Q = load(__file__)


class _Watcher:
    """What one watcher has not heard yet: never more than a line for each noun."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._nouns: decide.Nouns = {}
        self._reset = False
        self._id = 0
        self._told = asyncio.Event()

    def tell(self, id: int, nouns: decide.Nouns | None) -> None:
        """None: more than can be said."""
        self._id = id
        self._reset = self._reset or nouns is None
        self._nouns = decide.merged(
            self._nouns, decide.heard_by(self._identity.role, self._identity.scopes, nouns or {})
        )
        if self._reset or self._nouns:
            self._told.set()

    async def take(self) -> wire.Changed | wire.ChangesReset:
        await self._told.wait()
        self._told.clear()
        nouns, reset, self._nouns, self._reset = self._nouns, self._reset, {}, False
        return wire.ChangesReset(id=self._id) if reset else _changed(self._id, nouns)


class _Watched:
    """A project that somebody watches."""

    def __init__(self) -> None:
        self.watchers: set[_Watcher] = set()
        self.ends: dict[str, int] | None = None
        self.working: frozenset[str] = frozenset()
        self.worked_s = float("-inf")


class Changes:
    def __init__(self, database: Database, *, clock: Clock = SYSTEM) -> None:
        self._database, self._clock = database, clock
        self._watched: dict[str, _Watched] = {}

    async def events(self, identity: Identity, *, after: int) -> AsyncIterator[wire.Changed | wire.ChangesReset]:
        """First what changed since event `after` (without one, in the last seconds), be it nothing; then all that
        comes, without end."""
        watcher = _Watcher(identity)
        watched = self._watched.setdefault(identity.project, _Watched())
        watched.watchers.add(watcher)  # before the first look, so that nothing falls between
        try:
            yield await self._resumed(identity, after)
            while True:
                yield await watcher.take()
        finally:
            watched.watchers.discard(watcher)
            if not watched.watchers:
                self._watched.pop(identity.project, None)

    async def run(self) -> None:
        """Until cancelled. A database that is away is looked at again: the ends that are known say what was missed."""
        while True:
            end_if_cancelled()
            for project, watched in list(self._watched.items()):
                try:
                    await self._look(project, watched)
                except CatalogUnavailable as error:
                    log.warning("changes wait", code=error.code)
            await self._clock.sleep(LOOK_S)

    async def _resumed(self, identity: Identity, after: int) -> wire.Changed | wire.ChangesReset:
        async with self._database.project(identity.project) as conn:
            now = await _now(conn)
            if after and not 0 <= now - after <= RESUME_MS:
                return wire.ChangesReset(id=now)
            records = await _lately(conn, identity.project, since=after or now)
        if records is None:
            return wire.ChangesReset(id=now)
        return _changed(now, decide.heard_by(identity.role, identity.scopes, decide.told(records)))

    async def _look(self, project: str, watched: _Watched) -> None:
        began_s = self._clock.monotonic_s()
        due = began_s - watched.worked_s >= WORK_S
        async with self._database.project(project) as conn:
            now = await _now(conn)
            ends = {row.node: row.seq for row in await _Q.many(conn, "heads", project=project)}
            records = await self._recorded(conn, project, watched, ends, now)
            rows = await _Q.many(conn, "working", limit=SUBJECTS_MAX) if due else []
        watched.ends = ends
        moved: frozenset[str] = frozenset()
        if due:
            working = frozenset(row.subject for row in rows)
            # what ended since the last look has moved, too
            moved, watched.working, watched.worked_s = working | watched.working, working, began_s
        nouns = None if records is None else decide.told(records, moved)
        for watcher in watched.watchers:
            watcher.tell(now, nouns)

    async def _recorded(
        self, conn: Connection, project: str, watched: _Watched, ends: dict[str, int], now: int
    ) -> list[tuple[str, str]] | None:
        """Since the last look; None where it is too much to tell."""
        if watched.ends is None:
            return await _lately(conn, project, since=now)
        known = watched.ends
        longer = {node: known.get(node, 0) for node, seq in ends.items() if seq != known.get(node, 0)}
        if not longer:
            return []
        asked = {"nodes": list(longer), "seqs": list(longer.values())}
        return _bounded(await _Q.many(conn, "since", project=project, limit=RECORDS_MAX + 1, **asked))


async def _now(conn: Connection) -> int:
    return int((await _Q.one(conn, "now")).ms)


async def _lately(conn: Connection, project: str, *, since: int) -> list[tuple[str, str]] | None:
    rows = await _Q.many(conn, "lately", project=project, ms=since - OVERLAP_MS, limit=RECORDS_MAX + 1)
    return _bounded(rows)


def _bounded(rows: list[Any]) -> list[tuple[str, str]] | None:
    return None if len(rows) > RECORDS_MAX else [(row.action or "", row.subject or "") for row in rows]


def _changed(id: int, nouns: decide.Nouns) -> wire.Changed:
    said = {noun: None if ids is None else sorted(ids) for noun, ids in sorted(nouns.items())}
    return wire.Changed(id=id, nouns=said)
