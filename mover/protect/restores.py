"""Restores, the front: ask, plan, look, give up. Who does the work is `restoring`.

A request becomes a row and a shard and is answered at once; the target is judged by the rights of whoever asks, now
and again when the work begins. A restore in place begins only with the digest of its plan: who has not seen what would
be replaced replaces nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.restoring import FIRST_MAX, Loss, Pace, estimate_s, rank
from mover.errors import Conflict, NotFound, RequestInvalid
from mover.jobs import NewShard, add_shards
from mover.jobs.shards import SQL as SHARDS
from mover.jobs.shards import tier_queue
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import name_text, path_text
from mover.model.policy import ProtectPolicy
from mover.protect.places import restore_place, rights_of
from mover.protect.site import PAGE_MAX, PLAN_STEPS_MAX, ProtectSite, patiently
from mover.protect.snapshots import get as get_snapshot
from mover.protect.sources import Source, source_of
from mover.randomness import new_id
from mover.repository.inplace import Comparison, Preview
from mover.repository.reader import find_node, walk
from mover.repository.reading import Requester
from mover.repository.staging import FOLDER_FLAGS
from mover.repository.weighing import Weight, weigh

SQL = load(__file__)
FINAL = frozenset({"complete", "incomplete", "cancelled", "failed"})
# the estimate looks back at so many restores of the tier
MEASURED = 20
# people wait for it
PRIORITY = 10


# what lies in the trash comes back as long as it lies there
RESTORABLE = frozenset({"checked", "trashed"})


def series_named(run: str | None, series: str | None) -> str | None:
    """A run's snapshots are a series of their own."""
    if run is not None and series is not None:
        raise RequestInvalid("name a run or a series, not both")
    return f"run:{run}" if run is not None else series


class Place(Struct, frozen=True):
    """Where a restore goes, and in whose name."""

    to: str
    requester: Requester | None
    local: bool

    def open(self, site: ProtectSite) -> AbstractContextManager[Path]:
        roots = site.policies.default(ProtectPolicy).roots
        return restore_place(
            self.to, requester=self.requester, local=self.local, roots=roots,
            forbidden=(*site.forbidden, *site.kept_clear),
        )  # fmt: skip

    def may_write(self, facts: os.stat_result) -> bool:
        """May this requester replace what stands in a folder? In a sticky one only its owner may."""
        if self.requester is None:
            return facts.st_uid == os.geteuid()
        if self.requester.uid == 0:
            return True
        if facts.st_mode & 0o1000 and facts.st_uid != self.requester.uid:
            return False
        return rights_of(facts, self.requester) & 3 == 3


def place_of(row: Any) -> Place:
    """As the row keeps it."""
    requester = None if row.posix_uid is None else Requester(row.posix_uid, row.posix_gid)
    return Place(row.target, requester, row.local)


class Restores:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    # --- ask -----------------------------------------------------------------------------------------------------

    async def request(
        self, identity: Identity, body: wire.RestoreRequest, *, key: str = "", request: str = ""
    ) -> wire.Restore:
        """The same key again gives the same restore; Conflict for the key with another body."""
        if body.in_place and body.agreed is None:
            raise Conflict(
                "a restore in place needs the digest of its plan",
                hint="Look at the plan first: nothing is replaced unseen.",
            )
        snapshot = await self._snapshot(identity.project, body)
        place = await self._judged(identity, body)
        restore = new_id("restore")
        async with self._site.database.project(identity.project) as conn:
            earlier = await self._remember(conn, identity.project, key, body, restore) if key else None
            if earlier is None:
                await self._insert(conn, identity, snapshot, body, place, restore)
                await self._site.record(
                    conn, identity.project, "restore requested", restore, actor=identity.actor, request=request,
                    snapshot=snapshot.id, in_place=body.in_place,
                )  # fmt: skip
        return await self.view(identity.project, earlier or restore)

    async def plan_request(self, identity: Identity, body: wire.RestoreRequest) -> wire.Plan:
        """What would come, what it would take, and, in place, what it would replace: that is read."""
        snapshot = await self._snapshot(identity.project, body)
        place = await self._judged(identity, body)
        planner = _Planner(self._site, snapshot, place, body)
        plan, weight = await asyncio.to_thread(lambda: patiently(planner.plan))
        async with self._site.database.project(identity.project) as conn:
            rows = await SQL.many(conn, "measured", tier=snapshot.tier, limit=MEASURED)
        paces = [Pace(row.files, int(row.bytes), row.seconds) for row in rows]
        span = estimate_s(paces, files=weight.files, bytes_=weight.bytes)
        return plan if span is None else msgspec.structs.replace(plan, seconds_low=span[0], seconds_high=span[1])

    async def _snapshot(self, project: str, body: wire.RestoreRequest) -> Any:
        """The one that was named, or the newest that was on record at the time: by our clock, whatever it says of
        itself."""
        if len(body.first) > FIRST_MAX:
            raise RequestInvalid(f"at most {FIRST_MAX} patterns say what is wanted first", where="first")
        if body.snapshot is not None:
            if body.run or body.series or body.as_of:
                raise RequestInvalid("a restore names a snapshot, or a run or series and a time")
            row = await get_snapshot(self._site, project, body.snapshot)
            if row.state not in RESTORABLE:
                raise Conflict(f"the snapshot is {row.state}; only a checked one is restored", where=row.id)
            return row
        series = series_named(body.run, body.series)
        if series is None:
            raise RequestInvalid("a restore names a snapshot, a run or a series")
        async with self._site.database.project(project) as conn:
            row = await SQL.one(conn, "as_of", series=series, as_of=body.as_of)
        if row is None:
            raise NotFound("no checked snapshot of it was on record at that time", where=series)
        return row

    async def _judged(self, identity: Identity, body: wire.RestoreRequest) -> Place:
        requester = None
        if identity.posix_uid is not None and identity.posix_gid is not None:
            requester = Requester(identity.posix_uid, identity.posix_gid)
        place = Place(body.to, requester, not identity.token_id)

        def judge() -> None:
            with place.open(self._site) as target:
                if body.in_place and not target.is_dir():
                    raise NotFound("no folder stands there to restore in place", where=body.to)

        await asyncio.to_thread(judge)
        return place

    async def _remember(
        self, conn: Connection, project: str, key: str, body: wire.RestoreRequest, restore: str
    ) -> str | None:
        """The earlier restore of this key, or None after binding the key to the new one (D13)."""
        digest = blake3(msgspec.json.encode(body, order="sorted")).hexdigest()
        values = {"project": project, "key": blake3(b"restore\0" + key.encode()).hexdigest()}
        if await SQL.one(conn, "remember", **values, body_digest=digest, subject=restore) is not None:
            return None
        earlier = await SQL.one(conn, "remembered", **values)
        if earlier.body_digest != digest:
            raise Conflict(
                "this Idempotency-Key already stands for another request", where=earlier.subject_id,
                hint="Use a fresh key for a new restore.",
            )  # fmt: skip
        return str(earlier.subject_id)

    async def _insert(
        self, conn: Connection, identity: Identity, snapshot: Any, body: wire.RestoreRequest, place: Place, restore: str
    ) -> None:
        values = {
            "id": restore, "project": identity.project, "snapshot": snapshot.id, "tier": snapshot.tier,
            "node": self._site.node, "path": body.path, "target": body.to, "first": list(body.first),
            "agreed": body.agreed if body.in_place else None, "local": place.local, "actor": identity.actor,
            "uid": place.requester.uid if place.requester else None,
            "gid": place.requester.gid if place.requester else None,
        }  # fmt: skip
        await conn.execute(SQL["insert"], values)
        shard = NewShard(tier_queue(snapshot.tier), "restore", restore, priority=PRIORITY)
        await add_shards(conn, identity.project, [shard])

    # --- give up ---------------------------------------------------------------------------------------------------

    async def cancel(self, identity: Identity, restore: str, *, request: str = "") -> wire.Restore:
        """Whoever works on it stops between two pieces; what has landed stays. Twice is once."""
        async with self._site.database.project(identity.project) as conn:
            if await SQL.one(conn, "ask_to_stop", id=restore) is not None:
                await conn.execute(SQL["hasten"], {"id": restore})
                await conn.execute(SHARDS["wake"])
                await self._site.record(
                    conn, identity.project, "restore cancelled", restore, actor=identity.actor, request=request
                )
        return await self.view(identity.project, restore)

    # --- look ------------------------------------------------------------------------------------------------------

    async def view(self, project: str, restore: str) -> wire.Restore:
        async with self._site.database.project(project) as conn:
            row = await SQL.one(conn, "get", id=restore)
            if row is None:
                raise NotFound("there is no such restore", where=restore)
            return await _view(conn, row)

    async def list(self, project: str, after: str | None, limit: int) -> wire.RestorePage:
        """Newest first."""
        limit = min(limit, PAGE_MAX)
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "page", after=after, limit=limit + 1)
            seen = [await _view(conn, row) for row in rows[:limit]]
        return wire.RestorePage(restores=seen, next=seen[-1].id if len(rows) > limit else None)


async def _view(conn: Connection, row: Any) -> wire.Restore:
    trouble = None if row.state in FINAL else await SQL.one(conn, "trouble", id=row.id)
    rate = row.bytes / row.since_s if row.state == "restoring" and row.since_s else None
    if row.state in FINAL and row.seconds:
        rate = row.bytes / row.seconds
    left = (row.of_bytes or 0) - row.bytes if row.state == "restoring" else 0
    return wire.Restore(
        id=row.id, snapshot=row.snapshot_id, tier=row.tier, state=row.state, path=row.path, to=row.target,
        first=list(row.first), in_place=row.agreed is not None, files=row.files, bytes=int(row.bytes),
        of_files=row.of_files, of_bytes=row.of_bytes, of_packs=row.of_packs, seconds=round(row.seconds, 3),
        rate_bytes_s=round(rate, 1) if rate is not None else None,
        eta_s=round(left / rate, 1) if rate and left > 0 else None, first_at=row.first_at,
        damaged_count=row.damaged_count, damaged=list(row.damaged), left_count=row.left_count,
        left=list(row.left_paths), warnings_count=row.warnings_count, warnings=list(row.warnings), aside=row.aside,
        reason=row.reason or (trouble.code if trouble else None),
        explanation=row.explanation or (trouble.error if trouble else None), cancelling=row.cancel,
        created_by=row.created_by, created_at=row.created_at, started_at=row.started_at, finished_at=row.finished_at,
    )  # fmt: skip


# --- plans -------------------------------------------------------------------------------------------------------


class _Planner:
    """Blocking: what a restore would do, from the trees, and in place from what stands there."""

    def __init__(self, site: ProtectSite, snapshot: Any, place: Place, body: wire.RestoreRequest) -> None:
        self._site, self._snapshot, self._place, self._body = site, snapshot, place, body

    def plan(self) -> tuple[wire.Plan, Weight]:
        source = source_of(self._site, self._snapshot)
        with self._place.open(self._site) as target, source.looking() as (blobs, root):
            weight = weigh(blobs, root, self._body.path)
            space = os.statvfs(target.parent)
        if self._body.in_place:
            with self._place.open(self._site) as target:
                preview = look(source, self._snapshot, self._body.path, target, self._place.may_write)
            steps, counts, digest = _replacing(preview)
            truncated = len(preview.losses) + preview.unknown_count > len(steps)
        else:
            steps, counts, digest = self._coming(source), {}, None
            truncated = weight.files + weight.folders + weight.symlinks > len(steps)
        if source.instead:
            steps = [wire.PlanStep(action="read-copy", subject=source.second, reason=source.instead), *steps]
        counts |= {"restore": weight.files, "folders": weight.folders, "packs": weight.packs, "lost": weight.lost}
        plan = wire.Plan(
            step="restore", counts=counts, bytes=weight.bytes, steps=steps, truncated=truncated, digest=digest,
            free_bytes=space.f_bavail * space.f_frsize, needed_bytes=weight.dense_bytes,
        )  # fmt: skip
        return plan, weight

    def _coming(self, source: Source) -> list[wire.PlanStep]:
        """The first entries, what is wanted first before the others."""
        first = self._body.first
        with source.looking() as (blobs, root):
            node = find_node(blobs, root, self._body.path)
            if node is not None and node.subtree is None:
                members = [(node.name, node)]
            else:
                found = walk(blobs, root if node is None or node.subtree is None else node.subtree)
                members = [one for one, _ in zip(found, range(PLAN_STEPS_MAX), strict=False)]
        ranked = sorted(
            members, key=lambda one: rank(name_text(one[0]), first) if one[1].type == "file" else len(first)
        )
        return [
            wire.PlanStep(
                action="restore", subject=path_text(name_text(path)), bytes=node.size,
                reason="wanted first" if node.type == "file" and rank(name_text(path), first) < len(first)
                else f"to {self._body.to}",
            )
            for path, node in ranked
        ]  # fmt: skip


def look(
    source: Source, snapshot: Any, path: str, target: Path, may_write: Callable[[os.stat_result], bool]
) -> Preview:
    """Blocking, as long as reading what stands there takes. Denied where this requester may not change a folder. Its
    digest is the same, whichever repository is looked into."""
    with source.looking() as (blobs, root):
        node = find_node(blobs, root, path)
        folder = os.open(target, FOLDER_FLAGS)
        try:
            comparison = Comparison(blobs, folder, may_write)
            if node is not None and node.subtree is None:
                comparison.of_file(node)
            else:
                comparison.of_tree(root if node is None or node.subtree is None else node.subtree)
        finally:
            os.close(folder)
        return comparison.preview(snapshot.repository_id, path)


def _replacing(preview: Preview) -> tuple[list[wire.PlanStep], dict[str, int], str]:
    """Losses first, the newer ones before all: that is work somebody did since."""
    order = {"newer": 0, "other-kind": 1, "differs": 2}
    losses = sorted(preview.losses, key=lambda loss: (order[loss.verdict], loss.path))
    steps = [_loss_step(loss) for loss in losses[:PLAN_STEPS_MAX]]
    for path in preview.unknown[: PLAN_STEPS_MAX - len(steps)]:
        reason = "the snapshot does not know it: it stays"
        steps.append(wire.PlanStep(action="stay", subject=path_text(name_text(path)), reason=reason))
    counts = {verdict: sum(loss.verdict == verdict for loss in losses) for verdict in order}
    counts |= {"unknown": preview.unknown_count, "same": preview.same, "absent": preview.absent}
    return steps, counts, preview.digest


def _loss_step(loss: Loss) -> wire.PlanStep:
    return wire.PlanStep(
        action="move-aside", subject=path_text(name_text(loss.path)), reason=loss.reason, bytes=loss.standing.size_bytes
    )
