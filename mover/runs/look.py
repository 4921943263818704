"""What of runs can be seen: views, pages, the manifest, entries as they come, the line, estimates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct

from mover.catalog import proofs
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide import estimates
from mover.decide.admission import TierSpace, missing_bytes
from mover.decide.estimates import Estimate, Hold, Pace
from mover.errors import NotFound, RequestInvalid, TierError, TierFull
from mover.jobs import in_thread
from mover.model import wire
from mover.runs.admission import LINE_MAX, WAITING_MAX
from mover.runs.roots import run_key
from mover.runs.shared import Shared
from mover.runs.site import RunSite, get, manifest_of

SQL = load(__file__)
PAGE_MAX = 1000
# of a refused run in a page; its own view names all
PAGE_OFFENDERS = 20
# of what cleanup moved aside and of slides removed for good, in any view; the count says how many there are
SHOWN_MAX = 100
# runs that an estimate learns from
HISTORY_MAX = 200
# how old a line may be that who watches is told
LINE_AGE_S = 0.5
# in a class that has a method `list`, the word means that method
StagedEvents = list[wire.RunEvent]

# states in which shards move a run on
WORKING = frozenset({"staging", "finishing", "protecting", "cleaning", "cancelled", "failed"})
COMING = frozenset({"admitted", "staging"})
# in which a root stands that somebody may read
HOLDING = frozenset({"sealed", "ready", "finishing", "protecting", "protected"})


class _Details(Struct, frozen=True):
    """What several runs have beside their rows, each asked for once, by run."""

    snapshots: dict[str, Any]
    strays: dict[str, Any]
    removed: dict[str, Any]
    trouble: dict[str, Any]
    damaged: dict[str, Any]
    proofs: dict[str, list[wire.Proof]]


class _Line(Struct, frozen=True):
    """Who waits before a tier, what is promised on it and for how long it is held: one look for everybody."""

    places: dict[str, tuple[int, int]]  # place, and what it and those ahead of it ask for
    promised: int
    space: tuple[int, int] | None  # capacity and free bytes, where this node reaches the tier
    holds: list[float]
    holders: list[Hold]


class Look:
    def __init__(self, site: RunSite) -> None:
        self._site = site
        self._lines: dict[str, Shared[_Line]] = {tier: Shared() for tier in site.flash}

    async def view(self, project: str, run: str) -> wire.Run:
        async with self._site.database.project(project) as conn:
            row = await self._seen(conn, run)
            details = await _details(conn, [row])
            hooks = [wire.RunHook(**one._asdict()) for one in await SQL.many(conn, "hooks", run=run)]
        return msgspec.structs.replace(self._view(row, details, **await self._outlook(row)), hooks=hooks)

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.RunPage:
        async with self._site.database.project(project) as conn:
            parameters = {"after": after, "limit": min(limit, PAGE_MAX)}
            ids = [row.id for row in await SQL.many(conn, "page", **parameters)]
            rows = await SQL.many(conn, "seen", ids=ids, offenders=PAGE_OFFENDERS)
            details = await _details(conn, rows)
        runs = [self._view(row, details) for row in rows]
        return wire.RunPage(runs=runs, next=ids[-1] if len(ids) == parameters["limit"] else None)

    async def manifest(self, project: str, run: str) -> AsyncIterator[bytes]:
        """The sealed manifest, kept for ever, in pieces: that of a million files has 250 MB."""
        async for piece in manifest_of(self._site.database, project, run):
            yield piece.encode()

    async def ready(self, project: str, run: str, after: str | None = None, limit: int = PAGE_MAX) -> wire.StagedPage:
        """Entries that may be read already, in the order in which they came: none ever comes before one that was
        told, so whoever asks again after the cursor misses none."""
        turn, path = _place_of(after)
        bound = min(limit, PAGE_MAX)
        async with self._site.database.project(project) as conn:
            await get(conn, run)
            rows = await SQL.many(conn, "staged", run=run, turn=turn, path=path, limit=bound)
        entries = [
            wire.StagedEntry(
                path=r.path, number=r.number, size_bytes=r.size_bytes, digest=r.digest, shard=r.shard, offset=r.offset
            )
            for r in rows
        ]  # fmt: skip
        cursor = f"{rows[-1].staged_in}:{rows[-1].path}" if rows else after
        return wire.StagedPage(entries=entries, next=cursor if len(rows) == bound else None, cursor=cursor)

    async def strays(self, project: str, run: str, after: str | None = None, limit: int = PAGE_MAX) -> wire.StrayPage:
        """Everything that cleanup moved aside, by path."""
        bound = min(limit, PAGE_MAX)
        async with self._site.database.project(project) as conn:
            await get(conn, run)
            rows = await SQL.many(conn, "stray_page", run=run, after=after or "", limit=bound)
        strays = [wire.Stray(**row._asdict()) for row in rows]
        return wire.StrayPage(strays=strays, next=strays[-1].path if len(strays) == bound else None)

    async def progress(self, project: str, run: str) -> wire.RunProgress:
        """How far it is; the pace is the watcher's to tell, who looks more than once."""
        async with self._site.database.project(project) as conn:
            row = await self._seen(conn, run, offenders=0)
        outlook = await self._outlook(row, age_s=LINE_AGE_S)
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

    def _view(
        self, row: Any, details: _Details, *, queue: wire.QueuePlace | None = None,
        estimate: wire.Estimate | None = None, explanation: str | None = None,
    ) -> wire.Run:  # fmt: skip
        seen = f"{self._site.flash[row.tier].seen_as}/{run_key(row.id)}" if row.tier in self._site.flash else None
        present = row.state not in ("requested", "refused", "cleaned")
        snapshots, trouble = details.snapshots.get(row.id), details.trouble.get(row.id)
        strays, removed = details.strays.get(row.id), details.removed.get(row.id)
        damaged = details.damaged.get(row.id)
        tried = f"tried again after {trouble.code}: {trouble.error}" if trouble else None
        if trouble and trouble.code == TierFull.code:
            tried = f"{tried}. The tier {row.tier} is full: {TierFull.hint}"
        return wire.Run(
            id=row.id,
            state=row.state,
            tier=row.tier,
            policy=row.policy,
            reason=row.reason,
            explanation=row.explanation or explanation or tried,
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
            snapshots=snapshots.ids if snapshots else [],
            strays=strays.first if strays else [],
            strays_count=strays.count if strays else 0,
            proofs=details.proofs.get(row.id, []),
            like=row.like_id,
            exact=row.like_root == row.manifest_root if row.like_id and row.manifest_root else None,
            removed=removed.first if removed else [],
            removed_count=removed.count if removed else 0,
            damaged=damaged.first if damaged else [],
            damaged_count=damaged.count if damaged else 0,
        )

    # --- what comes -----------------------------------------------------------------------------------------

    async def _outlook(self, row: Any, *, age_s: float = 0.0) -> dict[str, Any]:
        """Where a run that is not staged yet stands in the line, and how long it may take. Asked for while no
        connection is held: the line is looked at with one of its own."""
        if row.state == "requested" and row.tier in self._lines:
            line = await self._lines[row.tier].get(lambda: self._look_along(row.tier), age_s=age_s)
            return await self._in_line(row, line)
        if row.state not in COMING:
            return {}
        left = 1 - row.staged_bytes / max(row.bytes, 1)
        return {"estimate": _told(await self._staging(row, left=left))}

    async def _look_along(self, tier: str) -> _Line:
        async with self._site.database.instance() as conn:
            policies = list(self._site.policies_to(tier))
            row = await SQL.one(conn, "line", tier=tier, policies=policies, limit=WAITING_MAX, most=LINE_MAX)
            holds = [one.seconds for one in await SQL.many(conn, "holds", tier=tier, limit=HISTORY_MAX)]
            holders = await SQL.many(conn, "holders", tier=tier) if holds else []
        places, asked = {}, 0
        for place, (run, bytes_) in enumerate(row.waiting, start=1):
            asked += bytes_
            places[run] = place, asked
        space = await self._space(tier)
        return _Line(places, row.promised, space, holds, [Hold(one.bytes, one.held_s) for one in holders])

    async def _space(self, tier: str) -> tuple[int, int] | None:
        flash = self._site.flash[tier]
        try:
            capacity, free = await in_thread(flash.roots.space)
        except TierError:
            return None
        return min(capacity, flash.capacity_bytes or capacity), free

    async def _in_line(self, row: Any, line: _Line) -> dict[str, Any]:
        if row.id not in line.places:
            return {}  # let in this moment, or so far behind that it is not judged yet
        position, asked = line.places[row.id]
        ahead = asked - row.wanted_bytes
        policy = self._site.policy(row.policy)
        if line.space is None or policy is None:
            return {"queue": wire.QueuePlace(position=position, ahead_bytes=ahead)}
        space = TierSpace(*line.space, line.promised, 0, policy.reserve_bytes)
        missing = missing_bytes([asked], space)
        wait = estimates.waiting(line.holders, line.holds, missing_bytes=missing) if line.holds else None
        return {
            "queue": wire.QueuePlace(position=position, ahead_bytes=ahead, missing_bytes=missing),
            "estimate": _told(estimates.together(wait, await self._staging(row))) if wait else None,
            "explanation": f"place {position} of the line, waits until {missing} bytes are released: "
            f"{space.promised_bytes} of {space.usable_bytes} bytes are promised to other runs",
        }

    async def _staging(self, row: Any, *, left: float = 1.0) -> Estimate | None:
        """At the pace of runs between the same two tiers."""
        policies = self._site.policies_like(row.policy)
        async with self._site.database.instance() as conn:
            rows = await SQL.many(conn, "paces", tier=row.tier, policies=policies, limit=HISTORY_MAX)
        history = [Pace(one.copy_bytes, one.files, one.seconds) for one in rows]
        copy_bytes = row.wanted_bytes if row.copy_bytes is None else row.copy_bytes
        return estimates.staging(history, copy_bytes=copy_bytes, files=row.wanted_files, left=left)


async def _details(conn: Connection, rows: list[Any]) -> _Details:
    """Six questions at most, however many runs there are."""

    async def of(name: str, runs: list[str], **more: object) -> dict[str, Any]:
        return {one.run_id: one for one in await SQL.many(conn, name, runs=runs, **more)} if runs else {}

    over = [row.id for row in rows if row.state in ("cleaning", "cleaned")]
    proved = [row.id for row in rows if row.proved]
    return _Details(
        snapshots=await of("snapshots", [row.id for row in rows if row.finished_at]),
        strays=await of("strays", over, limit=SHOWN_MAX),
        removed=await of("removed", [row.id for row in rows if row.manifest_root], limit=SHOWN_MAX),
        trouble=await of("trouble", [row.id for row in rows if row.state in WORKING]),
        damaged=await of("damaged", [row.id for row in rows if row.state in HOLDING], limit=SHOWN_MAX),
        proofs=await proofs.of_subjects(conn, proved) if proved else {},
    )


def _place_of(cursor: str | None) -> tuple[int, str]:
    """The turn and the path that a page ended with."""
    turn, colon, path = (cursor or "0:").partition(":")
    if not colon or not turn.isdecimal() or len(turn) > 18:
        raise RequestInvalid("`after` is the cursor of an earlier page", hint="Ask without it for the first page.")
    return int(turn), path


def _told(estimate: Estimate | None) -> wire.Estimate | None:
    return wire.Estimate(**msgspec.structs.asdict(estimate)) if estimate else None
