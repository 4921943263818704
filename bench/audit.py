"""P17: the audit pack of a run of 100,000 slides: written by the daemon's role, checked without one."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import LiteralString

import psycopg

from bench import cohorts, results
from bench.context import Context, rounded
from bench.database import Catalog
from bench.results import Claim
from mover import audit, signing
from mover.catalog.database import Database
from mover.catalog.postgres import DAEMON
from mover.clock import monotonic_s
from mover.model.manifest import ManifestEntry, make_manifest
from mover.model.policy import AuditPolicy
from mover.tiers.identity import establish
from mover.tiers.posix import PosixTier

RUN, ASKED_S = "run-bench", 60.0
SLICE = 25_000

# What a published slide leaves in the catalog: a pack, its two proofs, and a record of the chain.
_PUBLISHED: tuple[LiteralString, ...] = (
    """insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier)
       select kind || '-' || number, 'bench', kind::mover.proof_kind, 'pack-' || number, 1, size_bytes, digest, 'bench'
         from mover.slide, unnest(array['verified', 'deidentified']) kind""",
    """insert into mover.pack (id, project_id, batch_id, barcode, entry, state, number, verified_proof,
                               deidentified_proof, decisions)
       select 'pack-' || number, 'bench', 'batch', number, number, 'published', number, 'verified-' || number,
              'deidentified-' || number, '[]' from mover.slide""",
)
_RECORDED: LiteralString = """
    select count(mover.audit_append('bench', 'bench', jsonb_build_object('actor', 'daemon', 'action', 'pack published',
           'subject', 'pack-' || number, 'reason', '', 'request', '', 'details',
           jsonb_build_object('number', number, 'bytes', size_bytes, 'removed', 31))::text))
      from (select number, size_bytes from mover.slide order by number offset %s limit %s) s
"""


def packs(context: Context) -> None:
    slides, load_before = context.sizes.pack_slides, os.getloadavg()[0]
    with Catalog(context.root / "catalog-p17") as catalog:
        context.told(f"P17: making {slides} published slides and their chain")
        root = generate(catalog.dsn, slides)
        written, checked, size, records = asyncio.run(_raced(context, catalog, root))
    seconds = [one + other for one, other in zip(written, checked, strict=True)]
    ratio = median(seconds) / ASKED_S
    context.told(f"P17: written in {median(written):.1f} s, checked in {median(checked):.1f} s, {size / 1e6:.1f} MB")
    context.claim(
        Claim(
            id="P17", work=f"audit pack of a run of {slides} slides and {records} records: written, then checked",
            unit="s", ours=rounded(median(seconds)), peers={}, limit=ASKED_S, limit_name="asked for",
            ratio=rounded(ratio), against="asked for", goal=1.0, met=results.judge(ratio, 1.0, "lower"),
            better="lower", condition="as the project's role with row level security on; compressed, signed",
            rounds={"written": [rounded(one) for one in written], "checked": [rounded(one) for one in checked]},
            stamp=results.stamp(load_before=load_before),
        )
    )  # fmt: skip


def generate(dsn: str, slides: int) -> str:
    """The manifest's root."""
    cohorts.generate(dsn, 0, slides)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        for statement in _PUBLISHED:
            conn.execute(statement)
        conn.execute("select set_config('mover.project', 'bench', false)")
        for at in range(0, slides, SLICE):
            conn.execute(_RECORDED, [at, SLICE])
        rows = conn.execute("select number, size_bytes, digest from mover.slide").fetchall()
        entries = [ManifestEntry(f"data/{number}.svs", size, digest, number) for number, size, digest in rows]
        header, manifest = make_manifest(entries, run=RUN, cohort=None, created=datetime.now(UTC).isoformat())
        proof = ["ready", RUN, header.count, header.bytes, header.root]
        conn.execute("insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier)"
                     " values ('ready', 'bench', %s, %s, %s, %s, %s, 'bench')", proof)  # fmt: skip
        conn.execute(
            "insert into mover.run (id, project_id, tier, policy, state, requested_by, manifest, manifest_root,"
            " ready_proof) values (%s, 'bench', 'bench', 'stage', 'ready', 'bench', %s, %s, 'ready')",
            [RUN, manifest.decode(), header.root],
        )
        conn.execute("vacuum analyze mover.slide, mover.pack, mover.proof, mover.audit_record")
    return header.root


async def _raced(context: Context, catalog: Catalog, root: str) -> tuple[list[float], list[float], int, int]:
    key, file, tier = context.root / "audit.key", context.root / "run.audit", context.root / "outside"
    signing.new_key(key)
    tier.mkdir()
    identity = establish(tier, name="bench", zone="deidentified")
    outside = PosixTier("bench", "deidentified", tier, role="archive", identity=identity)
    database = await Database.open(catalog.server.dsn(DAEMON), name="bench", max_size=2)
    written, checked = [], []
    try:
        policy = AuditPolicy(name="audit", targets=("bench",))
        await audit.Checkpoints(database, {"bench": outside}, [policy], key_file=key, site="bench").keep("bench")
        for _ in range(context.sizes.rounds):
            began = monotonic_s()
            size = await _write(database, file, key)
            written.append(monotonic_s() - began)
            began = monotonic_s()
            found = audit.check_pack(file)
            checked.append(monotonic_s() - began)
            if not found.whole or found.manifest_root != root:
                raise SystemExit(f"the pack does not hold: {found.problems}")
    finally:
        await database.close()
    return written, checked, size, found.lines["record"]


async def _write(database: Database, file: Path, key: Path) -> int:
    with file.open("wb") as target:
        async for piece in audit.make_pack(
            database, "bench", RUN, by="bench", node="bench", site="bench", key_file=key
        ):
            target.write(piece)
        return target.tell()
