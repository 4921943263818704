"""A whole site for tests: a small hospital, a bucket, a daemon as a process that can be killed.

`Ward` is the demo's site with plain folders for tiers. `crash` is what a power cut does to processes: SIGKILL
to the daemon's whole group and to its PostgreSQL, at once; the next `start` must find everything again.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.rows import namedtuple_row

from mover.catalog.postgres import Embedded
from mover.demo import seaweed
from mover.demo.places import Place, Places
from mover.demo.site import Site, start_time
from mover.model import wire
from mover.sdk import SyncClient

WAIT_S = 120.0


class Ward:
    """`source` is a folder of batches; everything else is made below `root`."""

    def __init__(self, root: Path, source: Path, server: seaweed.Seaweed, *, bucket_prefix: str) -> None:
        self.root = root
        self.source = source
        self.site = Site(root)
        self.server = server
        self.flash, self.protect = root / "flash", root / "protect"
        for folder in (self.flash, self.protect):
            folder.mkdir(parents=True)
        self.bucket_prefix = bucket_prefix
        self.site.write(self._places(), server)
        self._use_prefix()
        self.url = ""
        self.kills: list[dict[str, Any]] = []

    def _places(self) -> Places:
        def place(name: str, path: Path) -> Place:
            return Place(name, str(path), "folder", name == "source", False, "a plain folder")

        return Places(
            str(self.root), place("source", self.source), place("flash", self.flash), place("protect", self.protect)
        )

    def _use_prefix(self) -> None:
        """One SeaweedFS serves all wards of a session, each below its own prefix."""
        text = self.site.config.read_text()
        plain = f"s3://{self.server.bucket}"
        self.site.config.write_text(text.replace(plain, f"{plain}/{self.bucket_prefix}"))

    # --- the daemon -----------------------------------------------------------------------------------------

    def start(self) -> SyncClient:
        self.url = self.site.start_daemon()
        return self.client()

    def client(self, token: str | None = None) -> SyncClient:
        return self.site.client(self.url, token)

    def crash(self, what: str) -> dict[str, Any]:
        """Kill everything at once; what was in flight is kept for the report."""
        in_flight = self.in_flight()
        pid = msgspec.json.decode((self.root / "daemon.process").read_bytes())["pid"]
        if start_time(pid):
            os.killpg(pid, signal.SIGKILL)
        Embedded(self.site.state).kill()
        _reap(pid)
        found = {"step": what, "in_flight": in_flight}
        self.kills.append(found)
        return found

    def restart(self) -> SyncClient:
        return self.start()

    def stop(self) -> None:
        self.site.stop_daemon()

    # --- looking behind the API -----------------------------------------------------------------------------

    def sql(self, query: str, *parameters: object) -> list[Any]:
        """As the superuser, beside the daemon: `start` adopts the running server, `stop` only lets go of it."""
        embedded = Embedded(self.site.state)
        server = embedded.start()
        try:
            with psycopg.connect(server.superuser_dsn, row_factory=namedtuple_row) as conn:
                return conn.execute(query, parameters or None).fetchall()
        finally:
            embedded.stop()

    def in_flight(self) -> list[str]:
        rows = self.sql(
            "select kind, state::text, epoch from mover.shard where state in ('running', 'waiting') order by id"
        )
        return [f"{row.kind} {row.state}" + (f" (claim {row.epoch})" if row.state == "running" else "") for row in rows]

    def objects(self) -> dict[str, int]:
        from mover.tiers.object import ObjectTier

        s = self.server
        tier = ObjectTier(
            "archive", "deidentified", url=f"s3://{s.bucket}/{self.bucket_prefix}", endpoint=s.endpoint,
            region=s.region, credentials_file=s.credentials_file,
        )  # fmt: skip
        return {e.key: e.fingerprint.size_bytes for e in tier.list("") if not e.key.startswith(".mover/")}

    # --- invariants -----------------------------------------------------------------------------------------

    def check_archive(self) -> None:
        """Nothing lost, nothing doubled: every slide stands behind one sidecar, and nothing else stands there."""
        rows = self.sql("select number, key, thumbnail_key, size_bytes from mover.slide")
        expected = {}
        for row in rows:
            expected[row.key] = row.size_bytes
        names = set(expected) | {r.thumbnail_key for r in rows} | {f"slides/{r.number}/sidecar.json" for r in rows}
        found = self.objects()
        assert set(found) == names, (sorted(set(found) - names), sorted(names - set(found)))
        assert all(found[key] == size for key, size in expected.items())
        numbers = self.sql("select count(*) as minted from vault.number")[0].minted
        published = self.sql("select count(*) as n from mover.pack where state = 'published'")[0].n
        assert len(rows) == published <= numbers

    def check_audit(self, client: SyncClient) -> None:
        verdict = client.audit.verify()
        assert verdict.whole, verdict.broken

    def check_root(self, client: SyncClient, run: wire.Run) -> None:
        """A ready run root equals its manifest, both ways and by digest (I4)."""
        from mover.runs.roots import hash_file

        assert run.root is not None
        root = Path(run.root)
        lines = [msgspec.json.decode(line) for line in client.runs.manifest(run.id).splitlines()[1:]]
        listed = {line["path"]: line["blake3"] for line in lines}
        found = {str(p.relative_to(root)): hash_file(p) for p in (root / "data").rglob("*") if p.is_file()}
        found["records.parquet"] = hash_file(root / "records.parquet")
        assert found == listed


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def copy_hospital(source: Path, target: Path) -> Path:
    """A hospital of one's own: tests may add files without disturbing others."""
    shutil.copytree(source, target)
    return target
