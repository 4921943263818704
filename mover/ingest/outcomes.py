"""What becomes of a pack, in the catalog: each outcome is one transaction that begins with proving the lease.

A pack has one outcome. Slide, files, grant, proofs, pack and audit record are written together, so a crash leaves all
of them or none, and the slide in the archive is found and adopted by the next attempt.
"""

from __future__ import annotations

from collections import Counter

from blake3 import blake3
from msgspec import Struct, to_builtins
from psycopg.types.json import Jsonb

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.clock import monotonic_s
from mover.decide.quarantine import cause_of
from mover.errors import MoverError
from mover.ingest.batches import SQL
from mover.ingest.publish import Published
from mover.jobs import NewShard, Shard, add_shards
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.sidecar import Sidecar

log = get_logger("ingest")


class Case(Struct, frozen=True):
    """A pack in the hands of one shard. `kind` is what sort of pack it is, `judged_by` software and profile."""

    shard: Shard
    pack: str
    began_s: float
    kind: str = ""
    judged_by: str = ""

    @property
    def seconds(self) -> float:
        return round(monotonic_s() - self.began_s, 3)


class Ending(Struct, frozen=True):
    """How a batch ended, for the record."""

    action: str
    reason: str = ""


class Outcomes:
    def __init__(self, database: Database, *, node: str) -> None:
        self._database = database
        self._node = node

    # --- of a pack ------------------------------------------------------------------------------------------

    async def publish(self, case: Case, published: Published, *, tier: str) -> None:
        sidecar, shard = published.sidecar, case.shard
        async with self._database.project(shard.project) as conn:
            if not await self._undecided(conn, case):
                return
            await conn.execute(SQL["grant_slide"], {"project": shard.project, "number": sidecar.number})
            if await SQL.one(conn, "insert_slide", **slide_row(sidecar, tier)) is None:
                # the same scan under another name was published while we worked
                await self._write_duplicate(conn, case, sidecar.number)
                return
            if sidecar.files:
                await conn.cursor().executemany(SQL["insert_file"], file_rows(sidecar, tier))
            await self._write_published(conn, case, published)
            await self.record(conn, shard.project, "pack published", case.pack, number=sidecar.number)
        metrics.PACKS.labels("published").inc()
        log.info("pack published", pack=case.pack, number=sidecar.number, bytes=sidecar.total_bytes)

    async def _write_published(self, conn: Connection, case: Case, published: Published) -> None:
        sidecar, made = published.sidecar, published.made
        files = {"number": sidecar.number, "files": 1 + len(sidecar.files)}
        verified = await proofs.add(
            conn,
            project=case.shard.project,
            kind="verified",
            subject=case.pack,
            count=1 + len(sidecar.files),
            bytes=sidecar.total_bytes,
            root=sidecar.root,
            verifier=f"mover.transfer {__version__}",
            details={"method": "cold re-read of the archive", **files},
        )
        profile = to_builtins(sidecar.profile) if sidecar.profile else None
        deidentified = await proofs.add(
            conn,
            project=case.shard.project,
            kind="deidentified",
            subject=case.pack,
            count=made.count,
            bytes=made.copied_bytes,
            root=sidecar.root,
            verifier=made.verifier,
            details={**made.evidence, "profile": profile},
        )
        values = {
            "id": case.pack, "number": sidecar.number, "family": sidecar.family, "seconds": case.seconds,
            "decisions": Jsonb(to_builtins(made.decisions)), "verified": verified, "deidentified": deidentified,
        }  # fmt: skip
        await conn.execute(SQL["publish"], values)

    async def duplicate(self, case: Case, number: str) -> None:
        async with self._database.project(case.shard.project) as conn:
            if await self._undecided(conn, case):
                await self._write_duplicate(conn, case, number)

    async def _write_duplicate(self, conn: Connection, case: Case, number: str) -> None:
        project = case.shard.project
        await conn.execute(SQL["grant_slide"], {"project": project, "number": number})
        values = {"id": case.pack, "number": number, "family": None, "seconds": case.seconds}
        await conn.execute(SQL["duplicate"], values)
        await self.record(conn, project, "pack duplicate", case.pack, number=number)
        metrics.PACKS.labels("duplicate").inc()

    async def quarantine(self, case: Case, error: MoverError) -> None:
        """The pack stays where it is, in the identified zone, with a reason a person can act on; or excluded, where one
        has acted already on others of its cause."""
        project, cause = case.shard.project, cause_of(error.code, error.what, case.kind)
        async with self._database.project(project) as conn:
            if not await self._undecided(conn, case):
                return
            values = {
                "id": case.pack, "reason": error.code, "explanation": error.what, "family": None,
                "seconds": case.seconds, "cause": cause.id, "kind": case.kind, "judged_by": case.judged_by,
            }  # fmt: skip
            held = await SQL.one(conn, "quarantine", **values)
            by_rule = {"rule": held.rule_id} if held.rule_id else {}
            await self.record(conn, project, f"pack {held.state}", case.pack, reason=error.code, **by_rule)
        metrics.PACKS.labels(held.state).inc()
        if held.state == "quarantined":
            metrics.PACKS_QUARANTINED.labels(error.code).inc()
        log.warning("pack held back", pack=case.pack, state=held.state, code=error.code)

    async def _undecided(self, conn: Connection, case: Case) -> bool:
        """First in every outcome's transaction: the shard is still ours, and the pack waits for an outcome."""
        await renew_shard(conn, case.shard, lease_s=LEASE_S)
        return await SQL.one(conn, "lock_undecided", id=case.pack) is not None

    # --- of a batch -----------------------------------------------------------------------------------------

    async def close(self, conn: Connection, project: str, batch: str) -> Ending:
        """Every pack has a final state. The caller holds the batch's row, so this happens once, and puts the
        ending on record as the transaction's last statement (D21).

        A batch that is not what was declared does not complete: four slides must not be missing silently.
        """
        row = await SQL.one(conn, "get", id=batch)
        if row.missing_count:
            explanation = f"declared {row.expected_count}, found {row.found_count}: {row.missing_count} differ"
            await conn.execute(SQL["fail"], {"id": batch, "explanation": explanation})
            return Ending("batch failed", "batch-incomplete")
        packs = await SQL.many(conn, "all_packs", batch=batch)
        lines = "".join(f"{p.id} {p.state} {p.reason or ''} {p.number or ''}\n" for p in packs)
        proof = await proofs.add(
            conn,
            project=project,
            kind="complete",
            subject=batch,
            count=len(packs),
            bytes=sum(p.size_bytes for p in packs),
            root=blake3(lines.encode()).hexdigest(),
            verifier=f"mover.ingest {__version__}",
            # with what stays in the identified zone: nothing is missing that is not counted
            details={"states": dict(sorted(Counter(p.state for p in packs).items()))},
        )
        await conn.execute(SQL["complete"], {"id": batch, "proof": proof})
        waiting = await SQL.many(conn, "waiting_records", batch=batch)
        queue = tier_queue(row.tier)
        await add_shards(conn, project, [NewShard(queue, "records-match", r.id, priority=6) for r in waiting])
        return Ending("batch complete")

    async def record(
        self, conn: Connection, project: str, action: str, subject: str, *, reason: str = "", **details: object
    ) -> None:
        await audit.record(
            conn,
            project=project,
            node=self._node,
            actor="daemon",
            action=action,
            subject=subject,
            reason=reason,
            details=dict(details),
        )


def slide_row(sidecar: Sidecar, tier: str) -> dict[str, object]:
    picture = sidecar.thumbnail
    return {
        "number": sidecar.number,
        "site": sidecar.site,
        "family": sidecar.family,
        "extension": sidecar.extension,
        "size_bytes": sidecar.size_bytes,
        "digest": sidecar.blake3,
        "segments": list(sidecar.segments),
        "tier": tier,
        "key": sidecar.key,
        "thumbnail_key": picture.key if picture else None,
        "thumbnail_bytes": picture.size_bytes if picture else None,
        "thumbnail_digest": picture.blake3 if picture else None,
        "facts": Jsonb(sidecar.facts),
        "files_count": len(sidecar.files),
        "files_bytes": sum(file.size_bytes for file in sidecar.files),
        "root": sidecar.root if sidecar.files else None,
        "rules": sidecar.profile.rules if sidecar.profile else "",
    }


def file_rows(sidecar: Sidecar, tier: str) -> list[dict[str, object]]:
    return [
        {"number": sidecar.number, "name": file.name, "size_bytes": file.size_bytes, "digest": file.blake3,
         "segments": list(file.segments), "tier": tier, "key": file.key}
        for file in sidecar.files
    ]  # fmt: skip
