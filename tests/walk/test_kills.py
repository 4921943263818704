"""A walk in a process of its own, killed by SIGKILL while it works, and taken up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from mover.clock import monotonic_s, pause
from tests.support.postgres import Dsns

PATIENCE_S = 180.0
SCAN = """
import os, sys
from mover.clock import pause
from mover.tiers import beneath
from mover.walk import conductor, ledger
from mover.walk.conductor import Walk
from mover.walk.ledger import CatalogLedger, Place
from mover.walk.reader import Job
from mover.walk.readers import Readers

dsn, root, slow = sys.argv[1], sys.argv[2], float(sys.argv[3])
conductor.COMMIT_ENTRIES = conductor.COMMIT_PARTS = 40
ledger.MERGE_ENTRIES = 100
place = Place(scan="scan-k", project="demo", tier="flash", number=int(sys.argv[4]), prefix=b"", tag=b"")
with CatalogLedger(dsn, place, fence=lambda conn: pause(slow)) as made:
    left = made.begin()
    if left:
        readers = Readers(Job(b"scan-k", beneath.open_root(root), True, False, False))
        Walk(made, readers, left=left).run()
        readers.close()
    made.merge()
    print(made.settle().complete, flush=True)
"""


def plant(root: Path) -> set[bytes]:
    made = set()
    for number in range(120):
        folder = root / f"d{number % 10}" / f"e{number % 37}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in range(8):
            path = folder / f"f{number}-{name}"
            path.write_text(str(number))
            made.add(os.fsencode(path.relative_to(root)))
    return made


@pytest.mark.slow
def test_a_walk_killed_in_each_phase_ends_with_the_whole_truth(tmp_path: Path, dsns: Dsns, tier_rows: None) -> None:
    """Killed while it walks, killed while it merges, each several times: every entry once, counted once."""
    truth = plant(tmp_path / "root")
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        [number] = conn.execute(
            "insert into mover.scan (id, project_id, tier, created_by) values ('scan-k', 'demo', 'flash', 'ann')"
            " returning number"
        ).fetchone() or (0,)
        killed_in = []
        for kill_after in (1, 2, 2, 3):
            killed_in.append(run_and_kill(conn, dsns, tmp_path / "root", number, commits=kill_after))
        told = start(dsns, tmp_path / "root", number, slow=0.0).communicate(timeout=PATIENCE_S)
        assert told[0].strip() == "True"
        keys = [bytes(key) for (key,) in conn.execute("select key from mover.entry").fetchall()]
        counts = conn.execute(
            "select entries, new, same, changed, gone, findings, folders_left from mover.scan where id = 'scan-k'"
        ).fetchone()
        left = conn.execute("select count(*) from mover.entry_stage").fetchone()
    assert "walking" in killed_in
    assert (len(keys), set(keys)) == (len(truth), truth)
    assert counts == (len(truth), len(truth), 0, 0, 0, 0, 0)
    assert left == (0,)


def start(dsns: Dsns, root: Path, number: int, *, slow: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCAN, dsns.daemon, str(root), str(slow), str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run_and_kill(
    conn: psycopg.Connection[tuple[object, ...]], dsns: Dsns, root: Path, number: int, *, commits: int
) -> str:
    """Kill it after so many more commits than there were; the state in which it was."""
    before = progress(conn)
    process = start(dsns, root, number, slow=0.15)
    try:
        deadline_s = monotonic_s() + PATIENCE_S
        seen, steps = before, 0
        while steps < commits and process.poll() is None:
            assert monotonic_s() < deadline_s
            pause(0.01)
            now = progress(conn)
            steps, seen = steps + (now != seen), now
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    wait_for_the_end(conn)
    return str(seen[0])


def progress(conn: psycopg.Connection[tuple[object, ...]]) -> tuple[object, ...]:
    row = conn.execute("select state, entries, new + same, folders_left from mover.scan where id = 'scan-k'").fetchone()
    assert row is not None
    return row


def wait_for_the_end(conn: psycopg.Connection[tuple[object, ...]]) -> None:
    """The server notices a dead client a moment later; what it had not committed is gone then."""
    deadline_s = monotonic_s() + PATIENCE_S
    while conn.execute("select 1 from pg_stat_activity where application_name like 'mover-walk%'").fetchone():
        assert monotonic_s() < deadline_s
        pause(0.02)


@pytest.mark.slow
def test_readers_end_with_the_process_that_started_them(tmp_path: Path, dsns: Dsns, tier_rows: None) -> None:
    """A killed daemon must not leave processes behind that walk on."""
    plant(tmp_path / "root")
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        [number] = conn.execute(
            "insert into mover.scan (id, project_id, tier, created_by) values ('scan-k', 'demo', 'flash', 'ann')"
            " returning number"
        ).fetchone() or (0,)
        process = start(dsns, tmp_path / "root", number, slow=30.0)
        deadline_s = monotonic_s() + PATIENCE_S
        while not (children := children_of(process.pid)):
            assert monotonic_s() < deadline_s and process.poll() is None
            pause(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while any(Path(f"/proc/{child}/fd").exists() and is_alive(child) for child in children):
            assert monotonic_s() < deadline_s
            pause(0.02)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
