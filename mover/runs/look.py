"""What of runs can be seen: views, pages, the manifest, entries as they come, estimates."""

from __future__ import annotations

from typing import Any

from mover.catalog import proofs
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import Conflict
from mover.model import wire
from mover.runs.roots import run_key
from mover.runs.site import RunSite, expression_of, get, strays_of

SQL = load(__file__)
PAGE_MAX = 1000
StagedEntries = list[wire.StagedEntry]  # in a class that has a method `list`, the word means that method

# states in which shards move a run on
WORKING = frozenset({"staging", "finishing", "protecting", "cleaning", "cancelled", "failed"})


class Look:
    def __init__(self, site: RunSite) -> None:
        self._site = site

    async def view(self, project: str, run: str) -> wire.Run:
        async with self._site.database.project(project) as conn:
            return await self._view(conn, await get(conn, run))

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.RunPage:
        async with self._site.database.project(project) as conn:
            parameters = {"after": after, "limit": min(limit, PAGE_MAX)}
            ids = [row.id for row in await SQL.many(conn, "page", **parameters)]
            runs = [await self._view(conn, await get(conn, run)) for run in ids]
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

    async def _view(self, conn: Connection, row: Any) -> wire.Run:
        progress = await SQL.one(conn, "progress", run=row.id)
        strays = await strays_of(conn, row.id)
        snapshots = await SQL.many(conn, "snapshots", run=row.id)
        seen = f"{self._site.flash[row.tier].seen_as}/{run_key(row.id)}" if row.tier in self._site.flash else None
        present = row.state not in ("requested", "refused", "cleaned")
        return wire.Run(
            id=row.id,
            state=row.state,
            tier=row.tier,
            policy=row.policy,
            reason=row.reason,
            explanation=row.explanation or await self._trouble(conn, row),
            offenders=row.offenders or [],
            root=seen if present else None,
            out=f"{seen}/out" if present and row.ready_at else None,
            **progress._asdict(),
            manifest_root=row.manifest_root,
            lease_until=row.lease_until,
            created_at=row.created_at,
            ready_at=row.ready_at,
            cleaned_at=row.cleaned_at,
            expression=await expression_of(conn, row.selection_id),
            estimate_s=await self._estimate(conn, row, progress),
            snapshots=[s.id for s in snapshots],
            strays=[s._asdict() for s in strays],
            proofs=await proofs.of_subject(conn, row.id),
        )

    async def _trouble(self, conn: Connection, row: Any) -> str | None:
        if row.state not in WORKING:
            return None
        found = await SQL.one(conn, "trouble", id=row.id)
        return f"tried again after {found.code}: {found.error}" if found else None

    async def _estimate(self, conn: Connection, row: Any, progress: Any) -> float | None:
        """Seconds until ready at the pace of this tier's newest runs; None before there is a history."""
        if row.state not in ("requested", "admitted", "staging"):
            return None
        rate = await SQL.one(conn, "rate", tier=row.tier)
        if rate is None or not rate.bytes_s:
            return None
        return round((progress.bytes - progress.staged_bytes) / float(rate.bytes_s), 1)
