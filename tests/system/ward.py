"""A whole site for tests: a small hospital, a bucket, a daemon as a process that can be killed.

`Ward` is the demo's site with plain folders for tiers. `kill` is what a power cut does to processes: SIGKILL to
the daemon's whole group and to its PostgreSQL, at once, while a shard of the wanted kind runs; what the next
start finds in the database is what was in flight. `invariants` holds what must be true afterwards.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import yaml
from psycopg.rows import namedtuple_row

from mover.catalog.postgres import Embedded
from mover.demo import seaweed
from mover.demo.places import Place, Places
from mover.demo.site import Site, start_time
from mover.model import wire
from mover.sdk import SyncClient
from mover.tiers.object import ObjectTier

WAIT_S = 120.0
LOOK_S = 0.01

RUNNING = "select id, kind, subject_id, epoch from mover.shard where state = 'running' and kind = any(%s) order by id"
OPEN = "select count(*) as n from mover.shard where state in ('waiting', 'running') and kind = any(%s)"

# what each step's shards are called, and one sentence about how far its work was when it died
KINDS = {
    "images": ["batch-walk", "pack-deidentify"],
    "records": ["records-match"],
    "stage": ["run-stage", "run-seal"],
    "protect": ["run-protect"],
    "clean": ["run-clean"],
    "dump": ["dump-make"],
}


class Kill(msgspec.Struct, frozen=True):
    """One power cut: what ran (as the recovered database says) and how far it was."""

    step: str
    shards: tuple[str, ...]
    phase: str


class Ward:
    """`source` is a folder of batches; everything else is made below `root`."""

    def __init__(self, root: Path, source: Path, server: seaweed.Seaweed, *, bucket_prefix: str) -> None:
        self.root = root
        self.source = source
        self.site = Site(root)
        self.server = server
        self.flash, self.protect = root / "flash", root / "protect"
        self.bucket_prefix = bucket_prefix
        self.kills: list[Kill] = []
        self.on_kill: Callable[[Kill], object] = lambda kill: None
        self.url = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: psycopg.Connection[Any] | None = None
        self._killed: dict[str, int] = {}  # shard -> the claim that was already killed once

    @classmethod
    def build(cls, root: Path, source: Path, server: seaweed.Seaweed, *, bucket_prefix: str) -> Ward:
        ward = cls(root, source, server, bucket_prefix=bucket_prefix)
        for folder in (ward.flash, ward.protect):
            folder.mkdir(parents=True)
        ward.site.write(ward._places(), server)
        ward._use_prefix()
        return ward

    @classmethod
    def copy(cls, root: Path, of: Ward) -> Ward:
        """A twin of a stopped ward, with everything it knows; the bucket's prefix and the source are shared."""
        shutil.copytree(of.root, root, symlinks=True)
        (root / "state" / "urls").unlink(missing_ok=True)
        ward = cls(root, of.source, of.server, bucket_prefix=of.bucket_prefix)
        policy = ward.site.policies / "protect.yaml"
        policy.write_text(policy.read_text().replace(str(of.root), str(root)))
        ward.site.write_settings(ward._places(), of.server)
        ward._use_prefix()
        return ward

    def _places(self) -> Places:
        def place(name: str, path: Path) -> Place:
            return Place(name, str(path), "folder", name == "source", False, "a plain folder")

        return Places(
            str(self.root), place("source", self.source), place("flash", self.flash), place("protect", self.protect)
        )

    def _use_prefix(self) -> None:
        """One SeaweedFS serves all wards of a session, each below its own prefix."""
        self.change_settings(lambda s: s["tiers"]["archive"].update(url=f"{self._bucket}/{self.bucket_prefix}"))

    @property
    def _bucket(self) -> str:
        return f"s3://{self.server.bucket}"

    def change_settings(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Before a start: a person edits mover.yaml."""
        settings = yaml.safe_load(self.site.config.read_text())
        change(settings)
        self.site.config.write_text(yaml.safe_dump(settings, sort_keys=False))

    # --- the daemon -----------------------------------------------------------------------------------------

    def start(self) -> SyncClient:
        """Start, or wait for what `kill` has started already; a client of its admin."""
        child = self._child or self._spawn()
        self.url = self.site.await_daemon(child)
        return self.client()

    def client(self, token: str | None = None) -> SyncClient:
        return self.site.client(self.url, token)

    def restore(self, client: SyncClient, snapshot: str, to: Path, path: str) -> None:
        """A restore, followed to its end."""
        asked = client.restores.request(wire.RestoreRequest(snapshot=snapshot, to=str(to), path=path), key=str(to))
        done = client.restores.wait(asked.id, timeout_s=300)
        assert done.state == "complete", done

    def stop(self) -> None:
        self._forget_watch()
        self._child = None
        self.site.stop_daemon()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._child = self.site.spawn_daemon()
        return self._child

    # --- killing --------------------------------------------------------------------------------------------

    def kill(self, step: str, *, after_s: float, until: Callable[[], bool] | None = None) -> Kill | None:
        """Kill everything `after_s` after a shard of the step was seen at work (and `until` held), start again
        without waiting. None when nothing of the step was in flight any more: such a point does not count."""
        kinds = KINDS[step]
        if not self._await_work(kinds, until):
            return None
        time.sleep(after_s)  # real time: what is killed are real processes
        before = {row.id: row.epoch for row in self._at_work(kinds)}
        self._crash()
        self._spawn()  # it loads its code while the database recovers and is looked at
        shards = self._in_flight(before)
        if not shards:
            return None
        phase = self._phase(step, shards)
        if any(row.epoch != before[row.id] for row in self._rows(before)):
            phase += " (read when the next attempt had begun)"
        found = Kill(step, tuple(f"{s.kind} (claim {before[s.id]})" for s in shards), phase)
        self.kills.append(found)
        self.on_kill(found)
        return found

    def _await_work(self, kinds: list[str], until: Callable[[], bool] | None) -> bool:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if self._at_work(kinds):
                if until is None or until():
                    return True
            elif not self.look(OPEN, kinds)[0].n:
                return False
            time.sleep(LOOK_S)
        raise AssertionError(f"no shard of {kinds} began; the log is {self.site.log}")

    def _crash(self) -> None:
        self._forget_watch()
        pid = msgspec.json.decode((self.root / "daemon.process").read_bytes())["pid"]
        if start_time(pid):
            os.killpg(pid, signal.SIGKILL)
        Embedded(self.site.state).kill()
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        self._child = None

    def _at_work(self, kinds: list[str]) -> list[Any]:
        """Shards claimed by a living daemon: a claim that was killed once still says `running`."""
        return [row for row in self.look(RUNNING, kinds) if row.epoch > self._killed.get(row.id, 0)]

    def _in_flight(self, before: dict[str, int]) -> list[Any]:
        """Which of these claims the recovered database still holds open: unfinished, or claimed once more."""
        found = [r for r in self._rows(before) if r.epoch > before[r.id] or r.state == "running"]
        self._killed.update({row.id: before[row.id] for row in found})
        return found

    def _rows(self, before: dict[str, int]) -> list[Any]:
        return self.look(
            "select id, kind, subject_id, epoch, state::text from mover.shard where id = any(%s) order by id",
            list(before),
        )

    def _phase(self, step: str, shards: list[Any]) -> str:
        subject = shards[0].subject_id
        return {"images": self._images_phase, "records": self._records_phase, "stage": self._stage_phase,
                "protect": self._protect_phase, "clean": self._clean_phase,
                "dump": self._dump_phase}[step](subject)  # fmt: skip

    def _images_phase(self, batch: str) -> str:
        [row] = self.look("select count(*) as all, count(*) filter (where state <> 'found') as decided from mover.pack")
        if not row.all:
            return "walking"
        vouched = {key.split("/")[1] for key in self.objects() if key.endswith("sidecar.json")}
        rows = {r.number for r in self.look("select number from mover.slide")}
        loose = sum(key.split("/")[1] not in vouched for key in self.objects())
        unrecorded = len(vouched - rows)
        return f"{row.decided} of {row.all} packs decided, {loose} objects without sidecar, {unrecorded} without row"

    def _records_phase(self, record_set: str) -> str:
        [row] = self.look("select state, version from mover.record_set where id = %s", record_set)
        return f"version {row.version} {row.state}"

    def _stage_phase(self, run: str) -> str:
        [row] = self.look(
            "select r.state::text, count(*) as all, count(staged_at) as staged,"
            " count(*) filter (where staged_how = 'copied') as copied"
            " from mover.run r join mover.run_entry e on e.run_id = r.id where r.id = %s group by r.state", run
        )  # fmt: skip
        temporaries = sum(".mover-tmp-" in p.name for p in self.flash.rglob("*"))
        return f"{row.staged} of {row.all} staged, {row.copied} copied, {temporaries} half-written"

    def _protect_phase(self, run: str) -> str:
        [row] = self.look("select state::text from mover.run where id = %s", run)
        rows = self.look("select state from mover.snapshot where run_id = %s", run)
        count = {kind: sum(p.is_file() for p in self.repository.glob(f"{kind}/**/*")) for kind in ("data", "index")}
        locks = len(list(self.repository.glob("locks/*")))
        return (
            f"run {row.state}, {len(rows)} snapshot rows, repository: {count['data']} packs, "
            f"{count['index']} indexes, {locks} locks"
        )

    def _dump_phase(self, dump: str) -> str:
        [row] = self.look("select state, digest from mover.dump where id = %s", dump)
        copies = [r.tier for r in self.look("select tier from mover.dump_copy where dump_id = %s order by tier", dump)]
        temporaries = sum(".mover-tmp-" in p.name for p in self.protect.rglob("*"))
        taken = "taken" if row.digest else "not taken"
        return f"dump {row.state}, {taken}, copies: {copies or 'none'}, {temporaries} half-written"

    def _clean_phase(self, run: str) -> str:
        root, strays = self.flash / "runs" / run, self.flash / ".mover" / "strays" / run
        left = sum(p.is_file() for p in root.rglob("*"))
        return f"{left} files left{'' if root.exists() else ', root gone'}, strays aside: {strays.exists()}"

    def tables(self, folder: str) -> dict[str, str]:
        """The tables of a batch, as a data manager names them."""
        files = sorted((self.source / "records" / folder).glob("*.csv"))
        return {path.stem: f"records/{folder}/{path.name}" for path in files}

    def batch_of(self, folder: str) -> str:
        """Declared in order of the hospital's folders, so the first folder is the oldest batch."""
        folders = sorted(p.name for p in self.source.iterdir() if p.name != "records")
        return str(self.look("select id from mover.batch order by created_at")[folders.index(folder)].id)

    def quiet(self) -> None:
        """Wait until no shard waits or runs."""
        deadline = time.monotonic() + WAIT_S
        while self.look("select id from mover.shard where state in ('waiting', 'running')"):
            assert time.monotonic() < deadline, f"work goes on; the log is {self.site.log}"
            time.sleep(0.05)

    # --- looking behind the API -----------------------------------------------------------------------------

    @property
    def repository(self) -> Path:
        return Path(self.site.repository()["path"])

    def look(self, query: str, *parameters: object) -> list[Any]:
        """As the superuser, beside the daemon, on one connection per life of the database."""
        if self._watch is None:
            # nothing is held on to: the server outlives this look, and the daemon finds it running
            dsn = Embedded(self.site.state).start().superuser_dsn
            self._watch = psycopg.connect(dsn, row_factory=namedtuple_row, autocommit=True)
        return self._watch.execute(query, parameters or None).fetchall()

    def change(self, statement: str, *parameters: object) -> None:
        """What no API allows, such as moving a lease into the past."""
        self.look("select 1")
        assert self._watch is not None
        self._watch.execute(statement, parameters or None)

    def _forget_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def archive(self) -> ObjectTier:
        s = self.server
        return ObjectTier(
            "archive", "deidentified", url=f"{self._bucket}/{self.bucket_prefix}", endpoint=s.endpoint,
            region=s.region, credentials_file=s.credentials_file,
        )  # fmt: skip

    def objects(self) -> dict[str, int]:
        """What stands in the archive, but for the tier's own and the audit's checkpoints, which come by the hour."""
        found = self.archive().list("")
        return {e.key: e.fingerprint.size_bytes for e in found if not e.key.startswith((".mover/", "audit/"))}


@contextmanager
def ending(wards: list[Ward]) -> Iterator[None]:
    try:
        yield
    finally:
        for ward in wards:
            ward.stop()


def copy_hospital(source: Path, target: Path) -> Path:
    """A hospital of one's own: tests may add files without disturbing others."""
    shutil.copytree(source, target)
    return target
