"""A disk that is really full: a small file system of its own below the tier."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mover.errors import TierFull
from mover.repository.repository import create_repository
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
]

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GRACE = timedelta(days=2)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "tier"
    root.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(root)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield root
    subprocess.run(["umount", str(root)], check=True)


def fill(folder: Path, seed: int, size: int) -> Path:
    folder.mkdir()
    (folder / "model.pt").write_bytes(random.Random(seed).randbytes(size))
    return folder


def test_a_snapshot_onto_a_full_disk_fails_in_words_and_a_prune_makes_room_for_it(
    small: Path, restic: Restic, tmp_path: Path
) -> None:
    """What was kept stays whole, the half-written goes, and the next one has its place."""
    repository = create_repository(make_tier(small), PASSWORD, prefix="repo")
    kept_source = fill(tmp_path / "kept", 1, 4 << 20)
    kept = take(repository, kept_source).snapshot_id
    old = take(repository, fill(tmp_path / "old", 2, 12 << 20)).snapshot_id
    new_source = fill(tmp_path / "new", 3, 12 << 20)

    with pytest.raises(TierFull):
        take(repository, new_source)
    assert {facts.snapshot_id for facts in repository.snapshots()} == {kept, old}
    assert repository.check(True).ok

    repository.forget([old])
    repository.prune(grace=GRACE, now=NOW)
    assert repository.prune(grace=GRACE, now=NOW + GRACE + timedelta(minutes=1)).freed_bytes > 12 << 20
    new = take(repository, new_source).snapshot_id

    assert "no errors were found" in restic("check", "--read-data").stdout
    for snapshot_id, source in ((kept, kept_source), (new, new_source)):
        restic("restore", snapshot_id, "--target", str(tmp_path / snapshot_id))
        assert listing(tmp_path / snapshot_id / "artifacts") == listing(source)


def test_a_prune_on_a_disk_without_one_free_byte_fails_in_words_and_takes_nothing_away(
    small: Path, restic: Restic, tmp_path: Path
) -> None:
    """Not even a lock can be written then. A little room, and it does its work."""
    repository = create_repository(make_tier(small), PASSWORD, prefix="repo")
    source = fill(tmp_path / "kept", 1, 4 << 20)
    kept = take(repository, source).snapshot_id
    repository.forget([take(repository, fill(tmp_path / "old", 2, 4 << 20)).snapshot_id])
    before = sorted(path for path in (small / "repo/data").rglob("*") if path.is_file())
    _fill_up(small / "ballast")

    with pytest.raises(TierFull):
        repository.prune(grace=GRACE, now=NOW)
    assert sorted(path for path in (small / "repo/data").rglob("*") if path.is_file()) == before
    os.truncate(small / "ballast", (small / "ballast").stat().st_size - (64 << 10))
    assert repository.prune(grace=GRACE, now=NOW).finished
    assert repository.prune(grace=GRACE, now=NOW + GRACE + timedelta(minutes=1)).freed_bytes > 4 << 20

    assert "no errors were found" in restic("check", "--read-data").stdout
    restic("restore", kept, "--target", str(tmp_path / "back"))
    assert listing(tmp_path / "back" / "artifacts") == listing(source)


def _fill_up(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for step in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(step))
            except OSError:
                continue
