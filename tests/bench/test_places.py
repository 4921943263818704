"""Where races are run: nothing that slows a later race, nothing that is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import places
from bench.context import SMOKE, Context


def test_without_root_races_of_many_files_share_the_roots_file_system_and_delete_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting many files makes the creations of the next race slow on ext4, for whoever comes first."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    context = Context(tmp_path, SMOKE, {}, lambda line: None)
    place = context.many_place("p4", need_bytes=1000, files=10)
    made = place.fresh("out") / "file"
    made.write_bytes(b"x")
    place.remove()
    assert made.exists()
    assert place.kind.endswith("the root's own")
    places.remove_leftovers(tmp_path)
    assert not made.exists()


def test_an_output_folder_is_never_used_twice(tmp_path: Path) -> None:
    place = places.plain(tmp_path, "p1")
    place.fresh("ours-0")
    with pytest.raises(FileExistsError):
        place.fresh("ours-0")


def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount(tmp_path: Path) -> None:
    assert places.filesystem(Path("/proc/self")) == "proc"
    assert places.filesystem(tmp_path) not in ("proc", "unknown")
