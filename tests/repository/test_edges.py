"""What stands in real output folders: holes, links, attributes, names that are no text, folders beyond counting."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mover.repository import cutting
from mover.repository.cutting import CUT_MAX_BYTES
from mover.repository.repository import Repository
from tests.repository.conftest import Restic, listing, take

MIB = 1 << 20


def sparse(path: Path, islands: dict[int, bytes], size: int) -> None:
    with path.open("wb", buffering=0) as stream:
        for at, content in islands.items():
            stream.seek(at)
            stream.write(content)
        stream.truncate(size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("islands", "most_read"),
    [
        ({}, 8 * MIB),
        ({0: b"head"}, 24 * MIB),
        ({70 * MIB - 4096: b"x" * 4096}, 8 * MIB),
        ({10 * MIB + 5: b"odd place", 33 * MIB: b"y" * MIB, 34 * MIB + 17: b"z", 60 * MIB: b"w" * MIB}, 60 * MIB),
    ],
)
def test_holes_are_neither_read_nor_stored_and_come_back_as_zeros(
    repository: Repository,
    restic: Restic,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    islands: dict[int, bytes],
    most_read: int,
) -> None:
    """An empty terabyte of a sparse file costs its digest and nothing else, and no reader can tell."""
    (tmp_path / "out").mkdir()
    sparse(tmp_path / "out" / "archive", islands, 70 * MIB)
    read: list[int] = []
    fill = cutting._fill

    def counted(fd: int, buffer: bytearray, offset: int, length: int) -> int:
        read.append(length)
        return fill(fd, buffer, offset, length)

    monkeypatch.setattr(cutting, "_fill", counted)

    result = take(repository, tmp_path / "out")

    assert sum(read) <= most_read and result.bytes == 70 * MIB
    assert result.added_bytes < 100_000
    assert "no errors were found" in restic("check", "--read-data").stdout
    restic("restore", "latest", "--target", str(tmp_path / "back"))
    assert listing(tmp_path / "back" / "artifacts") == listing(tmp_path / "out")
    again = take(repository, tmp_path / "out")
    assert again.entries == result.entries and again.tree_id == result.tree_id


@pytest.mark.slow
def test_a_hole_is_cut_as_the_same_zeros_are(repository: Repository, tmp_path: Path) -> None:
    """A copy that filled the holes shares their blobs: only where the data begins may differ."""
    noise = random.Random(3).randbytes(2 * MIB)
    for name, holes in (("holes", True), ("zeros", False)):
        folder = tmp_path / name
        folder.mkdir()
        if holes:
            sparse(folder / "file", {5 * CUT_MAX_BYTES: noise}, 6 * CUT_MAX_BYTES)
        else:
            (folder / "file").write_bytes(bytes(5 * CUT_MAX_BYTES) + noise + bytes(CUT_MAX_BYTES - len(noise)))
    first, second = take(repository, tmp_path / "holes"), take(repository, tmp_path / "zeros")
    assert [entry.blake3 for entry in first.entries] == [entry.blake3 for entry in second.entries]
    assert second.added_bytes < 4 * MIB


@pytest.mark.slow
def test_a_file_that_settles_while_it_is_read_is_whole_after_a_second_reading(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that got one more line is no reason to call the snapshot incomplete; its digest is that of what is
    stored."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "growing"
    path.write_bytes(random.Random(1).randbytes(2 * MIB))
    fill = cutting._fill
    calls: list[int] = []

    def disturbed(fd: int, buffer: bytearray, offset: int, length: int) -> int:
        filled = fill(fd, buffer, offset, length)
        if not calls:
            with path.open("ab") as stream:
                stream.write(b"one more line")
        calls.append(offset)
        return filled

    monkeypatch.setattr(cutting, "_fill", disturbed)

    result = take(repository, tmp_path / "out")

    assert result.complete and len(calls) >= 2
    assert result.entries[0].size_bytes == result.bytes == path.stat().st_size
    repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts")
    assert listing(tmp_path / "back") == listing(tmp_path / "out")


@pytest.mark.slow
def test_a_file_with_many_names_is_read_once_and_keeps_them_all(
    repository: Repository, restic: Restic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`last.pt` is often a hard link to the newest checkpoint."""
    folder = tmp_path / "out" / "below"
    folder.mkdir(parents=True)
    (folder / "step9.pt").write_bytes(random.Random(1).randbytes(3 * MIB))
    os.link(folder / "step9.pt", tmp_path / "out" / "last.pt")
    os.link(folder / "step9.pt", folder / "also.pt")
    reads: list[int] = []
    once = cutting.FileReader.read

    def counted(self: cutting.FileReader, fd: int) -> object:
        reads.append(fd)
        return once(self, fd)

    monkeypatch.setattr(cutting.FileReader, "read", counted)

    result = take(repository, tmp_path / "out")

    assert len(reads) == 1 and result.files == 3
    restic("restore", "latest", "--target", str(tmp_path / "back"))
    back = tmp_path / "back" / "artifacts"
    assert listing(back) == listing(tmp_path / "out")
    assert len({(back / name).stat().st_ino for name in ("last.pt", "below/step9.pt", "below/also.pt")}) == 1


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mover.repository.facts import Disk, Folder
from mover.repository.repository import open_repository
from mover.tiers.posix import PosixTier
from tests.support.memory import peak_bytes

tier = PosixTier("protect", "deidentified", Path(sys.argv[1]), role="protect")
repository = open_repository(tier, b"correct horse", prefix="repo")
if sys.argv[3] == "write":
    result = repository.snapshot(
        Folder({"artifacts": Disk(Path(sys.argv[2]))}), hostname="h", username="u", tags=[], paths=["/artifacts"],
        time=datetime.now(UTC),
    )
    assert not result.torn and not result.unreadable
    print(result.files, result.bytes, result.added_bytes, peak_bytes() >> 20)
else:
    [snapshot] = repository.snapshots()
    files = [e.size_bytes for e in repository.ls(snapshot.snapshot_id, "/", recursive=True) if e.kind == "file"]
    print(len(files), sum(files), 0, peak_bytes() >> 20)
"""


def _in_a_process(tmp_path: Path, word: str) -> list[int]:
    """[files, bytes, bytes added, peak in MB] of a fresh process that does nothing else."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "tier"), str(tmp_path / "out"), word]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environ).stdout
    return [int(word) for word in told.split()]


@pytest.mark.soak
def test_a_hundred_gigabytes_in_one_file_take_no_more_memory_than_one(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Islands of data in a sparse file: the writer holds windows and packs, never the file."""
    (tmp_path / "out").mkdir()
    noise = random.Random(1).randbytes(2 * MIB)
    islands = {at: at.to_bytes(8, "big") + noise for at in range(0, 100 << 30, 1 << 30)}
    sparse(tmp_path / "out" / "archive", islands, 100 << 30)

    files, size, added, peak_mb = _in_a_process(tmp_path, "write")

    print(f"100 GiB: {peak_mb} MB to write")
    assert (files, size) == (1, 100 << 30) and added < 1 << 30
    assert peak_mb < 500
    assert "no errors were found" in restic("check", "--read-data").stdout


@pytest.mark.soak
@pytest.mark.parametrize("folders", [10, 100, 1000])
def test_a_million_small_files_stay_within_the_promised_memory(
    repository: Repository, restic: Restic, tmp_path: Path, folders: int
) -> None:
    """To write, and to list; what a process needs for ten thousand is what all of it stands on."""
    for folder in range(folders):
        place = tmp_path / "out" / f"d{folder:03}"
        place.mkdir(parents=True)
        for number in range(1000):
            (place / f"f{number:03}").write_bytes(b"%d" % (folder * 1000 + number))

    files, size, _, peak_mb = _in_a_process(tmp_path, "write")
    listed, listed_bytes, _, listing_mb = _in_a_process(tmp_path, "list")

    print(f"{files} files: {peak_mb} MB to write, {listing_mb} MB to list")
    assert (files, size) == (listed, listed_bytes) and files == folders * 1000
    assert peak_mb <= (350 if folders == 1000 else 150)
    assert listing_mb <= 150
    assert "no errors were found" in restic("check", "--read-data").stdout
