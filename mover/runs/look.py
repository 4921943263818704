"""What of runs can be seen: views, pages, the manifest, entries as they come, the line, estimates."""

from __future__ import annotations

from typing import Any

import msgspec

from mover.catalog import proofs
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide import estimates
from mover.decide.admission import TierSpace, missing_bytes
from mover.decide.estimates import Estimate, Hold, Pace
from mover.errors import Conflict, NotFound, TierError
from mover.jobs import in_thread
from mover.model import wire
from mover.runs.admission import WAITING_MAX
from mover.runs.roots import run_key
from mover.runs.site import RunSite, get, strays_of

SQL = load(__file__)
PAGE_MAX = 1000
# of a refused run in a page; its own view names all
PAGE_OFFENDERS = 20
# runs that an estimate learns from
HISTORY_MAX = 200
# in a class that has a method `list`, the word means that method
StagedEntries = list[wire.StagedEntry]
StagedNumbers = list[str]
StagedEvents = list[wire.RunEvent]

# states in which shards move a run on
WORKING = frozenset({"staging", "finishing", "protecting", "cleaning", "cancelled", "failed"})
COMING = frozenset({"admitted", "staging"})


class Look:
    def __init__(self, site: RunSite) -> None:
        self._site = site

    async def view(self, project: str, run: str) -> wire.Run:
        async with self._site.database.project(project) as conn:
            row = await self._seen(conn, run)
            return await self._view(conn, row, **await self._outlook(conn, row))

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.RunPage:
        async with self._site.database.project(project) as conn:
            parameters = {"after": after, "limit": min(limit, PAGE_MAX)}
            ids = [row.id for row in await SQL.many(conn, "page", **parameters)]
            rows = await SQL.many(conn, "seen", ids=ids, offenders=PAGE_OFFENDERS)
            runs = [await self._view(conn, row) for row in rows]
        return wire.RunPage(runs=runs, next=ids[-1] if len(ids) == parameters["limit"] else None)

    async def manifest(self, project: str, run: str) -> str:
        """The sealed manifest, kept for ever."""
        async with self._site.database.project(project) as conn:
            row = await get(conn, run)
        if row.manifest is None:
            raise Conflict(f"the run is {row.state}; its manifest is sealed with `ready`", where=run)
        return str(row.manifest)

    async def ready(self, project: str, run: str, after: str | None = None, limit: int = PAGE_MAX) -> StagedEntries:
        """Entries that may be read already, in order of path."""
        async with self._site.database.project(project) as conn:
            await get(conn, run)
            parameters = {"run": run, "after": after or "", "limit": min(limit, PAGE_MAX)}
            rows = await SQL.many(conn, "staged", **parameters)
        return [wire.StagedEntry(**row._asdict()) for row in rows]

    async def progress(self, project: str, run: str) -> wire.RunProgress:
        """How far it is; the pace is the watcher's to tell, who looks more than once."""
        async with self._site.database.project(project) as conn:
            row = await self._seen(conn, run, offenders=0)
            outlook = await self._outlook(conn, row)
        return wire.RunProgress(
            run=run, state=row.state, count=row.count, bytes=row.bytes, staged_count=row.staged_count,
            staged_bytes=row.staged_bytes, queue=outlook.get("queue"), estimate=outlook.get("estimate"),
        )  # fmt: skip

    async def events(self, project: str, run: str, *, after: int) -> StagedEvents:
        """The states it came into since, in their order."""
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "events", run=run, after=after)
        return [wire.RunEvent(id=row.seq, run=run, state=row.state, reason=row.reason, at=row.at) for row in rows]

    async def _seen(self, conn: Connection, run: str, *, offenders: int | None = None) -> Any:
        rows = await SQL.many(conn, "seen", ids=[run], offenders=offenders)
        if not rows:
            raise NotFound("no such run", where=run)
        return rows[0]

    async def _view(
        self, conn: Connection, row: Any, *, queue: wire.QueuePlace | None = None,
        estimate: wire.Estimate | None = None, explanation: str | None = None,
    ) -> wire.Run:  # fmt: skip
        seen = f"{self._site.flash[row.tier].seen_as}/{run_key(row.id)}" if row.tier in self._site.flash else None
        present = row.state not in ("requested", "refused", "cleaned")
        strays = await strays_of(conn, row.id) if row.state in ("cleaning", "cleaned") else []
        snapshots = await SQL.many(conn, "snapshots", run=row.id) if row.finished_at else []
        return wire.Run(
            id=row.id,
            state=row.state,
            tier=row.tier,
            policy=row.policy,
            reason=row.reason,
            explanation=row.explanation or explanation or await self._trouble(conn, row),
            offenders=row.offenders or [],
            offenders_count=row.offenders_count,
            priority=row.priority,
            deadline=row.deadline,
            queue=queue,
            event=row.event,
            estimate=estimate,
            root=seen if present else None,
            out=f"{seen}/out" if present and row.ready_at else None,
            count=row.count,
            bytes=row.bytes,
            staged_count=row.staged_count,
            staged_bytes=row.staged_bytes,
            linked_count=row.linked_count,
            manifest_root=row.manifest_root,
            lease_until=row.lease_until,
            created_at=row.created_at,
            ready_at=row.ready_at,
            cleaned_at=row.cleaned_at,
            expression=row.expression,
            snapshots=[s.id for s in snapshots],
            strays=[s._asdict() for s in strays],
            proofs=await proofs.of_subject(conn, row.id) if row.proved else [],
            like=row.like_id,
            exact=row.like_root == row.manifest_root if row.like_id and row.manifest_root else None,
            removed=await self._removed(conn, row),
        )

    async def _removed(self, conn: Connection, row: Any) -> StagedNumbers:
        """What became of the promise that a manifest can be staged again."""
        return [one.number for one in await SQL.many(conn, "removed", run=row.id)] if row.manifest_root else []

    async def _trouble(self, conn: Connection, row: Any) -> str | None:
        if row.state not in WORKING:
            return None
        found = await SQL.one(conn, "trouble", id=row.id)
        return f"tried again after {found.code}: {found.error}" if found else None

    # --- what comes -----------------------------------------------------------------------------------------

    async def _outlook(self, conn: Connection, row: Any) -> dict[str, Any]:
        """Where a run that is not staged yet stands in the line, and how long it may take."""
        if row.state == "requested":
            return await self._in_line(conn, row)
        if row.state not in COMING:
            return {}
        left = 1 - row.staged_bytes / max(row.bytes, 1)
        return {"estimate": _told(await self._staging(conn, row, left=left))}

    async def _in_line(self, conn: Connection, row: Any) -> dict[str, Any]:
        place = await SQL.one(conn, "place", run=row.id, tier=row.tier, limit=WAITING_MAX)
        if place is None:
            return {}  # let in this moment, or so far behind that it is not judged yet
        ahead = place.asked - row.wanted_bytes
        space = await self._space(row, place.promised)
        if space is None:
            return {"queue": wire.QueuePlace(position=place.position, ahead_bytes=ahead)}
        missing = missing_bytes([place.asked], space)
        wait = await self._waiting(conn, row.tier, missing)
        return {
            "queue": wire.QueuePlace(position=place.position, ahead_bytes=ahead, missing_bytes=missing),
            "estimate": _told(estimates.together(wait, await self._staging(conn, row))) if wait else None,
            "explanation": f"place {place.position} of the line, waits until {missing} bytes are released: "
            f"{space.promised_bytes} of {space.usable_bytes} bytes are promised to other runs",
        }

    async def _waiting(self, conn: Connection, tier: str, missing: int) -> Estimate | None:
        holds = [one.seconds for one in await SQL.many(conn, "holds", tier=tier, limit=HISTORY_MAX)]
        if not holds:
            return None
        holders = [Hold(one.bytes, one.held_s) for one in await SQL.many(conn, "holders", tier=tier)]
        return estimates.waiting(holders, holds, missing_bytes=missing)

    async def _space(self, row: Any, promised: int) -> TierSpace | None:
        """None where this node does not reach the tier."""
        policy, flash = self._site.policy(row.policy), self._site.flash.get(row.tier)
        if policy is None or flash is None:
            return None
        try:
            capacity, free = await in_thread(flash.roots.space)
        except TierError:
            return None
        return TierSpace(min(capacity, flash.capacity_bytes or capacity), free, promised, 0, policy.reserve_bytes)

    async def _staging(self, conn: Connection, row: Any, *, left: float = 1.0) -> Estimate | None:
        """At the pace of runs between the same two tiers."""
        rows = await SQL.many(
            conn, "paces", tier=row.tier, policies=self._site.policies_like(row.policy), limit=HISTORY_MAX
        )
        history = [Pace(one.copy_bytes, one.files, one.seconds) for one in rows]
        copy_bytes = row.wanted_bytes if row.copy_bytes is None else row.copy_bytes
        return estimates.staging(history, copy_bytes=copy_bytes, files=row.wanted_files, left=left)


def _told(estimate: Estimate | None) -> wire.Estimate | None:
    return wire.Estimate(**msgspec.structs.asdict(estimate)) if estimate else None
