"""What must hold after any number of kills: nothing lost, nothing doubled, nothing claimed without proof.

Each function looks behind the API, at the database as superuser and at the tiers themselves, and asserts.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import msgspec
from blake3 import blake3

from mover import daemon
from mover.clock import SYSTEM
from mover.model import wire
from mover.model.sidecar import decode_sidecar
from mover.runs.roots import hash_file
from mover.sdk import SyncClient
from mover.settings import load
from mover.tiers.posix import PosixTier
from tests.system.ward import WAIT_S, Ward

TEMPORARY = (".mover-tmp-", ".partial")


def check_archive(ward: Ward) -> None:
    """Every slide stands behind one sidecar, its bytes are the catalog's, and nothing else stands there."""
    tier, found = ward.archive(), ward.objects()
    rows = ward.look("select number, key, thumbnail_key, thumbnail_digest, size_bytes, digest, root from mover.slide")
    files = ward.look("select number, name, key, size_bytes, digest from mover.slide_file")
    sidecars = {f"slides/{r.number}/sidecar.json": r for r in rows}
    thumbnails = {r.thumbnail_key for r in rows if r.thumbnail_key}
    names = {r.key for r in rows} | {f.key for f in files} | thumbnails | set(sidecars)
    assert set(found) == names, (sorted(set(found) - names), sorted(names - set(found)))
    for key, row in sidecars.items():
        told = decode_sidecar(tier.read(key))
        assert (told.number, told.key, told.blake3) == (row.number, row.key, row.digest)
        assert told.root == (row.root or row.digest)
        mine = {(f.name, f.key, f.size_bytes, f.digest) for f in files if f.number == row.number}
        assert {(f.name, f.key, f.size_bytes, f.blake3) for f in told.files} == mine
        if row.thumbnail_key:
            assert blake3(tier.read(row.thumbnail_key)).hexdigest() == row.thumbnail_digest
    for one in (*rows, *files):
        assert found[one.key] == one.size_bytes
        assert blake3(tier.read(one.key)).hexdigest() == one.digest


def check_numbers(ward: Ward) -> None:
    """One number per scan and one slide per number (I6); a number for every scan that was looked at, no more."""
    assert not ward.look("select coalesce(root, digest) from mover.slide group by 1 having count(*) > 1")
    assert not ward.look("select number from mover.pack where state = 'published' group by number having count(*) > 1")
    [count] = ward.look(
        "select (select count(*) from mover.slide) as slides, (select count(*) from vault.number) as minted,"
        " (select count(*) from mover.pack where state = 'published') as published"
    )
    images = {
        hash_file(path) for path in ward.source.rglob("*") if path.is_file() and path.suffix not in (".jpg", ".csv")
    }
    assert count.slides == count.published <= count.minted <= len(images)


def check_proofs(ward: Ward) -> None:
    """Each state that people rely on points at a proof of its own subject (I3), and each is proved once."""
    assert not ward.look(
        "select p.id from mover.pack p left join mover.proof v on v.id = p.verified_proof"
        " left join mover.proof d on d.id = p.deidentified_proof left join mover.slide s on s.number = p.number"
        " where p.state = 'published' and (v.root is distinct from coalesce(s.root, s.digest)"
        " or d.root is distinct from coalesce(s.root, s.digest))"
    )
    assert not ward.look("select id from mover.run where state in ('ready', 'protected') and ready_proof is null")
    assert not ward.look("select id from mover.run where state = 'cleaned' and cleaned_proof is null")
    assert not ward.look("select id from mover.batch where state = 'complete' and complete_proof is null")
    doubled = ward.look(
        "select subject_id, kind, count(*) from mover.proof where kind <> 'complete'"
        " group by subject_id, kind having count(*) > 1"
    )
    assert not doubled, doubled


def check_ledgers(ward: Ward) -> None:
    """Every row of every table in exactly one state: no line twice, none left out, and the proof counts them."""
    for row in ward.look(
        "select l.record_set_id, l.table_name, count(*) as lines, count(distinct l.line) as different,"
        " r.report -> 'totals' ->> l.table_name as total"
        " from mover.ledger l join mover.record_set r on r.id = l.record_set_id where r.state = 'aligned'"
        " group by l.record_set_id, l.table_name, r.report"
    ):
        assert row.lines == row.different == int(row.total), row
    assert not ward.look(
        "select r.id from mover.record_set r join mover.proof p on p.id = r.aligned_proof"
        " where p.count <> (select count(*) from mover.ledger l where l.record_set_id = r.id)"
    )


def check_snapshots(ward: Ward) -> None:
    """One checked snapshot per protected run, and nothing in the repository that the catalog does not know."""
    for row in ward.look(
        "select r.id, count(s.id) filter (where s.state = 'checked') as checked,"
        " count(s.id) filter (where s.state = 'written') as written"
        " from mover.run r left join mover.snapshot s on s.run_id = r.id where r.protected_proof is not null"
        " group by r.id"
    ):
        assert (row.checked, row.written) == (1, 0), row
    standing = "select repository_id from mover.snapshot where state in ('checked', 'trashed')"
    known = {row.repository_id for row in ward.look(standing)}
    assert {path.name for path in (ward.repository / "snapshots").glob("*")} == known


def check_cleaned(ward: Ward) -> None:
    """The proof of the last attempt counts the strays of all, and the trail tells what each set out to remove."""
    for row in ward.look(
        "select r.id, p.details, (select count(*) from mover.stray s where s.run_id = r.id) as strays,"
        " (select count(*) from mover.audit_record a where a.body::jsonb ->> 'subject' = r.id"
        "   and a.body::jsonb ->> 'action' = 'run cleanup begun') as begun"
        " from mover.run r join mover.proof p on p.id = r.cleaned_proof"
    ):
        assert row.details["strays"] == row.strays
        assert 1 <= row.begun <= row.details["attempt"], row


def check_root(client: SyncClient, run: wire.Run) -> None:
    """A ready run root equals its manifest, both ways and by digest (I4)."""
    assert run.root is not None
    root = Path(run.root)
    lines = [msgspec.json.decode(line) for line in client.runs.manifest(run.id).splitlines()[1:]]
    listed = {line["path"]: line["blake3"] for line in lines}
    own = {"manifest.jsonl", "RUN.json"}
    files = [p for p in root.rglob("*") if p.is_file() and not p.is_relative_to(root / "out")]
    found = {str(p.relative_to(root)): hash_file(p) for p in files}
    assert {path: digest for path, digest in found.items() if path not in own} == listed
    assert own <= set(found)


def check_rest(ward: Ward, client: SyncClient) -> None:
    """No shard waits, hangs or failed; the audit is whole; what killed attempts left is swept in the end."""
    # what the policies begin by themselves every so often may be on its way; it ends, too
    unfinished = "select id, kind, state::text, error_code from mover.shard where state <> 'done'"
    for _ in range(1200):
        if not any(row.kind.startswith(("protect-", "lock-")) for row in ward.look(unfinished)):
            break
        time.sleep(0.1)
    assert not ward.look(unfinished)
    verdict = client.audit.verify()
    assert verdict.whole, verdict.broken
    assert not ward.look("select id from queue.procrastinate_jobs where status <> 'doing'")
    client.close()
    ward.stop()
    _check_swept(ward)
    # dead workers are told from live ones by their heartbeats
    ward.change("update queue.procrastinate_workers set last_heartbeat = last_heartbeat - interval '1 day'")
    with ward.start():
        deadline = time.monotonic() + WAIT_S
        while jobs := ward.look("select id, status::text from queue.procrastinate_jobs"):
            assert time.monotonic() < deadline, jobs
            time.sleep(0.1)


class _Tomorrow:
    def now(self) -> datetime:
        return SYSTEM.now() + timedelta(days=1)


def _check_swept(ward: Ward) -> None:
    """The daemon's own sweep, a day later: by the change times of files, which nobody can set."""
    tiers = load(ward.site.config).tiers
    for name, path in (("flash", ward.flash), ("protect", ward.protect)):
        with patch.object(daemon, "SYSTEM", _Tomorrow()):
            asyncio.run(daemon._sweep_tier(tiers[name], PosixTier(name, tiers[name].zone, path)))
        assert not [found for found in path.rglob("*") if any(mark in found.name for mark in TEMPORARY)]
