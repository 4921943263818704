"""Scans: what people ask for and see of walks, and the handler of `tier-walk` shards.

A scan is one shard on its tier's queue. It may be killed at any point: the next claim goes on from the last commit
(see `ledger`). On an identified tier the prefix and every path are names: they are sealed before the catalog holds
their tags, and no answer shows them (D10).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.errors import Conflict, LeaseLost, MoverError, NotFound, RequestInvalid, TierHung
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.names import key_text, name_bytes, name_text, text_key
from mover.randomness import new_id
from mover.tiers.guard import guarded
from mover.tiers.port import ReadTier
from mover.walk import changes, hints, sources
from mover.walk import ledger as ledgers
from mover.walk.changes import ChangesLedger
from mover.walk.conductor import Walk
from mover.walk.inventory import Manifest
from mover.walk.ledger import CatalogLedger, Names, Place
from mover.walk.reader import Seen
from mover.walk.readers import PROCESSES, Lookers

SQL = load(__file__)
PAGE_MAX = 1000

log = get_logger("walk")

Keys = list[bytes]  # in a class that has a method `list`, the word means that method
NamesOf = Callable[[str, str], Names]
Pace = Callable[[str, int], None]


class Scans:
    """`names` opens the port to the vault for (project, tier); it is called in the event loop. `pace` is called in a
    thread with a tier and a number of listings that came, before more is asked for, and may wait."""

    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, ReadTier],
        names: NamesOf,
        *,
        node: str,
        pace: Pace = lambda tier, parts: None,
        processes: int = PROCESSES,
    ) -> None:
        self._database = database
        self._tiers = tiers
        self._names = names
        self._node = node
        self._pace = pace
        self._processes = processes

    # --- declare and look -----------------------------------------------------------------------------------

    async def declare(self, project: str, actor: str, body: wire.ScanRequest, *, request: str = "") -> wire.Scan:
        """A scan of the place, or the one that runs there already."""
        tier = self._tier(body.tier)
        prefix = clean_prefix(body.prefix)
        method = _method(tier, body)
        tag = (await self._seal(project, tier, [prefix]))[0] if prefix and tier.zone == "identified" else prefix
        options = {"cross_mounts": body.cross_mounts, "empty_ok": body.empty_ok, "inventory": body.inventory}
        async with self._database.project(project) as conn:
            if method == "changes":
                changes.refuse_gap(await hints.SQL.one(conn, "state", tier=tier.name), tier=tier.name)
            made = await SQL.one(
                conn, "declare", id=new_id("scan"), project=project, tier=tier.name, prefix=tag, method=method,
                options=Jsonb(options), actor=actor,
            )  # fmt: skip
            if made is None:
                running = await SQL.one(conn, "running", tier=tier.name, prefix=tag)
                if running is None:
                    raise Conflict("a scan of this place has just ended", hint="Ask again.")
                if (running.method == "changes") != body.changes_only:
                    raise Conflict("another kind of scan of this tier runs", where=running.id, hint="Wait for its end.")
                return await self._view(conn, running.id)
            await add_shards(conn, project, [NewShard(tier_queue(tier.name), "tier-walk", made.id)])
            answer = await self._view(conn, made.id)
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action="scan declared", subject=made.id,
                request=request,
            )  # fmt: skip
        return answer

    async def view(self, project: str, scan: str) -> wire.Scan:
        async with self._database.project(project) as conn:
            return await self._view(conn, scan)

    async def list(
        self, project: str, tier: str | None = None, after: str | None = None, limit: int = 100
    ) -> wire.ScanPage:
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "page", tier=tier, after=after, limit=bound)
        return wire.ScanPage(scans=[_answer(row) for row in rows], next=rows[-1].id if len(rows) == bound else None)

    async def findings(
        self, project: str, scan: str, after: str | None = None, limit: int = 100
    ) -> wire.ScanFindingPage:
        """Keys are shown of deidentified tiers only; of the others they stay tags."""
        bound = min(limit, PAGE_MAX)
        if after is not None and not after.isdecimal():
            raise RequestInvalid("`after` is the `next` of the page before", where="query after")
        async with self._database.project(project) as conn:
            row = await self._row(conn, scan)
            rows = await SQL.many(conn, "findings", id=scan, after=int(after or 0), limit=bound)
        sealed = row.zone == "identified"
        found = [
            wire.ScanFinding(code=one.code, path=None if sealed else _shown(one.key), at=one.at) for one in rows
        ]
        return wire.ScanFindingPage(findings=found, next=str(rows[-1].id) if len(rows) == bound else None)

    async def _view(self, conn: Connection, scan: str) -> wire.Scan:
        row = await self._row(conn, scan)
        trouble = await SQL.one(conn, "trouble", id=scan) if row.finished_at is None else None
        return _answer(row, explanation=f"tried again after {trouble.code}: {trouble.error}" if trouble else None)

    async def _row(self, conn: Connection, scan: str) -> Any:
        row = await SQL.one(conn, "get", id=scan)
        if row is None:
            raise NotFound("no such scan", where=scan)
        return row

    def _tier(self, name: str) -> ReadTier:
        if name not in self._tiers:
            raise RequestInvalid("no such tier on this node", where="body tier")
        return self._tiers[name]

    async def _seal(self, project: str, tier: ReadTier, keys: Keys) -> Keys:
        names = self._names(project, tier.name)
        await in_thread(names.seal, keys)
        return await in_thread(names.tags, keys)

    # --- work -------------------------------------------------------------------------------------------------

    async def walk(self, shard: Shard) -> None:
        """Walk, merge, judge; the last transaction says how it ended."""
        async with self._database.project(shard.project) as conn:
            row = await self._row(conn, shard.subject_id)
            if row.finished_at is not None:
                await finish_shard(conn, shard)
                return
        tier = self._tiers[row.tier]
        names = self._names(shard.project, tier.name) if tier.zone == "identified" else None
        work = _Work(
            self._database.dsn, shard, row, tier, names, lambda parts: self._pace(tier.name, parts), self._processes
        )
        complete = await _until_stopped(work)
        state = "incomplete" if not complete else "caught-up" if row.method == "changes" else "complete"
        async with self._database.project(shard.project) as conn:
            ended = await SQL.one(conn, "lock", id=row.id)
            await conn.execute(SQL["finish"], {"id": row.id, "state": state})
            await finish_shard(conn, shard)
            await audit.record(
                conn, project=shard.project, node=self._node, actor=row.created_by, action=f"scan {state}",
                subject=row.id,
            )  # fmt: skip
        _measure(ended)
        log.info("scan ended", subject=row.id, tier=tier.name, state=state)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """In the transaction that fails the shard."""
        await SQL.one(conn, "lock", id=shard.subject_id)
        await conn.execute(SQL["fail"], {"id": shard.subject_id, "code": error.code, "error": error.what})
        await audit.record(
            conn, project=shard.project, node=self._node, actor="walk", action="scan failed",
            subject=shard.subject_id, reason=error.code,
        )  # fmt: skip


def _measure(row: Any) -> None:
    """What was verified and is not what it was deserves an alarm of its own."""
    metrics.WALKED.labels(row.tier).inc(row.entries)
    metrics.WALK_FINDINGS.labels(row.tier).inc(row.findings)
    for kind in ("new", "changed", "changed_verified", "gone", "gone_verified"):
        metrics.DRIFT.labels(row.tier, kind.replace("_", "-")).inc(getattr(row, kind) or 0)


class _Work:
    """One claim of a scan's shard, in a thread. `stop` ends it at its next step, after a last commit."""

    def __init__(
        self, dsn: str, shard: Shard, row: Any, tier: ReadTier, names: Names | None,
        pace: Callable[[int], None], processes: int,
    ) -> None:  # fmt: skip
        self._shard = shard
        self._row = row
        self.tier = tier
        self._names = names
        self._pace = pace
        self._processes = processes
        self._dsn = dsn
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> bool:
        """Whether the scan saw everything. Raises LeaseLost when another has the shard."""
        place, manifest = self._place(), None
        if self._row.method == "inventory":
            manifest = sources.manifest_of(self.tier, self._row.options["inventory"])
            place = msgspec.structs.replace(place, as_of=manifest.created_at)
        kind = ChangesLedger if self._row.method == "changes" else CatalogLedger
        with kind(self._dsn, place, names=self._names, fence=self._fence) as ledger:
            left = ledger.begin()
            if left:
                self.tier.check_identity()
                self._walk(ledger, left, manifest)
                # a root that was unmounted in the middle showed the empty folder below: nothing of that may count
                self.tier.check_identity()
            if self._stop.is_set() or not ledger.merge(stopped=self._stop.is_set):
                raise _Stopped
            return ledger.settle().complete

    def _place(self) -> Place:
        row = self._row
        tag = bytes(row.prefix)
        prefix = tag if self._names is None or not tag else self._names.open([tag])[0]
        return Place(
            scan=row.id, project=self._shard.project, tier=row.tier, number=row.number, prefix=prefix, tag=tag,
            empty_ok=row.options["empty_ok"],
        )  # fmt: skip

    def _walk(self, ledger: CatalogLedger, left: int, manifest: Manifest | None) -> None:
        look, processes = _as_seen, self._processes
        if isinstance(ledger, ChangesLedger):
            look, processes = ledger.look, 0 if ledger.pointed.few else processes
        with self._lookers(ledger.place, manifest, processes) as lookers:
            walk = Walk(ledger, lookers, stopped=self._stop.is_set, pace=self._pace, look=look, left=left)
            if not walk.run():
                raise _Stopped

    def _lookers(
        self, place: Place, manifest: Manifest | None, processes: int
    ) -> AbstractContextManager[Lookers]:
        """Raises EntryMissing when the folder is not there: an empty source is never success."""
        secret = self._names.secret() if self._names is not None else b""
        if manifest is not None:
            return sources.inventory(self.tier, place, manifest=manifest, secret=secret)
        if self._row.method == "listing":
            return sources.listing(self.tier, place, secret=secret)
        return sources.posix(
            self.tier, place, cross_mounts=self._row.options["cross_mounts"], secret=secret, processes=processes
        )

    def _fence(self, conn: psycopg.Connection[Any]) -> None:
        """First thing others see of this transaction, last thing it does: nobody took the shard in between."""
        held = conn.execute(
            ledgers.SQL["renew"], {"id": self._shard.id, "epoch": self._shard.epoch, "lease_s": LEASE_S}
        ).fetchone()
        if held is None:
            raise LeaseLost("another worker holds this shard now", where=self._shard.id)


def _as_seen(seen: Seen) -> Seen:
    return seen


class _Stopped(Exception):
    """The handler was cancelled; the shard comes again by its lease and goes on from the last commit."""


async def _until_stopped(work: _Work) -> bool:
    """A cancelled handler first lets its thread end, which is soon: it stops at its next step."""
    running = asyncio.ensure_future(in_thread(guarded, lambda _: work.run(), work.tier))
    try:
        return await asyncio.shield(running)
    except TierHung:
        work.stop()  # its thread is left waiting; when the tier answers again it ends at its next step
        raise
    except asyncio.CancelledError:
        work.stop()
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # looked at: how it ended decides nothing any more
        raise


def clean_prefix(prefix: str) -> bytes:
    """A folder below the tier's root, in one spelling; empty is the whole tier."""
    parts = [part for part in prefix.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in prefix:
        raise RequestInvalid("the prefix must lie below the tier's root", where="body prefix")
    try:
        return name_bytes(text_key("/".join(parts)))
    except ValueError as error:
        raise RequestInvalid(str(error), where="body prefix") from None


def _method(tier: ReadTier, body: wire.ScanRequest) -> str:
    if body.changes_only:
        if tier.kind != "posix" or tier.zone != "deidentified":
            raise RequestInvalid("only deidentified posix tiers are watched", where="body changes_only")
        if body.prefix or body.inventory is not None or body.cross_mounts:
            raise RequestInvalid("changes are those of the whole tier, as it is watched", where="body changes_only")
        return "changes"
    if tier.kind == "posix":
        if body.inventory is not None:
            raise RequestInvalid("a posix tier has no inventory", where="body inventory")
        return "walk"
    if body.inventory is not None and body.prefix:
        raise RequestInvalid("an inventory is of the whole tier", where="body prefix")
    return "listing" if body.inventory is None else "inventory"


def _shown(key: bytes) -> str:
    return key_text(name_text(key))


def _answer(row: Any, *, explanation: str | None = None) -> wire.Scan:
    seconds = row.walk_s
    return wire.Scan(
        id=row.id, state=row.state, tier=row.tier, method=row.method,
        prefix=None if row.zone == "identified" and row.prefix else _shown(bytes(row.prefix)),
        folders=row.folders, folders_left=row.folders_left, entries=row.entries, bytes=int(row.bytes),
        entries_s=round(row.entries / seconds, 1) if seconds > 0 else 0.0,
        listings=row.listings, listings_same=row.listings_same, vanished=row.vanished, findings=row.findings,
        drift=wire.Drift(
            same=row.same, new=row.new, changed=row.changed, changed_verified=row.changed_verified,
            gone=row.gone, gone_verified=row.gone_verified,
        ),
        walk_s=round(row.walk_s, 3), merge_s=round(row.merge_s, 3), created_at=row.created_at,
        finished_at=row.finished_at, error_code=row.error_code, explanation=explanation or row.explanation,
    )  # fmt: skip
