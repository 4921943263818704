"""What the demo's training job leaves behind must be awkward, plentiful and the same every time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mover.demo.artifacts import write_artifacts, write_code
from tests.demo.test_hospital import digests


@pytest.mark.slow
def test_artifacts_are_many_odd_and_the_same_for_a_seed(tmp_path: Path) -> None:
    made = write_artifacts(tmp_path / "one", seed=3, scale=0.01)
    again = write_artifacts(tmp_path / "two", seed=3, scale=0.01)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert (made.files, made.size_bytes) == (again.files, again.size_bytes)
    names = {path.name for path in (tmp_path / "one").rglob("*")}
    assert {"-rf", "line\nbreak.txt", "empty folder", "latest", "dangling"} <= names
    assert made.files == sum(path.is_file() and not path.is_symlink() for path in (tmp_path / "one").rglob("*"))


@pytest.mark.slow
def test_the_sparse_file_is_sparse_and_the_links_are_links(tmp_path: Path) -> None:
    """A mover that reads holes or follows links would change what it protects."""
    made = write_artifacts(tmp_path / "out", scale=0.1)
    about = os.stat(made.sparse_file)
    assert about.st_blocks * 512 < about.st_size // 4
    assert os.readlink(tmp_path / "out" / "checkpoints" / "latest") == "epoch-011.f32"
    assert os.stat(tmp_path / "out" / "odd" / "evaluate.sh").st_nlink == 2


def test_the_source_tree_has_a_commit_a_change_and_an_untracked_file(tmp_path: Path) -> None:
    """Provenance must hold what was really run, not what was last committed."""
    code = write_code(tmp_path / "code")
    if shutil.which("git") is None:
        assert code.commit is None
        return
    status = subprocess.run(
        ["git", "-c", f"safe.directory={code.folder}", "status", "--porcelain"],
        cwd=code.folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert status.splitlines() == [" M train.py", "?? notes.txt"]
    assert write_code(tmp_path / "again").commit == code.commit
