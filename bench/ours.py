"""Our side of the races, as whole processes: `python -m bench.ours copy SOURCE TARGET ...`.

The same engine, tiers and promises as in the daemon: digested on the way, durable before it is said so, read
back cold unless `--no-readback`, entries' outcomes recorded in the catalog in groups with `--dsn`. What a daemon
has once for all its work (tiers with their identities, a database that runs) is made before the clock starts.
The last line is a JSON object with what only the inside can know: `seconds` of the work without start-up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reaper import cpu_s, descendants
from mover.model.moving import Item, Options, Outcome
from mover.tiers import identity
from mover.tiers.posix import PosixTier

if TYPE_CHECKING:
    from mover.repository.repository import Repository
    from mover.sandbox import Sandbox
    from mover.tiers.object import ObjectTier
    from mover.tiers.port import ReadTier
    from mover.tiers.staging import StagingTier
    from mover.transfer import Transfer

PASSWORD = "bench"
PROCESSES = 2
SLIDES_AT_ONCE = 4  # shards that a daemon runs at once, by default
PARSERS = 2  # children that parse for it, by default


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = words.add_subparsers(required=True)
    for name, verb in (("copy", copy), ("put", put), ("get", get)):
        one = verbs.add_parser(name)
        one.add_argument("source")
        one.add_argument("target")
        one.add_argument("--no-readback", action="store_true")
        one.add_argument("--dsn", default="")
        one.add_argument("--known", default="", help="a JSON file of digests by key: verified before, trusted since")
        one.set_defaults(verb=verb)
    walked = verbs.add_parser("walk")
    walked.add_argument("source")
    walked.add_argument("target", help="not used: every tool of a race is given one")
    walked.add_argument("--dsn", default="", help="into the catalog; without it nothing is kept")
    walked.add_argument("--twice", action="store_true", help="merged, then once more with nothing changed")
    walked.set_defaults(verb=walk)
    hinted = verbs.add_parser("changes")
    hinted.add_argument("source")
    hinted.add_argument("target", help="not used")
    hinted.add_argument("--dsn", required=True)
    hinted.add_argument("--files", type=int, default=100, help="how many are changed before each scan")
    hinted.set_defaults(verb=changes)
    cleaned = verbs.add_parser("deidentify")
    cleaned.add_argument("source")
    cleaned.add_argument("target")
    cleaned.add_argument("--no-readback", action="store_true")
    cleaned.add_argument("--first", default="", help="another slide to load the sandbox's parsers with, off the clock")
    cleaned.set_defaults(verb=deidentify)
    for name, verb in (("snapshot", snapshot), ("restore", restore)):
        one = verbs.add_parser(name)
        one.add_argument("source")
        one.add_argument("target")
        one.set_defaults(verb=verb)
    again = verbs.add_parser("reread")
    again.add_argument("target")
    again.set_defaults(verb=reread)
    asked = words.parse_args()
    print(json.dumps(asked.verb(asked)))


class _Clock:
    """Time and CPU of the work alone: started when a daemon would start it, with everything loaded and proved."""

    def __init__(self) -> None:
        self._began, self._cpu = time.monotonic(), _cpu_s()

    def said(self, **counted: float) -> dict[str, float]:
        return {**counted, "seconds": time.monotonic() - self._began, "cpu_s": _cpu_s() - self._cpu}


def _cpu_s() -> float:
    """Of this process, of what it started and of what has ended of that."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) + sum(cpu_s(pid) for pid in descendants(os.getpid()))


def reread(asked: argparse.Namespace) -> dict[str, float]:
    """What our read-back does, for a peer that has none: everything synced, then read past the cache and digested."""
    from mover.transfer import Transfer

    target, transfer, clock, size_bytes = _target(asked.target), Transfer(), _Clock(), 0
    os.sync()
    for entry in target.list():
        size_bytes += transfer.digest_stream(target.stream(entry.key, cold=True)).size_bytes
    return clock.said(bytes=size_bytes)


# --- moving many entries --------------------------------------------------------------------------------


def copy(asked: argparse.Namespace) -> dict[str, float]:
    return _carry(asked, _source(asked.source), _target(asked.target), prefix="", into="")


def put(asked: argparse.Namespace) -> dict[str, float]:
    bucket, _, prefix = asked.target.partition("/")
    return _carry(asked, _source(asked.source), _bucket(bucket), prefix="", into=f"{prefix}/")


def get(asked: argparse.Namespace) -> dict[str, float]:
    bucket, _, prefix = asked.source.partition("/")
    return _carry(asked, _bucket(bucket), _target(asked.target), prefix=prefix, into="")


def _carry(
    asked: argparse.Namespace, source: ReadTier, target: StagingTier, *, prefix: str, into: str
) -> dict[str, float]:
    from mover.transfer import Transfer
    from mover.transfer.carrier import Carrier

    known = json.loads(Path(asked.known).read_bytes()) if asked.known else {}
    recorder = _Recorder(asked.dsn) if asked.dsn else None
    clock = _Clock()
    carrier = Carrier(Transfer(), processes=PROCESSES)
    counted: dict[str, float] = {"files": 0, "bytes": 0, "verified": 0, "shared": 0, "groups": 0}
    try:
        items = _items(source, prefix=prefix, into=into, known=known)
        options = Options(readback=not asked.no_readback)
        for outcomes in carrier.carry(items, source=source, target=target, options=options):
            _count(outcomes, counted)
            if recorder is not None:
                recorder.record(outcomes)
    finally:
        carrier.close()
        if recorder is not None:
            recorder.close()
    return clock.said(**counted)


def _items(source: ReadTier, *, prefix: str, into: str, known: dict[str, str]) -> Iterator[Item]:
    for number, entry in enumerate(source.list(prefix)):
        relative = entry.key.removeprefix(f"{prefix}/") if prefix else entry.key
        blake3 = known.get(relative, "")
        yield Item(
            id=number,
            source=entry.key,
            target=into + relative,
            kind="file",
            fingerprint=entry.fingerprint,
            blake3=blake3,
            trusted_since="2026-01-01T00:00:00+00:00" if blake3 else "",
        )


def _count(outcomes: list[Outcome], counted: dict[str, float]) -> None:
    """Anything but "moved" ends the run: a race is won by moving everything."""
    for outcome in outcomes:
        if outcome.state != "moved":
            sys.exit(f"entry {outcome.id} {outcome.state}: {outcome.code} {outcome.what}")
        counted["files"] += 1
        counted["bytes"] += outcome.size_bytes
        counted["verified"] += outcome.verified
        counted["shared"] += outcome.shared
    counted["groups"] += 1


def _source(folder: str) -> PosixTier:
    return PosixTier("source", "deidentified", folder, role="flash", read_only=True)


def _target(folder: str) -> PosixTier:
    return PosixTier("target", "deidentified", folder, role="flash")


def _bucket(bucket: str) -> ObjectTier:
    from mover.tiers import object_control  # noqa: F401 - what a daemon has loaded; it takes half a second
    from mover.tiers.object import ObjectTier

    tier = ObjectTier(
        "bucket",
        "deidentified",
        url=f"s3://{bucket}",
        endpoint=os.environ["S3_ENDPOINT_URL"],
        region=os.environ["AWS_REGION"],
        credentials_file=os.environ["BENCH_S3_CREDENTIALS"],
    )
    tier.check_identity()
    return tier


class _Recorder:
    """Rows of what is safe, one COPY and one commit per group of outcomes: never before the bytes are durable."""

    def __init__(self, dsn: str) -> None:
        import psycopg

        self._conn = psycopg.connect(dsn)

    def record(self, outcomes: list[Outcome]) -> None:
        statement = "copy bench_entry (id, size_bytes, mtime_ns, mark, digest, verified) from stdin (format binary)"
        with self._conn.cursor() as cursor, cursor.copy(statement) as rows:
            rows.set_types(["int8", "int8", "int8", "text", "text", "bool"])
            for one in outcomes:
                written = one.written
                mtime_ns, mark = (written.mtime_ns, written.mark) if written is not None else (0, "")
                rows.write_row((one.id, one.size_bytes, mtime_ns, mark, one.blake3, one.verified))
        self._conn.commit()

    def close(self) -> None:
        self._conn.close()


# --- walking --------------------------------------------------------------------------------------------


def walk(asked: argparse.Namespace) -> dict[str, float]:
    from mover.walk import stage_posix, walk_posix

    clock = _Clock()
    if not asked.dsn:
        return clock.said(entries=walk_posix(asked.source).entries)
    if not asked.twice:
        return clock.said(entries=stage_posix(asked.source, asked.dsn, project="bench", tier="bench").totals.entries)
    # a tier of its own: a first scan has nothing to compare with
    tier = f"bench-{os.getpid()}"
    _register(asked.dsn, tier)
    first = stage_posix(asked.source, asked.dsn, project="bench", tier=tier, merge=True)
    again = stage_posix(asked.source, asked.dsn, project="bench", tier=tier, merge=True)
    if again.totals.listings_same != again.totals.listings:
        sys.exit("a tree that nobody changed was found changed")
    return clock.said(
        entries=first.totals.entries,
        walk_s=first.walk_s,
        merge_s=first.merge_s,
        again_walk_s=again.walk_s,
        again_merge_s=again.merge_s,
    )


def changes(asked: argparse.Namespace) -> dict[str, float]:
    """Some files change, and a full scan finds them; others change, and a scan of changes does. A last full scan
    says whether that one missed anything."""
    from mover.walk import changes_posix, stage_posix
    from mover.walk.watcher import Watcher

    tier = f"bench-{os.getpid()}"
    _register(asked.dsn, tier)
    of: dict[str, Any] = {"project": "bench", "tier": tier}
    watcher = Watcher(asked.dsn, {tier: Path(asked.source)})
    watcher.turn()
    first = stage_posix(asked.source, asked.dsn, merge=True, **of)
    files = [os.path.join(at, name) for at, _, names in os.walk(asked.source) for name in names]
    chosen = random.Random(8).sample(files, min(2 * asked.files, len(files)))
    for path in chosen[::2]:
        _append(path)
    full = stage_posix(asked.source, asked.dsn, merge=True, **of)
    for path in chosen[1::2]:
        _append(path)
    ended = threading.Event()
    running = threading.Thread(target=lambda: watcher.run(stopped=ended.is_set))
    running.start()
    clock = _Clock()
    hinted = changes_posix(asked.source, asked.dsn, **of)
    said = clock.said(entries=hinted.totals.entries)
    ended.set()
    running.join()
    watcher.close()
    if _changed(asked.dsn, hinted.scan) != len(chosen[1::2]):
        sys.exit("the scan of changes did not find what was changed")
    if _changed(asked.dsn, stage_posix(asked.source, asked.dsn, merge=True, **of).scan):
        sys.exit("the scan of changes missed something")
    return {
        **said, "first_s": first.walk_s + first.merge_s, "full_s": full.walk_s + full.merge_s,
        "changes_s": hinted.walk_s + hinted.merge_s, "changes_walk_s": hinted.walk_s, "folders": hinted.totals.folders,
    }  # fmt: skip


def _append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"changed")


def _changed(dsn: str, scan: str) -> int:
    import psycopg

    with psycopg.connect(dsn) as conn:
        conn.execute("select set_config('mover.project', 'bench', true)")
        found = conn.execute(
            "select new + changed + coalesce(gone, 0) from mover.scan where id = %s", [scan]
        ).fetchone()
    return int(found[0]) if found else -1


def _register(dsn: str, tier: str) -> None:
    import psycopg

    with psycopg.connect(dsn) as conn:
        conn.execute(
            "insert into mover.tier (name, kind, zone, role, identity, traits)"
            " values (%s, 'posix', 'deidentified', 'flash', 'bench', '{}')",
            [tier],
        )


# --- de-identifying one slide -----------------------------------------------------------------------------


def deidentify(asked: argparse.Namespace) -> dict[str, float]:
    """Recipes planned and proved in the sandbox, cleared, run, read back; source and result digested in one pass.

    With `--first` the sandbox loads its parsers with another slide before the inner clock starts: a daemon has
    them loaded.
    """
    from concurrent.futures import ThreadPoolExecutor

    from mover.deid.deidentify import prepare_slide, slide_sandbox
    from mover.transfer import Transfer

    source = PosixTier("intake", "identified", asked.source, role="source", read_only=True)
    target, transfer = _target(asked.target), Transfer()
    with slide_sandbox(max_children=PARSERS) as sandbox, ThreadPoolExecutor(SLIDES_AT_ONCE) as pool:
        if asked.first:
            with open(asked.first, "rb") as first:
                prepare_slide(sandbox, first.fileno(), suffix=".svs")
        clock = _Clock()

        def one(key: str) -> None:
            _deidentify(key, sandbox, transfer, source, target, readback=not asked.no_readback)

        list(pool.map(one, sorted(entry.key for entry in source.list())))
        return clock.said()


def _deidentify(
    key: str, sandbox: Sandbox, transfer: Transfer, source: PosixTier, target: PosixTier, *, readback: bool
) -> None:
    from mover.deid.deidentify import SlideVerifier, prepare_slide
    from mover.transfer import clear

    with source.open(key) as opened:
        seen = opened.fingerprint()
        plan = prepare_slide(sandbox, opened.fileno(), suffix=".svs", known=(key,)).plan
        clearance = clear(SlideVerifier(plan, proved=True, seen=seen), opened, plan.recipe)
        moved = transfer.run_recipe(
            plan.recipe,
            source=opened,
            source_tier=source,
            target=target,
            key=key,
            clearance=clearance,
            readback=readback,
            source_digest=True,
        )
    if moved.source_digest is None or moved.source_digest.blake3 == moved.digest.blake3:
        sys.exit("the digests of source and result are not two")


# --- snapshots --------------------------------------------------------------------------------------------


def made_repository(base: Path) -> None:
    """A tier and an empty repository in `base`, as a daemon finds them."""
    from mover.repository.repository import create_repository

    create_repository(_protect_tier(base / "tier", fresh=True), PASSWORD.encode())


def _protect_tier(root: Path, *, fresh: bool = False) -> PosixTier:
    if fresh:
        root.mkdir()
        identity.establish(root, name="protect", zone="deidentified")
    return PosixTier("protect", "deidentified", root, role="protect")


def _repository(tier: Path) -> Repository:
    from mover.repository.repository import open_repository

    return open_repository(_protect_tier(tier), PASSWORD.encode())


def snapshot(asked: argparse.Namespace) -> dict[str, float]:
    """The earlier snapshot and the digests of its files come from a file beside, as a daemon has them in its
    catalog; they are read before and kept after the clock."""
    from mover.repository.facts import Disk, Folder

    kept = Path(asked.target).with_name("catalog.txt")
    parent, digests = _kept(kept) if kept.exists() else (None, {})
    repository, source = _repository(Path(asked.target)), Folder({"artifacts": Disk(Path(asked.source))})
    clock = _Clock()
    result = repository.snapshot(
        source, hostname="bench", username="bench", tags=[], time=datetime.now(UTC), paths=["/artifacts"],
        parent=parent, parent_digests=digests,
    )  # fmt: skip
    os.sync()
    said = clock.said(files=result.files, bytes=result.bytes, added_bytes=result.added_bytes)
    if not result.complete:
        sys.exit("the snapshot is not complete")
    with kept.open("w") as lines:
        lines.write(f"{result.snapshot_id}\n")
        lines.writelines(f"{entry.blake3} {entry.path}\n" for entry in result.entries)
    return said


def _kept(path: Path) -> tuple[str, dict[str, str]]:
    snapshot, *lines = path.read_text().splitlines()
    return snapshot, {line[65:]: line[:64] for line in lines}


def restore(asked: argparse.Namespace) -> dict[str, float]:
    parent, _ = _kept(Path(asked.source).with_name("catalog.txt"))
    repository = _repository(Path(asked.source))
    clock = _Clock()
    result = repository.restore(parent, Path(asked.target), path="/artifacts")
    os.sync()
    if not result.complete:
        sys.exit("the restore is not complete")
    return clock.said(files=result.files, bytes=result.bytes)


if __name__ == "__main__":
    main()
