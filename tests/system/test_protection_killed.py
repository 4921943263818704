"""A real daemon that protects a folder into two repositories, killed with its database while it restores, snapshots,
copies, forgets, prunes and rebuilds, beside a stock restic: nothing kept is lost, and every restore ends as asked."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from mover.catalog.postgres import Embedded
from mover.deid.vault import VaultKey
from mover.errors import Denied
from mover.model import wire
from mover.sdk import SyncClient
from tests.repository.conftest import listing

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dumps")]

SITE = """\
version: 1
site: ward
project: demo
state_dir: state
policies: policies
listen: {unix: mover.sock}
repository_password_file: password
tiers:
  flash: {kind: posix, zone: deidentified, role: flash, path: flash}
  safe: {kind: posix, zone: deidentified, role: protect, path: safe}
  second: {kind: posix, zone: deidentified, role: protect, path: second}
"""
POLICY = """\
kind: protect
name: keep
from: flash
to: safe
copy: {to: second, every_s: 86400}
keep: {last: 2, at_least_s: 3600}
trash_s: 3600
prune_every_s: 3600
prune_grace_s: 3600
drill_every_s: 86400
folders: [{name: work, path: WORK}]
"""
READY_S, WAIT_S = 180.0, 180.0
FILES, FILE_BYTES = 2500, 48 << 10


class Site:
    """One daemon, a folder that it protects, and two repositories."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        for name in ("flash", "safe", "second", "policies", "state", "work"):
            (root / name).mkdir()
        (root / "mover.yaml").write_text(SITE)
        (root / "policies/keep.yaml").write_text(POLICY.replace("WORK", str(self.work)))
        (root / "password").write_text("secret")
        (root / "password").chmod(0o600)
        VaultKey.create(root / "state/vault.key")
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: psycopg.Connection[Any] | None = None

    def start(self) -> SyncClient:
        (self.root / "state/urls").unlink(missing_ok=True)
        with open(self.root / "log", "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "mover", "daemon", "--config", str(self.root / "mover.yaml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY_S
        while not (self.root / "state/urls").exists():
            assert time.monotonic() < deadline and self._child.poll() is None, (self.root / "log").read_text()[-2000:]
            time.sleep(0.05)
        return self.client()

    def client(self) -> SyncClient:
        return SyncClient((self.root / "state/urls").read_text().split()[0])

    def kill(self) -> None:
        """The daemon and its PostgreSQL, at once."""
        assert self._child is not None
        self._forget_watch()
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        Embedded(self.root / "state").kill()
        self._child.wait()

    def stop(self) -> None:
        self._forget_watch()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait(120)
        Embedded(self.root / "state").kill()

    def written_bytes(self) -> int:
        """What the daemon's process had written to storage, since it began."""
        assert self._child is not None
        lines = Path(f"/proc/{self._child.pid}/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))

    def rows(self, statement: str, *values: object) -> list[Any]:
        """As the superuser, behind the daemon's back, on one connection per life of the database."""
        if self._watch is None:
            dsn = Embedded(self.root / "state").start().superuser_dsn
            self._watch = psycopg.connect(dsn, row_factory=namedtuple_row, autocommit=True)
        cursor = self._watch.execute(statement, values or None)
        return list(cursor.fetchall()) if cursor.description else []

    def _forget_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def restic(self, tier: str, *words: str, ok: bool = True) -> str:
        environ = {**os.environ, "RESTIC_PASSWORD": "secret", "RESTIC_REPOSITORY": str(self.root / tier)}
        told = subprocess.run(["restic", "--no-cache", *words], env=environ, capture_output=True, text=True)
        assert told.returncode == 0 or not ok, told.stderr
        return told.stdout if told.returncode == 0 else ""

    def protect(self, client: SyncClient) -> str:
        """The folder as it is now; the id of its snapshot."""
        [folder] = until(client.folders.list)
        client.folders.protect(folder.id)
        return str(until(lambda: (new := client.folders.list()[0].snapshot) != folder.snapshot and new))


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)  # real time: what is killed are real processes
    raise AssertionError("it never happened")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.stop()


def fill(folder: Path, *, seed: int, files: int, size: int) -> None:
    for number in range(files):
        path = folder / f"d{number % 20:02}" / f"f{number:05}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random.Random(seed * 100_000 + number).randbytes(size))


def finished(staging: Path, source: Path) -> dict[str, int]:
    """Files that are done, by their inode: size, time and mode are set last."""
    done = {}
    for path in staging.rglob("f*"):
        with suppress(FileNotFoundError):
            facts, wanted = path.lstat(), (source / path.relative_to(staging)).lstat()
            if (facts.st_size, facts.st_mtime_ns, facts.st_mode) == (
                wanted.st_size,
                wanted.st_mtime_ns,
                wanted.st_mode,
            ):
                done[str(path.relative_to(staging))] = facts.st_ino
    return done


def test_a_restore_whose_daemon_is_killed_goes_on_and_writes_nothing_twice(site: Site, tmp_path: Path) -> None:
    """SIGKILL to the daemon and its database with a good part restored; the next process ends it byte for byte, and
    what was finished is neither made anew nor written again."""
    fill(site.work, seed=1, files=FILES, size=FILE_BYTES)
    wanted = listing(site.work)
    with site.start() as client:
        snapshot = site.protect(client)
        for to in (site.root / "safe/x", site.root / "second"):
            with pytest.raises(Denied):
                client.restores.request(wire.RestoreRequest(snapshot=snapshot, to=str(to), path="/work"), key=str(to))
    asked, back, staging = killed_in_the_middle(site, snapshot, tmp_path)
    done = finished(staging, site.work)

    with site.start() as client:
        seen = client.restores.wait(asked, timeout_s=WAIT_S)
        written = site.written_bytes()
    print(f"killed with {len(done)} of {FILES} files done; the next process wrote {written >> 20} MiB")
    assert (seen.state, seen.files, seen.damaged_count, seen.left_count) == ("complete", FILES, 0, 0)
    assert listing(back) == wanted
    assert {name: (back / name).stat().st_ino for name in done} == done
    assert written < (FILES - len(done)) * FILE_BYTES * 1.2 + (24 << 20)
    assert not staging.parent.exists()
    for tier in ("safe", "second"):
        if (site.root / tier / "config").exists():
            site.restic(tier, "check", "--read-data")


def killed_in_the_middle(site: Site, snapshot: str, folder: Path) -> tuple[str, Path, Path]:
    """A restore's id, its target and where it works. One that had ended when the kill came does not count."""
    for attempt in range(5):
        back = folder / f"back-{attempt}"
        with site.client() as client:
            body = wire.RestoreRequest(snapshot=snapshot, to=str(back), path="/work")
            asked = client.restores.request(body, key=str(attempt)).id
        staging = folder / f".restoring-{asked}" / "rest"
        until(lambda back=back, staging=staging: back.exists() or len(finished(staging, site.work)) > FILES // 3)
        site.kill()
        if not back.exists() and len(finished(staging, site.work)) < FILES:
            return asked, back, staging
        site.start().close()
    raise AssertionError("every restore had ended before it was killed")


class Stranger(threading.Thread):
    """A stock restic that backs up into the first repository, over and over, beside everything."""

    def __init__(self, site: Site, folder: Path) -> None:
        super().__init__()
        self._site, self._folder, self._over = site, folder, threading.Event()
        self.taken = 0

    def run(self) -> None:
        while not self._over.is_set():
            self.taken += bool(self._site.restic("safe", "backup", "--tag", "theirs", str(self._folder), ok=False))

    def end(self) -> None:
        self._over.set()
        self.join()


KINDS = ("folder-protect", "protect-copy", "protect-keep", "protect-prune", "protect-rebuild", "protect-whole")


@pytest.mark.soak
@pytest.mark.parametrize("rounds", [1, 6])
def test_protection_killed_at_any_work_beside_a_stock_restic_loses_nothing(
    site: Site, tmp_path: Path, rounds: int
) -> None:
    """Snapshot, copy, forgetting, prune, rebuild and check, each cut off at random; what counts afterwards is whether
    everything that is kept comes back from either repository, and what the stranger took as well."""
    chance, contents, deaths = random.Random(17), {}, []
    fill(site.work, seed=0, files=40, size=200_000)
    client = site.start()
    contents[site.protect(client)] = listing(site.work)
    stranger = Stranger(site, site.work)
    stranger.start()
    try:
        for number in range(rounds):
            for kind in KINDS:
                fill(site.work, seed=chance.randrange(10**6), files=8, size=200_000)
                _make_due(site, client, kind, number)
                if _killed_in(site, chance, kind):
                    deaths.append(kind)
                    client.close()
                    client = site.start()
                if kind == "folder-protect":
                    _quiet(site)
                    contents[site.protect(client)] = listing(site.work)
        _quiet(site)
    finally:
        stranger.end()
    site.rows("update mover.protect_turn set started_at = now() - interval '90 days' where kind = 'copy'")
    until(lambda: site.rows("select 1 from mover.protect_turn where kind = 'copy' and state = 'done'"
                            " and started_at > now() - interval '1 day'"))  # fmt: skip
    client.close()
    site.stop()
    print(f"killed in {deaths}; the stranger took {stranger.taken} snapshots meanwhile")
    assert stranger.taken and len(deaths) >= rounds * 3
    _judge(site, tmp_path, contents, stranger.taken)


def _make_due(site: Site, client: SyncClient, kind: str, number: int) -> None:
    if kind == "folder-protect":
        client.folders.protect(client.folders.list()[0].id)
    elif kind == "protect-rebuild":
        _quiet(site)
        client.snapshots.rebuild()
    elif kind == "protect-keep":  # hours pass: all but the two newest go to the trash, and what lies there goes
        site.rows("update mover.snapshot set recorded_at = recorded_at - interval '1 day'")
        site.rows("update mover.snapshot set trash_until = now() - interval '1 minute' where state = 'trashed'")
    site.rows("update mover.protect_turn set started_at = now() - interval '90 days'"
              " where kind = %s and state <> 'running'", kind.removeprefix("protect-"))  # fmt: skip


def _killed_in(site: Site, chance: random.Random, kind: str) -> bool:
    """Wait until such a shard runs, and a little longer; then everything is gone. False when none was seen."""
    running = "select 1 from mover.shard where kind = %s and state = 'running'"
    deadline = time.monotonic() + 40
    while not site.rows(running, kind):
        if time.monotonic() > deadline:
            return False
    time.sleep(chance.uniform(0, 0.5))
    site.kill()
    return True


def _quiet(site: Site) -> None:
    until(
        lambda: not site.rows("select 1 from mover.shard where state in ('waiting', 'running') and not_before < now()")
    )


def _judge(site: Site, tmp_path: Path, contents: dict[str, Any], theirs: int) -> None:
    rows = site.rows("select id, repository_id, state from mover.snapshot where state in ('checked', 'trashed')")
    Embedded(site.root / "state").kill()
    for tier in ("safe", "second"):
        site.restic(tier, "unlock")
        assert "no errors were found" in site.restic(tier, "check", "--read-data")
    there = json.loads(site.restic("safe", "snapshots", "--json"))
    assert sum("theirs" in (one.get("tags") or []) for one in there) == theirs
    copies = {one.get("original") or one["id"] for one in json.loads(site.restic("second", "snapshots", "--json"))}
    known = [row for row in rows if row.id in contents]
    assert known
    for row in known:
        site.restic("safe", "restore", row.repository_id, "--target", str(tmp_path / row.id))
        assert listing(tmp_path / row.id / "work") == contents[row.id]
        assert row.state == "trashed" or row.repository_id in copies
