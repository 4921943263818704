"""Step 3b: bring a run's slides to flash (shards `run-stage`).

Order, and what a crash between leaves: content is durable and read back cold under its digest before the catalog says
it stands there; it is linked into the root before the entries say `staged`; then the root is sealed (`seal`). A crash
anywhere leaves work to repeat, never a root that claims more than it holds (I3, I4).

What stands on flash is linked in groups, one transaction each, under the locks of all their digests: our links and the
marks that they moved are one step for everybody else. What does not stand comes as the engine carries it (`fetch`),
and is linked as it comes. A kill between a group's links and its commit leaves marks that moved, so that this group,
and no more, is read again before it is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from psycopg.types.json import Jsonb

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.errors import ArchiveLost, ChangedWhileReading, DigestMismatch, EntryMissing, MoverError
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread, siblings_open
from mover.jobs.shards import cancel_shards, queue_tier, tier_queue
from mover.log import get_logger
from mover.runs import content, tars
from mover.runs.content import ContentStore
from mover.runs.fetch import Fetch
from mover.runs.seal import Seal
from mover.runs.site import Flash, get, lock, may_stage, refuse_withdrawn, requester
from mover.runs.tars import Tars
from mover.tiers.port import ReadTier
from mover.transfer import Carrier

SQL = load(__file__)
# linked in one transaction: each digest's lock takes a place in the database's shared table
LINKED_AT_ONCE = content.AT_ONCE
# and what a kill in the middle of them leaves to be read again
LINKED_BYTES_AT_ONCE = 16 << 30

How = Literal["linked", "copied"]

log = get_logger("runs")


class Stage:
    """Handlers of staging shards on a node that reaches both tiers."""

    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, ReadTier],
        flash: dict[str, Flash],
        carrier: Carrier,
        *,
        node: str,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database = database
        self._flash = flash
        self._fetch = Fetch(database, tiers, flash, carrier)
        self._tars = Tars(database, tiers, flash, carrier, self._fetch)
        self._content = ContentStore(database, flash, node=node)
        self._node = node
        self._seal = Seal(database, flash, node=node, clock=clock)

    async def stage(self, shard: Shard) -> None:
        async with self._database.project(shard.project) as conn:
            run = await get(conn, shard.subject_id)
            await refuse_withdrawn(conn, shard.subject_id, list(shard.members))
            parameters = {"run": shard.subject_id, "paths": list(shard.members)}
            if run.layout == "shards":
                entries = await tars.to_stage(conn, run, shard.members)
            else:
                entries = await SQL.many(conn, "entries_by_path", **parameters)
        await in_thread(self._flash[run.tier].roots.check_identity)
        async with self._content.room_for_next_try(shard.project, run.tier):
            lost = await self._stage_entries(shard, run, entries) if await self._begin(shard, run) else []
        async with self._database.project(shard.project) as conn:
            run = await lock(conn, shard.subject_id)
            await finish_shard(conn, shard)
            if lost:
                await conn.execute(SQL["add_offenders"], {"run": run.id, "offenders": Jsonb(lost)})
            if run.state != "staging" or await siblings_open(conn, shard) > 0:
                return
            if count := len(lost) + len(run.offenders or []):
                await self.failed(conn, shard, ArchiveLost(f"{count} files have no whole copy in the archive"))
            else:
                seal = NewShard(shard.queue, "run-seal", run.id, priority=9)
                await add_shards(conn, shard.project, [seal])

    async def seal(self, shard: Shard) -> None:
        """What `runs.seal` does. It writes little, and needs room for that."""
        async with self._content.room_for_next_try(shard.project, queue_tier(shard.queue)):
            await self._seal.seal(shard)

    async def _begin(self, shard: Shard, run: Any) -> bool:
        """The root stands from here on. False when the run is not staged any more."""
        async with self._database.project(shard.project) as conn:
            if not await may_stage(conn, shard):
                return False
            await in_thread(self._flash[run.tier].roots.begin, run.id, requester(run))
            return True

    async def _stage_entries(self, shard: Shard, run: Any, entries: list[Any]) -> list[dict[str, str]]:
        """Every entry, until the run is not staged any more. Those without a whole copy are named together, and not
        one a try: the run fails when all of it was looked at."""
        lost: list[dict[str, str]] = []
        known = await self._known(shard, run.tier, entries)
        absent = [entry for entry in entries if entry.digest not in known]
        for group in groups([entry for entry in entries if entry.digest in known]):
            left = await self._link_standing(shard, run, group)
            if left is None:
                return lost
            absent += left
        await self._content.make_room(shard.project, run.tier, sum(entry.size_bytes for entry in absent))
        fetch = (self._tars if run.layout == "shards" else self._fetch).fetch
        async with aclosing(fetch(shard, run.tier, absent)) as coming:
            async for fetched in coming:
                lost += [{"number": e.number, "path": e.path, "why": ArchiveLost.code} for e in fetched.lost]
                for group in groups(fetched.entries):
                    if not await self._link_fetched(shard, run, group):
                        return lost
        return lost

    async def _known(self, shard: Shard, tier: str, entries: list[Any]) -> set[str]:
        """Digests that may stand on flash: who finds there what it did not expect reads it."""
        async with self._database.project(shard.project) as conn:
            return set(await content.marks_of(conn, tier, [entry.digest for entry in entries]))

    # --- linking --------------------------------------------------------------------------------------------

    async def _link_standing(self, shard: Shard, run: Any, group: list[Any]) -> list[Any] | None:
        """Link what stands on flash untouched since we last looked at it; what does not stand there. None when the
        run is not staged any more."""
        digests = {entry.digest for entry in group}
        async with self._database.project(shard.project) as conn:
            known = await content.locked(conn, run.tier, digests)
            if not await may_stage(conn, shard):
                return None
            marks = await in_thread(self._flash[run.tier].roots.marks, known)
            standing = [entry for entry in group if marks.get(entry.digest, "") == known.get(entry.digest)]
            linked = await self._link(conn, run, standing, "linked")
        _count("linked", linked)
        left = without(group, linked)
        for digest in sorted(known.keys() & {entry.digest for entry in left}):
            ours = [entry for entry in left if entry.digest == digest]
            found = await self._link_moved(shard, run, digest, ours)
            if found is None:
                return None
            left = without(left, found)
        return left

    async def _link_moved(self, shard: Shard, run: Any, digest: str, entries: list[Any]) -> list[Any] | None:
        """An inode that moved without us is read whole before it is shared again; those that were linked."""
        roots = self._flash[run.tier].roots
        async with self._database.project(shard.project) as conn:
            known = await content.locked(conn, run.tier, {digest})
            if digest not in known:
                return []
            try:
                if (await in_thread(roots.marks, [digest])).get(digest) != known[digest]:
                    await in_thread(roots.check_content, digest)
            except (EntryMissing, ChangedWhileReading):
                await content.forget(conn, run.tier, digest)
                return []
            except DigestMismatch:
                await content.set_aside(conn, self._flash[run.tier], run.tier, digest)
                return []
            if not await may_stage(conn, shard):
                return None
            linked = await self._link(conn, run, entries, "linked")
        _count("linked", linked)
        return linked

    async def _link_fetched(self, shard: Shard, run: Any, group: list[Any]) -> bool:
        """Link what was read back a moment ago. False when the run is not staged any more."""
        async with self._database.project(shard.project) as conn:
            await content.locked(conn, run.tier, {entry.digest for entry in group})
            if not await may_stage(conn, shard):
                return False
            linked = await self._link(conn, run, group, "copied")
        _count("copied", linked)
        if len(linked) < len(group):
            raise ChangedWhileReading("content went away before it was linked", where=run.id)
        return True

    async def _link(self, conn: Connection, run: Any, entries: list[Any], how: How) -> list[Any]:
        """Links, marks, rows; those entries whose content stood there."""
        if not entries:
            return []
        pairs = [(entry.digest, entry.path) for entry in entries]
        marks = await in_thread(self._flash[run.tier].roots.share, run.id, pairs, requester(run))
        linked = [entry for entry in entries if entry.digest in marks]
        sizes = {entry.digest: entry.size_bytes for entry in linked}
        await content.put(conn, run.tier, sizes, marks)
        if run.layout == "shards":
            await tars.linked(conn, run, linked, how)
        else:
            await conn.execute(SQL["mark_staged"], {"run": run.id, "paths": [e.path for e in linked], "how": how})
        return linked

    # --- failure --------------------------------------------------------------------------------------------

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A run that cannot be staged fails with its reason; its partial root is removed."""
        run = await SQL.one(conn, "failed", id=shard.subject_id, reason=error.code, explanation=error.what)
        if run is None:
            return
        if error.details:
            await conn.execute(SQL["add_offenders"], {"run": run.id, "offenders": Jsonb(error.details)})
        await cancel_shards(conn, run.id)
        await add_shards(conn, shard.project, [NewShard(tier_queue(run.tier), "run-clean", run.id)])
        await audit.record(
            conn,
            project=shard.project,
            node=self._node,
            actor="daemon",
            action="run failed",
            subject=run.id,
            reason=error.code,
        )


def groups(entries: Sequence[Any]) -> Iterator[list[Any]]:
    """Bounded by their number and by their bytes; a larger one is alone."""
    group: list[Any] = []
    size = 0
    for entry in entries:
        if group and (len(group) == LINKED_AT_ONCE or size + entry.size_bytes > LINKED_BYTES_AT_ONCE):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size_bytes
    if group:
        yield group


def without(entries: list[Any], done: list[Any]) -> list[Any]:
    paths = {entry.path for entry in done}
    return [entry for entry in entries if entry.path not in paths]


def _count(how: How, entries: list[Any]) -> None:
    metrics.STAGED_BYTES.labels(how).inc(sum(entry.size_bytes for entry in entries))
