"""Step 3b, its end: seal a run's root (shard `run-seal`).

Order, and what a crash between leaves: what stands in the root is compared with what was staged, and what a power cut
took back is staged again; `records.parquet` and the manifest are decided in the catalog, and then written and read
back, so that what stands there is known whoever comes next, a cleanup too; everything gets its mode in one pass,
whose listing must equal the manifest in both directions; one sync makes it durable; the proof and `ready` are one
transaction. A crash anywhere leaves a seal to repeat (I3, I4).
"""

from __future__ import annotations

import io
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import Clock
from mover.decide.lifecycle import check_transition
from mover.errors import ChangedWhileReading, IntegrityError
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.manifest import ManifestEntry, ManifestHeader, ManifestShard, make_manifest
from mover.runs.roots import FlashRoots, Sealed
from mover.runs.site import (
    ENTRIES_PAGE,
    Flash,
    entries_of,
    expression_of,
    get,
    lock,
    may_stage,
    names_of,
    refuse_withdrawn,
    requester,
    tars_of,
)

SQL = load(__file__)
MANIFEST, IDENTITY, RECORDS = "manifest.jsonl", "RUN.json", "records.parquet"
# a larger table of facts is not kept beside its run; one of a million slides has about 50 MB
RECORDS_KEPT_BYTES = 256 << 20
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


class Seal:
    """Handler of the shard that seals a root, on a node that reaches its tier."""

    def __init__(self, database: Database, flash: dict[str, Flash], *, node: str, clock: Clock) -> None:
        self._database, self._flash, self._node, self._clock = database, flash, node, clock

    async def seal(self, shard: Shard) -> None:
        async with self._database.project(shard.project) as conn:
            if not await may_stage(conn, shard):
                await finish_shard(conn, shard)
                return
            run = await get(conn, shard.subject_id)
            facts = await self._facts(conn, run)
            expression = await expression_of(conn, run.selection_id)
        # in no transaction: a table of a million slides takes long, and who cancels does not wait for it
        records = facts if isinstance(facts, bytes) else await in_thread(_parquet, *facts)
        roots = self._flash[run.tier].roots
        await in_thread(roots.check_identity)
        await self._settle(run.tier)
        standing = await in_thread(roots.unseal, run.id)
        if await self._stage_again(shard, run, standing):
            return
        entries, tars = await self._decide_records(shard, run, records)
        header, manifest = await in_thread(_manifest, run, entries, tars, expression)
        await self._decide_manifest(shard, run, manifest)
        sealed = await self._write_root(shard, run, header, {RECORDS: records, MANIFEST: manifest})
        _compare(run.id, sealed.sizes, {one.path: one.size_bytes for one in names_of(entries, tars)})
        await self._keep_marks(shard, sealed.marks)
        shortcoming = await in_thread(roots.shortcoming, run.id, requester(run))
        await self._prove_ready(shard, run, header, explanation=shortcoming)

    async def _settle(self, tier: str) -> None:
        """Other nodes may have placed entries of this run. What an NFS client knows of names and sizes it may go on
        believing for a while; the seal compares what stands there, not what was remembered."""
        if self._flash[tier].settle_s:
            await self._clock.sleep(self._flash[tier].settle_s)

    async def _stage_again(self, shard: Shard, run: Any, standing: dict[str, int]) -> bool:
        """Links are made durable by the seal, all at once: a power cut before it may have lost some whose rows
        say `staged`. They are staged again, and the seal after them; so is what was found damaged meanwhile."""
        async with self._database.project(shard.project) as conn:
            names = names_of(await entries_of(conn, run.id), await tars_of(conn, run))
            lost = [
                one.path for one in names
                if one.staged_how != "written" and (one.path not in standing or one.damaged_at is not None)
            ]  # fmt: skip
            if not lost:
                return False
            await renew_shard(conn, shard, lease_s=LEASE_S)
            for name in ("unstage_tars", "unstage"):
                await conn.execute(SQL[name], {"run": run.id, "paths": lost})
            await add_shards(conn, shard.project, [NewShard(shard.queue, "run-stage", run.id, tuple(lost), priority=5)])
            await finish_shard(conn, shard)
        log.warning("entries lost before the seal", run=run.id, count=len(lost))
        return True

    async def _facts(self, conn: Connection, run: Any) -> bytes | tuple[list[Any], dict[str, str]]:
        """For `records.parquet`: the aligned facts of exactly these slides, and the catalog's columns, which type them.
        What an earlier attempt decided stays decided; of a run that repeats another, it is the facts of then."""
        if (kept := await SQL.one(conn, "records_of", run=run.id, path=RECORDS)) is not None:
            return bytes(kept.body)
        rows = await SQL.many(conn, "aligned", run=run.id)
        return rows, {row.name: row.type for row in await SQL.many(conn, "columns")}

    async def _decide_records(self, shard: Shard, run: Any, records: bytes) -> tuple[list[Any], list[Any]]:
        """Every entry of the root from here on, and its tars."""
        digest = await in_thread(lambda: blake3(records).hexdigest())
        written = {"run": run.id, "path": RECORDS, "size_bytes": len(records), "digest": digest}
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["put_written"], {"project": shard.project, **written})
            if len(records) <= RECORDS_KEPT_BYTES:
                kept = {"project": shard.project, "digest": digest, "body": records}
                await conn.execute(SQL["keep_records"], kept)
            return await entries_of(conn, run.id), await tars_of(conn, run)

    async def _decide_manifest(self, shard: Shard, run: Any, manifest: bytes) -> None:
        text = await in_thread(manifest.decode)
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["decide_manifest"], {"id": run.id, "manifest": text})

    async def _write_root(self, shard: Shard, run: Any, header: ManifestHeader, files: dict[str, bytes]) -> Sealed:
        """Beside `data/` and `records.parquet` stand exactly manifest.jsonl, RUN.json and out/."""
        roots = self._flash[run.tier].roots
        decided = await in_thread(_still_decided, roots, run)
        write = partial(roots.write, run.id, epoch=shard.epoch, not_after=decided)
        for path, data in files.items():
            await in_thread(write, path, data)
        sealed_at = decided if decided is not None else await in_thread(roots.time_of, run.id, MANIFEST)
        identity = _identity(run, header, sealed_at=sealed_at.isoformat())
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["decide_identity"], {"id": run.id, "identity": identity.decode()})
        await in_thread(write, IDENTITY, identity)
        return await in_thread(roots.seal, run.id, requester(run))

    async def _keep_marks(self, shard: Shard, marks: dict[str, str]) -> None:
        """How the root's own inodes look as long as nobody touches them: cleanup then need not read them."""
        paths = [path for path in marks if path not in (MANIFEST, IDENTITY)]
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            for at in range(0, len(paths), ENTRIES_PAGE):
                part = paths[at : at + ENTRIES_PAGE]
                values = {"run": shard.subject_id, "paths": part, "marks": [marks[path] for path in part]}
                for name in ("mark_entries", "mark_tars"):
                    await conn.execute(SQL[name], values)

    async def _prove_ready(self, shard: Shard, run: Any, header: ManifestHeader, *, explanation: str | None) -> None:
        async with self._database.project(shard.project) as conn:
            await conn.execute(SQL["share_withdrawals"])
            await refuse_withdrawn(conn, run.id)
            locked = await lock(conn, run.id)
            if (await SQL.one(conn, "damaged", run=run.id)).found:
                raise ChangedWhileReading("content of the run was found damaged, and is staged again", where=run.id)
            await finish_shard(conn, shard)
            if locked.state == "staging":
                check_transition("staging", "sealed", subject=run.id)
                await conn.execute(SQL["seal"], {"id": run.id, "root": header.root})
                proof = await proofs.add(
                    conn,
                    project=shard.project,
                    kind="ready",
                    subject=run.id,
                    count=header.count,
                    bytes=header.bytes,
                    root=header.root,
                    verifier=f"mover.runs.stage {__version__}",
                    details={"node": self._node} | ({"shards_root": header.shards_root} if header.shards else {}),
                )
                check_transition("sealed", "ready", subject=run.id)
                await conn.execute(SQL["ready"], {"id": run.id, "proof": proof, "explanation": explanation})
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


def _still_decided(roots: FlashRoots, run: Any) -> datetime | None:
    """The time that RUN.json of an earlier attempt promises, unless something came into the root since. An attempt that
    was given up, and goes on when its tier answers again, then writes what stands there already."""
    if run.identity is None:
        return None
    sealed_at = datetime.fromisoformat(msgspec.json.decode(run.identity)["sealed_at"])
    return sealed_at if roots.newest(run.id, "data") <= sealed_at else None


def _manifest(run: Any, entries: list[Any], tars: list[Any], expression: str | None) -> tuple[ManifestHeader, bytes]:
    lines = [
        ManifestEntry(
            path=e.path, size_bytes=e.size_bytes, blake3=e.digest, slide=e.number,
            archive=f"{e.archive_tier}/{e.archive_key}" if e.archive_key else None,
            split=e.split or msgspec.UNSET,
            shard=e.shard or msgspec.UNSET,
            offset=msgspec.UNSET if e.shard is None else e.shard_offset,
        )
        for e in entries
    ]  # fmt: skip
    shards = [ManifestShard(path=t.path, size_bytes=t.size_bytes, blake3=t.digest, count=t.count) for t in tars]
    return make_manifest(lines, run=run.id, cohort=expression, created=run.created_at.isoformat(), shards=shards)


def _identity(run: Any, header: ManifestHeader, *, sealed_at: str) -> bytes:
    """`sealed_at` is by the tier's own clock, as the times of its files are: whatever is newer changed afterwards."""
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
        "sealed_at": sealed_at,
        "software": f"mover {__version__}",
    }
    if header.shards:
        facts["shards_root"] = header.shards_root
    return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"


def _compare(run: str, sealed: dict[str, int], expected: dict[str, int]) -> None:
    """Both directions: nothing missing, nothing strange, no other size (I4)."""
    standing = {path: size for path, size in sealed.items() if path not in (MANIFEST, IDENTITY)}
    if standing == expected:
        return
    missing, strange = expected.keys() - standing.keys(), standing.keys() - expected.keys()
    raise IntegrityError(
        f"the run root differs from its manifest: {len(missing)} missing, {len(strange)} strange",
        where=run,
        details=[{"path": path, "why": "missing"} for path in sorted(missing)[:OFFENDERS_MAX]]
        + [{"path": path, "why": "strange"} for path in sorted(strange)[:OFFENDERS_MAX]],
    )


def _parquet(rows: list[Any], columns: dict[str, str]) -> bytes:
    """One row per slide, ordered by path; the same rows give the same bytes."""
    table: dict[str, pa.Array] = {
        "path": pa.array([r.path for r in rows], pa.string()),
        "number": pa.array([r.number for r in rows], pa.string()),
        "subject": pa.array([r.subject for r in rows], pa.string()),
        "family": pa.array([r.family for r in rows], pa.string()),
        "size_bytes": pa.array([r.size_bytes for r in rows], pa.int64()),
    }
    if any(r.split for r in rows):
        table["split"] = pa.array([r.split for r in rows], pa.string())
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
