"""Step 3b: bring a run's slides to flash and seal its root (shards `run-stage` and `run-seal`).

Order, and what a crash between leaves: content is durable and read back cold under its digest before the
catalog says it stands there; it is linked into the root before the entry says `staged`; the listing equals
the manifest before the manifest is sealed; the proof and `ready` are one transaction. A crash anywhere
leaves work to repeat, never a root that claims more than it holds (I3, I4).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.types.json import Jsonb

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide.eviction import Idle, plan_eviction
from mover.decide.lifecycle import check_transition
from mover.errors import (
    ArchiveLost,
    ChangedWhileReading,
    DigestMismatch,
    EntryMissing,
    IdentifierFoundLater,
    IntegrityError,
    MoverError,
)
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread, siblings_open
from mover.jobs.shards import cancel_shards, renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.manifest import ManifestEntry, encode_manifest, parse_manifest
from mover.runs.fetch import Fetch, set_aside
from mover.runs.roots import FlashRoots, Requester
from mover.runs.site import Flash, entries_of, expression_of, get, lock
from mover.tiers.port import ReadTier
from mover.transfer import Transfer

SQL = load(__file__)
RECORDS = "records.parquet"
# beside the copy itself: manifests, records.parquet, and what jobs write into out/
HEADROOM_BYTES = 64 << 20
# a larger table of facts is not kept beside its run; one of a million slides has about 50 MB
RECORDS_KEPT_BYTES = 256 << 20
# idle digests looked at for one copy; with small files the next copy goes on
EVICT_MAX = 10_000
OFFENDERS_MAX = 100

_ARROW = {
    "text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
    "date": pa.string(), "year": pa.int64(),
}  # fmt: skip
_SLIDE_COLUMNS = {"mpp_x": pa.float64(), "mpp_y": pa.float64(), "objective": pa.float64(), "width": pa.int64(),
                  "height": pa.int64(), "levels": pa.int64()}  # fmt: skip
# of DICOM objects; they are columns only where some slide of the run has them, so that other tables stay as they were
_OBJECT_COLUMNS = {"modality": pa.string(), "objects": pa.int64(), "frames": pa.int64(), "rows": pa.int64(),
                   "columns": pa.int64()}  # fmt: skip

log = get_logger("runs")


class Stage:
    """Handlers of staging shards on a node that reaches both tiers."""

    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, ReadTier],
        flash: dict[str, Flash],
        transfer: Transfer,
        *,
        node: str,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database = database
        self._flash = flash
        self._fetch = Fetch(database, tiers, flash, transfer)
        self._node = node
        self._clock = clock

    # --- run-stage ------------------------------------------------------------------------------------------

    async def stage(self, shard: Shard) -> None:
        async with self._database.project(shard.project) as conn:
            run = await get(conn, shard.subject_id)
            await self._refuse_withdrawn(conn, shard.subject_id, list(shard.members))
            parameters = {"run": shard.subject_id, "paths": list(shard.members)}
            entries = await SQL.many(conn, "entries_by_path", **parameters)
        await in_thread(self._flash[run.tier].roots.check_identity)
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

    async def _stage_entries(self, shard: Shard, run: Any, entries: list[Any]) -> list[dict[str, str]]:
        """Every entry, until the run is not staged any more. Those without a whole copy are named together, and not
        one a try: the run fails when all of it was looked at."""
        lost = []
        for entry in entries:
            try:
                if not await self._stage_entry(shard, run, entry):
                    break
            except ArchiveLost as error:
                lost.append({"number": entry.number, "path": entry.path, "why": error.code})
        return lost

    async def _refuse_withdrawn(self, conn: Connection, run: str, paths: list[str] | None = None) -> None:
        """Selected before, and withdrawn since: no byte of it goes to flash, and no root with it becomes ready."""
        row = await SQL.one(conn, "withdrawn", run=run, paths=paths)
        if row.count:
            raise IdentifierFoundLater(f"{row.count} slides of the run were withdrawn since it was made", where=run)

    async def _begin(self, shard: Shard, run: Any) -> bool:
        """The root stands from here on. False when the run is not staged any more."""
        async with self._database.project(shard.project) as conn:
            if not await self._may_stage(conn, shard):
                return False
            await in_thread(self._flash[run.tier].roots.begin, run.id, _requester(run))
            return True

    async def _may_stage(self, conn: Connection, shard: Shard) -> bool:
        """First in every transaction that touches the root: the shard is still ours, and the run is staged, which
        it stays until the commit. So no cancellation, and no cleanup behind it, comes between."""
        await renew_shard(conn, shard, lease_s=LEASE_S)
        return await SQL.one(conn, "hold_staging", id=shard.subject_id) is not None

    async def _stage_entry(self, shard: Shard, run: Any, entry: Any) -> bool:
        """Content first, then the link, then the row. False when the run is not staged any more."""
        how = "linked" if await self._stands(shard, run.tier, entry) else "copied"
        if how == "copied":
            await self._make_room(shard, run.tier, entry.size_bytes)
            await self._fetch.fetch(shard, run.tier, entry)
        roots = self._flash[run.tier].roots
        async with self._database.project(shard.project) as conn:
            # our link and the new mark are one step for everybody else, and nobody evicts in between
            await conn.execute(SQL["lock_digest"], {"tier": run.tier, "digest": entry.digest})
            if not await self._may_stage(conn, shard):
                return False
            await in_thread(roots.place, entry.digest, run.id, entry.path, _requester(run))
            await self._remember(conn, run.tier, entry, await in_thread(roots.mark, entry.digest))
            await conn.execute(SQL["mark_staged"], {"run": run.id, "path": entry.path, "how": how})
        metrics.STAGED_BYTES.labels(how).inc(entry.size_bytes)
        return True

    async def _stands(self, shard: Shard, tier: str, entry: Any) -> bool:
        """Is the digest on flash already, untouched since we last looked at it?

        An inode that moved without us is read whole before it is shared again.
        """
        roots = self._flash[tier].roots
        async with self._database.project(shard.project) as conn:
            await conn.execute(SQL["lock_digest"], {"tier": tier, "digest": entry.digest})
            row = await SQL.one(conn, "content", tier=tier, digest=entry.digest)
            if row is None:
                return False
            try:
                if await in_thread(roots.mark, entry.digest) != row.mark:
                    await in_thread(roots.check_content, entry.digest)
            except (EntryMissing, ChangedWhileReading):
                await conn.execute(SQL["drop_content"], {"tier": tier, "digest": entry.digest})
                return False
            except DigestMismatch:
                await in_thread(set_aside, self._flash[tier], tier, entry.digest)
                await conn.execute(SQL["drop_content"], {"tier": tier, "digest": entry.digest})
                return False
        return True

    async def _make_room(self, shard: Shard, tier: str, need_bytes: int) -> None:
        """Evict what no live run holds, least recently used first, when the copy would not fit otherwise."""
        _, free = await in_thread(self._flash[tier].roots.space)
        if free >= need_bytes + HEADROOM_BYTES:
            return
        async with self._database.project(shard.project) as conn:
            parameters = {"tier": tier, "limit": EVICT_MAX}
            rows = await SQL.many(conn, "evictable", **parameters)
        idle = [Idle(row.digest, row.size_bytes) for row in rows]
        steps = plan_eviction(idle, need_bytes=need_bytes + HEADROOM_BYTES - free)
        for step in steps:
            await self._evict(shard.project, tier, step.digest)
        if steps:
            log.info("content evicted", tier=tier, count=len(steps), bytes=sum(s.size_bytes for s in steps))

    async def _evict(self, project: str, tier: str, digest: str) -> None:
        """The row goes before the file, each under the digest's lock: a crash between leaves bytes without a row,
        which the next staging of that digest finds, reads and adopts; never a row without bytes. Whoever took the
        digest in between has written its row again, and keeps the file."""
        held = {"tier": tier, "digest": digest}
        async with self._database.project(project) as conn:
            await conn.execute(SQL["lock_digest"], held)
            await conn.execute(SQL["drop_idle"], held)
        async with self._database.project(project) as conn:
            await conn.execute(SQL["lock_digest"], held)
            if await SQL.one(conn, "content", **held) is None:
                await in_thread(self._flash[tier].roots.evict, digest)

    async def _remember(self, conn: Connection, tier: str, entry: Any, mark: str) -> None:
        parameters = {"tier": tier, "digest": entry.digest, "size_bytes": entry.size_bytes, "mark": mark}
        await conn.execute(SQL["put_content"], parameters)

    # --- run-seal -------------------------------------------------------------------------------------------

    async def seal(self, shard: Shard) -> None:
        async with self._database.project(shard.project) as conn:
            if not await self._may_stage(conn, shard):
                await finish_shard(conn, shard)
                return
            run = await get(conn, shard.subject_id)
            records = await self._records(conn, run)
        roots = self._flash[run.tier].roots
        await in_thread(roots.check_identity)
        await self._settle(run.tier)
        await in_thread(roots.unseal, run.id)
        if await self._stage_again(shard, run):
            return
        digest = await in_thread(roots.write, run.id, RECORDS, records)
        async with self._database.project(shard.project) as conn:
            written = {"project": shard.project, "run": run.id, "path": RECORDS}
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["put_written"], {**written, "size_bytes": len(records), "digest": digest})
            if len(records) <= RECORDS_KEPT_BYTES:
                kept = {"project": shard.project, "digest": digest, "body": records}
                await conn.execute(SQL["keep_records"], kept)
            entries = await entries_of(conn, run.id)
            expression = await expression_of(conn, run.selection_id)
        manifest = self._manifest(run, entries, expression)
        await in_thread(self._write_root, roots, run, entries, manifest)
        await self._prove_ready(shard, run, manifest)

    async def _settle(self, tier: str) -> None:
        """Other nodes may have placed entries of this run. What an NFS client knows of names and sizes it may go on
        believing for a while; the seal compares what stands there, not what was remembered."""
        if self._flash[tier].settle_s:
            await self._clock.sleep(self._flash[tier].settle_s)

    async def _stage_again(self, shard: Shard, run: Any) -> bool:
        """Links are made durable by the seal, all at once: a power cut before it may have lost some whose rows
        say `staged`. They are staged again, and the seal after them."""
        listing = await in_thread(self._flash[run.tier].roots.listing, run.id)
        async with self._database.project(shard.project) as conn:
            entries = await entries_of(conn, run.id)
            lost = [e.path for e in entries if e.number is not None and e.path not in listing]
            if not lost:
                return False
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["unstage"], {"run": run.id, "paths": lost})
            await add_shards(conn, shard.project, [NewShard(shard.queue, "run-stage", run.id, tuple(lost), priority=5)])
            await finish_shard(conn, shard)
        log.warning("entries lost before the seal", run=run.id, count=len(lost))
        return True

    async def _records(self, conn: Connection, run: Any) -> bytes:
        """`records.parquet`: the aligned facts of exactly these slides, typed by the catalog's columns. Of a run that
        repeats another, the facts of then."""
        if run.like_id and (kept := await SQL.one(conn, "records_of", run=run.id, path=RECORDS)) is not None:
            return bytes(kept.body)
        rows = await SQL.many(conn, "aligned", run=run.id)
        columns = {row.name: row.type for row in await SQL.many(conn, "columns")}
        return await in_thread(_parquet, rows, columns)

    def _manifest(self, run: Any, entries: list[Any], expression: str | None) -> bytes:
        lines = [
            ManifestEntry(
                path=e.path,
                size_bytes=e.size_bytes,
                blake3=e.digest,
                slide=e.number,
                archive=f"{e.archive_tier}/{e.archive_key}" if e.archive_key else None,
            )
            for e in entries
        ]
        return encode_manifest(lines, run=run.id, cohort=expression, created=run.created_at.isoformat())

    def _write_root(self, roots: FlashRoots, run: Any, entries: list[Any], manifest: bytes) -> None:
        """Beside `data/` and `records.parquet` stand exactly manifest.jsonl, RUN.json and out/."""
        self._compare(roots, run.id, {e.path: e.size_bytes for e in entries})
        roots.write(run.id, "manifest.jsonl", manifest)
        roots.write(run.id, "RUN.json", self._identity(run, manifest))
        roots.seal(run.id, _requester(run))

    def _identity(self, run: Any, manifest: bytes) -> bytes:
        header = parse_manifest(manifest).header
        facts = {
            "format": "mover-run",
            "version": 1,
            "run": run.id,
            "project": run.project_id,
            "selection": run.selection_id,
            "tier": run.tier,
            "manifest_root": header.root,
            "count": header.count,
            "bytes": header.bytes,
            "created_at": run.created_at,
            "software": f"mover {__version__}",
        }
        return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"

    def _compare(self, roots: FlashRoots, run: str, expected: dict[str, int]) -> None:
        """Both directions: nothing missing, nothing strange, no other size (I4)."""
        own = ("manifest.jsonl", "RUN.json")
        listing = {p: s for p, s in roots.listing(run).items() if p not in own and not p.startswith("out/")}
        if listing != expected:
            missing, strange = expected.keys() - listing.keys(), listing.keys() - expected.keys()
            raise IntegrityError(
                f"the run root differs from its manifest: {len(missing)} missing, {len(strange)} strange",
                where=run,
                details=[{"path": path, "why": "missing"} for path in sorted(missing)[:OFFENDERS_MAX]]
                + [{"path": path, "why": "strange"} for path in sorted(strange)[:OFFENDERS_MAX]],
            )

    async def _prove_ready(self, shard: Shard, run: Any, manifest: bytes) -> None:
        header = parse_manifest(manifest).header
        async with self._database.project(shard.project) as conn:
            await conn.execute(SQL["share_withdrawals"])
            await self._refuse_withdrawn(conn, run.id)
            locked = await lock(conn, run.id)
            await finish_shard(conn, shard)
            if locked.state == "staging":
                check_transition("staging", "sealed", subject=run.id)
                await conn.execute(
                    SQL["seal"], {"id": run.id, "manifest": manifest.decode(), "root": header.root}
                )
                proof = await proofs.add(
                    conn,
                    project=shard.project,
                    kind="ready",
                    subject=run.id,
                    count=header.count,
                    bytes=header.bytes,
                    root=header.root,
                    verifier=f"mover.runs.stage {__version__}",
                    details={"node": self._node},
                )
                check_transition("sealed", "ready", subject=run.id)
                await conn.execute(SQL["ready"], {"id": run.id, "proof": proof})
                metrics.STAGE_SECONDS.observe((self._clock.now() - run.created_at).total_seconds())
                await audit.record(
                    conn,
                    project=shard.project,
                    node=self._node,
                    actor="daemon",
                    action="run ready",
                    subject=run.id,
                    details={"count": header.count, "bytes": header.bytes, "root": header.root},
                )

    # --- failure --------------------------------------------------------------------------------------------

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A run that cannot be staged fails with its reason; its partial root is removed."""
        run = await SQL.one(conn, "failed", id=shard.subject_id, reason=error.code, explanation=error.what)
        if run is None:
            return
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


def _requester(run: Any) -> Requester:
    return Requester(run.posix_uid, run.posix_gid)


def _parquet(rows: list[Any], columns: dict[str, str]) -> bytes:
    """One row per slide, ordered by path; the same rows give the same bytes."""
    table: dict[str, pa.Array] = {
        "path": pa.array([r.path for r in rows], pa.string()),
        "number": pa.array([r.number for r in rows], pa.string()),
        "subject": pa.array([r.subject for r in rows], pa.string()),
        "family": pa.array([r.family for r in rows], pa.string()),
        "size_bytes": pa.array([r.size_bytes for r in rows], pa.int64()),
    }
    known = {name for row in rows for name in row.slide_facts or {}}
    for name, arrow in (_SLIDE_COLUMNS | {n: a for n, a in _OBJECT_COLUMNS.items() if n in known}).items():
        table[name] = pa.array([_as(arrow, (r.slide_facts or {}).get(name)) for r in rows], arrow)
    for name, kind in columns.items():
        arrow = _ARROW[kind]
        # a fact that is called like a column above keeps both: the record's own gets a prefix
        key = f"record_{name}" if name in table else name
        table[key] = pa.array([_as(arrow, (r.facts or {}).get(name)) for r in rows], arrow)
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, compression="zstd")
    return buffer.getvalue()


def _as(arrow: pa.DataType, value: object) -> object:
    if value is None:
        return None
    if pa.types.is_floating(arrow):
        return float(value)  # type: ignore[arg-type]
    if pa.types.is_string(arrow):
        return str(value)
    return value
