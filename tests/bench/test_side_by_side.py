"""docs/why.md says what happened, not what we hope."""

from __future__ import annotations

import runpy
from pathlib import Path

import msgspec
import pytest

from bench import peers, side_by_side
from bench.side_by_side import Report

ROOT = Path(side_by_side.__file__).parents[1]


def test_the_page_tells_what_was_played() -> None:
    """`python docs/make_why.py` mends this test."""
    page = runpy.run_path(str(ROOT / "docs" / "make_why.py"))
    assert (ROOT / "docs" / "why.md").read_text("utf-8") == page["made"](page["kept"]())


def test_a_flip_changes_one_bit_and_neither_size_nor_time(tmp_path: Path) -> None:
    """Or the peers would see it for a reason that rot does not give them."""
    path = tmp_path / "slide"
    path.write_bytes(bytes(range(256)))
    path.chmod(0o440)
    before = path.stat()
    side_by_side.flip(path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_mode) == (before.st_size, before.st_mtime_ns, before.st_mode)
    assert sum((a ^ b).bit_count() for a, b in zip(path.read_bytes(), range(256), strict=True)) == 1


@pytest.mark.soak
def test_every_mishap_is_played_and_ours_holds(tmp_path: Path) -> None:
    """The whole page once more: rclone and rsync go wrong where it says so, ours nowhere."""
    if absent := [peer for peer in ("rclone", "rsync") if not peers.find(peer)]:
        pytest.skip(f"needs {' and '.join(absent)} to compare with: make bench-deps")
    kept = tmp_path / "outcomes.json"
    assert side_by_side.main(["--root", str(tmp_path), "--json", str(kept)]) == 0
    report = msgspec.json.decode(kept.read_bytes(), type=Report)
    assert len(report.mishaps) == len(side_by_side.MISHAPS)
    assert all(any(one.tool == peer and one.verdict == "silent" for m in report.mishaps for one in m.outcomes)
               for peer in ("rclone", "rsync"))  # fmt: skip
