"""Small files by the batch in helper processes: nothing of a snapshot may depend on who read a file."""

from __future__ import annotations

import mmap
import os
import random
import signal
from pathlib import Path

import pytest

from mover.errors import ComputeError
from mover.repository import cutting, helpers, small, writer
from mover.repository.crypto import new_master_key
from mover.repository.cutting import FileReader, Tally
from mover.repository.repository import Repository
from mover.repository.small_child import LARGE, REGION_BYTES, Shelf, _sealed
from tests.repository.conftest import Restic, listing, take


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Everything that a small file can be: empty, text, noise, twice the same, with xattrs, with odd names."""
    chance, folder = random.Random(11), tmp_path / "out"
    for number in range(150):
        place = folder / f"d{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"noise{number}").write_bytes(chance.randbytes(chance.randrange(6000)))
        (place / f"text{number}").write_text(f"step {number} loss\n" * 40)
    (folder / "empty").write_bytes(b"")
    (folder / 'o"dd & <nön>').write_bytes(b"odd")
    (folder / os.fsdecode(b"not \xff text")).write_bytes(b"bytes")
    (folder / "twin1").write_bytes(b"twin" * 500)
    (folder / "twin2").write_bytes(b"twin" * 500)
    os.setxattr(folder / "twin1", "user.note", b"\x00\xff")
    os.link(folder / "twin2", folder / "link")
    return folder


@pytest.mark.slow
def test_a_tree_read_by_helpers_is_the_tree_that_one_process_reads(
    repository: Repository, restic: Restic, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal bytes give equal trees, digests and blobs; what is known already is stored no second time."""
    alone = take(repository, tree)
    monkeypatch.setattr(small, "HELP_FROM_FILES", 0)

    helped = take(repository, tree)

    assert (helped.tree_id, helped.entries, helped.bytes) == (alone.tree_id, alone.entries, alone.bytes)
    assert helped.added_bytes < 1000
    fresh = tree / "d0" / "fresh"
    fresh.write_bytes(b"fresh" * 300)
    again = take(repository, tree)
    assert 0 < again.added_bytes < 40_000
    assert "no errors were found" in restic("check", "--read-data").stdout
    repository.restore(again.snapshot_id, tmp_path / "back", path="/artifacts")
    assert listing(tmp_path / "back") == listing(tree)


@pytest.mark.slow
def test_a_first_snapshot_by_helpers_is_whole(
    repository: Repository, restic: Restic, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "HELP_FROM_FILES", 0)
    result = take(repository, tree)
    assert result.complete and result.files == 306
    assert "no errors were found" in restic("check", "--read-data").stdout
    restic("restore", "latest", "--target", str(tmp_path / "back"))
    assert listing(tmp_path / "back" / "artifacts") == listing(tree)


@pytest.mark.slow
def test_a_helper_that_dies_ends_the_snapshot_and_leaves_no_descriptor_open(
    repository: Repository, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an answer is none: nothing is recorded, and the next attempt starts with new helpers."""
    monkeypatch.setattr(small, "HELP_FROM_FILES", 0)
    read = small._Helper.read

    def killed(self: small._Helper, fds: list[int]) -> object:
        self._process.process.send_signal(signal.SIGKILL)
        self._process.process.wait()
        return read(self, fds)

    monkeypatch.setattr(small._Helper, "read", killed)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(ComputeError):
        take(repository, tree)

    assert repository.snapshots() == []
    assert len(os.listdir("/proc/self/fd")) <= before
    monkeypatch.setattr(small._Helper, "read", read)
    assert take(repository, tree).complete


def test_a_helper_that_cannot_be_started_ends_the_snapshot(
    repository: Repository, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node at its limit of processes: told as such, tried again later."""
    monkeypatch.setattr(small, "HELP_FROM_FILES", 0)
    monkeypatch.setattr(helpers.sys, "executable", "/no/such/python")
    with pytest.raises(ComputeError, match="could not be started"):
        take(repository, tree)
    assert repository.snapshots() == []


@pytest.mark.slow
def test_what_grew_beyond_small_goes_back_to_whoever_asked(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a file and the reading of it, a log may grow a thousandfold."""
    monkeypatch.setattr(small, "HELP_FROM_FILES", 0)
    monkeypatch.setattr(writer, "SMALL_BYTES", 32 << 20)
    (tmp_path / "out").mkdir()
    content = random.Random(2).randbytes(3 << 20)
    (tmp_path / "out" / "grown").write_bytes(content)
    (tmp_path / "out" / "small").write_bytes(b"small")

    result = take(repository, tmp_path / "out")

    repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts")
    assert listing(tmp_path / "back") == listing(tmp_path / "out")
    assert result.bytes == len(content) + 5


def test_a_file_that_changed_gives_only_the_blob_of_the_last_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a reading that did not hold still must not get into a pack under the file's name."""
    path = tmp_path / "log"
    path.write_bytes(b"first")
    key = new_master_key()
    region = memoryview(mmap.mmap(-1, REGION_BYTES))
    steady = cutting._same_moment

    def changes_once(one: object, other: os.stat_result) -> bool:
        if path.read_bytes() == b"first":
            path.write_bytes(b"second")
            return False
        return steady(one, other)  # type: ignore[arg-type]

    monkeypatch.setattr(cutting, "_same_moment", changes_once)
    shelf = Shelf(region, key)

    one = _sealed(FileReader(shelf, Tally(None), seed=0), shelf, os.open(path, os.O_RDONLY))

    ((_, offset, length, _),) = one.blobs
    assert key.open(region[offset : offset + length]) == b"second"
    assert (one.torn, one.size_bytes) == (False, 6)


def test_memory_that_is_full_is_told_and_nothing_is_written_beyond_it(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(bytes(range(256)) * 4)
    shelf = Shelf(memoryview(bytearray(100)), new_master_key())
    reader = FileReader(shelf, Tally(None), seed=0)
    path.write_bytes(random.Random(1).randbytes(200))
    assert _sealed(reader, shelf, os.open(path, os.O_RDONLY)).error == LARGE
    path.write_bytes(b"fits")
    assert _sealed(reader, shelf, os.open(path, os.O_RDONLY)).error == 0
