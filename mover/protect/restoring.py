"""Restores, the work: a shard on the queue of the repository's tier, done by the node that was asked.

Order: the target is opened with the requester's rights -> weighed, and in place compared with what was agreed to ->
restored into its staging folder, which a kill leaves for the next attempt -> row `complete` or `incomplete` with the
result -> staging removed -> shard done. A crash between the last three finds the row final and only clears. Progress is
written once a second, and with the same statement the worker hears that nobody wants the restore any more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mover import metrics
from mover.catalog.database import Connection
from mover.clock import monotonic_s
from mover.errors import CatalogUnavailable, Conflict, MoverError, Stopping, TierFull
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import postpone_shard, renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.names import name_text, path_text
from mover.protect.layout import Layout
from mover.protect.restores import FINAL, SQL, look, place_of
from mover.protect.site import PLAN_STEPS_MAX, ProtectSite, patiently
from mover.protect.snapshots import get as get_snapshot
from mover.protect.sources import Source, source_of
from mover.repository.facts import RestoreResult
from mover.repository.inplace import Preview
from mover.repository.restore import Order, clear, keep_preview, kept_preview
from mover.repository.weighing import Weight, weigh

PROGRESS_S = 1.0
ELSEWHERE_S = 2.0

log = get_logger("protect")


class _GivenUp(Exception):
    """Nobody wants this restore any more."""


class _Watch:
    """What the thread that restores tells, and what it is told."""

    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.first = self.cancelled = self.stopped = False

    def __call__(self, files: int, bytes_: int) -> None:
        self.files, self.bytes = files, bytes_
        if self.cancelled:
            raise _GivenUp
        if self.stopped:
            raise Stopping("a restore stopped between two pieces; it goes on from there")

    def first_landed(self) -> None:
        self.first = True


class Restoring:
    """Handler of the shards `restore`."""

    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def restore(self, shard: Shard) -> None:
        async with self._site.database.project(shard.project) as conn:
            row = await SQL.one(conn, "get", id=shard.subject_id)
            if row.node != self._site.node:
                await postpone_shard(conn, shard, delay_s=ELSEWHERE_S)
                return
        if row.state not in FINAL:
            await self._do(shard, row)
        await self._clear(row)
        async with self._site.database.project(shard.project) as conn:
            await finish_shard(conn, shard)

    async def _do(self, shard: Shard, row: Any) -> None:
        watch, began_s = _Watch(), monotonic_s()
        watch.cancelled = row.cancel
        snapshot = await get_snapshot(self._site, shard.project, row.snapshot_id)
        async with self._site.database.project(shard.project) as conn:
            known = {one.path: one.digest for one in await SQL.many(conn, "digests", snapshot=snapshot.id)}
        work = _Work(self._site, row, snapshot, known, watch)
        try:
            if row.cancel:
                raise _GivenUp
            weight = await in_thread(work.weigh)
            await self._begin(shard, weight)
            result = await self._watched(shard, watch, work.restore)
        except _GivenUp:
            await self._end(shard, row, "cancelled", seconds=monotonic_s() - began_s, reason="cancelled")
            return
        state = "complete" if result.complete else "incomplete"
        await self._end(shard, row, state, seconds=monotonic_s() - began_s, result=result)
        metrics.RESTORED_BYTES.labels(row.tier).inc(result.bytes)

    async def _begin(self, shard: Shard, weight: Weight) -> None:
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            values = {"id": shard.subject_id, "files": weight.files, "bytes": weight.bytes, "packs": weight.packs}
            await conn.execute(SQL["begin"], values)

    async def _watched(self, shard: Shard, watch: _Watch, call: Callable[[], RestoreResult]) -> RestoreResult:
        """In a thread that is told to stop as soon as this task is: between two pieces, never in one."""
        work = asyncio.ensure_future(in_thread(call))
        reporting = asyncio.ensure_future(self._report(shard, watch))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            watch.stopped = True
            await asyncio.wait({work})
            work.exception()
            raise
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _report(self, shard: Shard, watch: _Watch) -> None:
        while True:
            await self._site.clock.sleep(PROGRESS_S)
            values = {"id": shard.subject_id, "files": watch.files, "bytes": watch.bytes, "first": watch.first}
            try:
                async with self._site.database.project(shard.project) as conn:
                    seen = await SQL.one(conn, "progress", **values)
            except CatalogUnavailable:
                continue  # the next second tells more
            watch.cancelled = seen is not None and seen.cancel

    async def _end(
        self, shard: Shard, row: Any, state: str, *, seconds: float, reason: str | None = None,
        result: RestoreResult | None = None,
    ) -> None:  # fmt: skip
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["end"], _ended(row.id, state, seconds, reason, None, result))
            if result is not None:
                await self._site.record(
                    conn, shard.project, "snapshot restored", row.snapshot_id, actor=row.created_by, restore=row.id,
                    state=state, files=result.files,
                )  # fmt: skip
        log.info("restore ended", restore=row.id, snapshot=row.snapshot_id, state=state, seconds=round(seconds, 3))

    async def _clear(self, row: Any) -> None:
        """A target whose folder is gone, or is not the requester's any more, holds nothing of ours we could reach."""
        place = place_of(row)

        def call() -> None:
            with place.open(self._site) as target:
                clear(target, row.id, owner=place.requester)

        try:
            await in_thread(call)
        except MoverError as error:
            log.warning("restore not cleared", restore=row.id, code=error.code)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """The attempts are used up. A shard of its own takes the staging away: that is no work for a transaction."""
        values = _ended(shard.subject_id, "failed", 0.0, error.code, error.what, None)
        if await SQL.one(conn, "end", **values) is None:
            return
        await self._site.record(conn, shard.project, "restore failed", shard.subject_id, reason=error.code)
        await add_shards(conn, shard.project, [NewShard(shard.queue, "restore", shard.subject_id)])


def _ended(
    restore: str, state: str, seconds: float, reason: str | None, explanation: str | None, result: RestoreResult | None
) -> dict[str, Any]:
    damaged, left, warnings = (result.damaged, result.left, result.warnings) if result else ([], [], [])
    return {
        "id": restore, "state": state, "seconds": seconds, "reason": reason, "explanation": explanation,
        "files": result.files if result else None, "bytes": result.bytes if result else None,
        "damaged_count": len(damaged), "damaged": [path_text(path) for path in damaged[:PLAN_STEPS_MAX]],
        "left_count": len(left), "left": [path_text(path) for path in left[:PLAN_STEPS_MAX]],
        "warnings_count": len(warnings), "warnings": [path_text(one) for one in warnings[:PLAN_STEPS_MAX]],
        "aside": path_text(result.aside) if result and result.aside else None,
    }  # fmt: skip


class _Work:
    """Blocking: one attempt at one restore."""

    def __init__(self, site: ProtectSite, row: Any, snapshot: Any, known: dict[str, str], watch: _Watch) -> None:
        self._site, self._row, self._snapshot, self._known, self._watch = site, row, snapshot, known, watch
        self._place = place_of(row)

    @property
    def _source(self) -> Source:
        """Found anew for each step: a first repository that went away since is no reason to stop."""
        return source_of(self._site, self._snapshot)

    def weigh(self) -> Weight:
        return patiently(self._weigh)

    def _weigh(self) -> Weight:
        """A target without room is found before anything is written there, unless an earlier attempt wrote already."""
        with self._source.looking() as (blobs, root):
            weight = weigh(blobs, root, self._row.path)
        with self._place.open(self._site) as target:
            space = os.statvfs(target.parent)
            begun = target.with_name(f".restoring-{self._row.id}").exists()
        free = space.f_bavail * space.f_frsize
        if self._row.agreed is None and not begun and weight.dense_bytes > free:
            raise TierFull(f"the restore needs {weight.dense_bytes} bytes, and {free} are free at its target")
        return weight

    def restore(self) -> RestoreResult:
        return patiently(self._restore)

    def _restore(self) -> RestoreResult:
        source = self._source
        with self._place.open(self._site) as target:
            order = Order(
                owner=self._place.requester, first=tuple(self._row.first), name=self._row.id,
                digest_of=self._digest_of, replace=self._agreed(source, target), may_write=self._place.may_write,
                first_landed=self._watch.first_landed,
            )  # fmt: skip
            result = source.repository.restore(
                source.snapshot, target, path=self._row.path, order=order, progress=self._watch, spare=source.spare
            )
        told = source.told(result)
        if told:
            log.warning("restored from the second repository", restore=self._row.id, tier=source.second)
        return msgspec.structs.replace(result, warnings=[*told, *result.warnings])

    def _digest_of(self, path: bytes) -> str | None:
        """What the catalog wrote down when the file was protected."""
        base = self._row.path.rstrip("/")
        whole = f"{base}/{name_text(path)}"
        for one in (whole, base):  # the path may name the file itself
            found = self._known.get(path_text(Layout.path_in_run(one)))
            if found is not None:
                return found
        return None

    def _agreed(self, source: Source, target: Path) -> Preview | None:
        """What somebody agreed to, as it was then. After a kill the folder looks otherwise: by our own work."""
        if self._row.agreed is None:
            return None
        kept = kept_preview(target, self._row.id)
        if kept is not None:
            return kept
        preview = look(source, self._snapshot, self._row.path, target, self._place.may_write)
        if preview.digest != self._row.agreed:
            raise Conflict(
                "what stands there is not what the plan showed; nothing was replaced", where=self._row.id,
                hint="Plan again, look, and agree to the new digest.",
            )  # fmt: skip
        keep_preview(target, self._row.id, preview)
        return preview
