"""Run roots on a real file system: what may be removed is removed (tests/security holds what may not)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mover.runs.roots import FlashRoots, Requester


def sealed(tmp_path: Path) -> FlashRoots:
    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None)
    roots.begin("run-x", Requester(None, None))
    roots.write("run-x", "records.parquet", b"rows")
    (roots.run_root("run-x") / "data").mkdir()
    roots.seal("run-x", Requester(None, None))
    return roots


def marks(roots: FlashRoots) -> dict[str, str]:
    return {s.path: s.mark for s in roots.standing("run-x", manifest={}, own={})}


def test_a_file_with_two_names_is_removed_under_both(tmp_path: Path):
    """Removing the first name moves the inode's change time; that must not look like a change."""
    roots = sealed(tmp_path)
    out = roots.run_root("run-x") / "out"
    (out / "one").write_bytes(b"weights")
    os.link(out / "one", out / "two")
    judged = marks(roots)
    roots.unseal("run-x")
    roots.remove("run-x", judged)
    assert roots.is_gone("run-x")


def test_many_shards_may_begin_one_run_at_once(tmp_path: Path):
    """Found by kills: two shards of a run looked, saw no root, and the second to make it failed the run."""
    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(50):
            list(pool.map(lambda _, run=f"run-{turn}": roots.begin(run, Requester(None, None)), range(8)))
            assert roots.run_root(f"run-{turn}").is_dir()
