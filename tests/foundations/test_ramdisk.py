"""The folder of the tests' own database: what is in memory must not stay there, and need not be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ramdisk


def test_processes_that_know_a_folder_meet_in_memory_and_the_last_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run left goes with the next one; what another run uses stays."""
    monkeypatch.setattr(ramdisk, "MEMORY", rooms := tmp_path / "memory")
    monkeypatch.setattr(ramdisk, "FREE_BYTES", 0)
    (tmp_path / "other").mkdir()
    (rooms / "mover-tests-killed").mkdir(parents=True)
    with ramdisk.folder(tmp_path / "other", "catalog") as others:
        with ramdisk.folder(tmp_path, "catalog") as one, ramdisk.folder(tmp_path, "catalog") as two:
            assert one == two != others and sorted(rooms.iterdir()) == sorted([one, others])
        assert list(rooms.iterdir()) == [others]
        with ramdisk.folder(tmp_path, "catalog") as again:
            assert again.parent == rooms and again != one
    assert list(rooms.iterdir()) == []


@pytest.mark.parametrize("absent", [True, False])
def test_where_memory_is_small_or_missing_the_folder_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: bool
) -> None:
    """A container gives 64 MB of it."""
    monkeypatch.setattr(ramdisk, "MEMORY", tmp_path / "memory" if absent else tmp_path)
    monkeypatch.setattr(ramdisk, "FREE_BYTES", 0 if absent else 1 << 60)
    (shared := tmp_path / "shared").mkdir()
    with ramdisk.folder(shared, "catalog") as one:
        assert one == shared / "catalog"
