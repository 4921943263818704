"""Whole folders of small files by helper processes: nothing of a snapshot may depend on who read a file, and what is
out of the ordinary is met as if there were no helper."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from mover.errors import ComputeError
from mover.repository import gathering, gathering_child, small
from mover.repository.crypto import new_master_key
from mover.repository.gathering_child import Asked, gathered
from mover.repository.repository import Repository
from mover.repository.small_child import Shelf
from mover.repository.writer import _Frame
from tests.repository.conftest import Restic, listing, take


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folders with more names than a batch and more bytes than a slot: text, noise, twins, odd names, and what no
    helper may keep: links of both kinds, a large file."""
    chance, folder = random.Random(11), tmp_path / "out"
    for number in range(300):
        place = folder / f"d{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"noise{number}").write_bytes(chance.randbytes(chance.randrange(6000)))
        (place / f"text{number}").write_text(f"step {number} loss\n" * 40)
    for number in range(50):  # more than a slot of shared memory: what is left is asked for again
        (folder / "d0" / f"thumbnail{number}").write_bytes(chance.randbytes(100_000))
    (folder / "empty").write_bytes(b"")
    (folder / 'o"dd & <nön>').write_bytes(b"odd")
    (folder / os.fsdecode(b"not \xff text")).write_bytes(b"bytes")
    (folder / "twin1").write_bytes(b"twin" * 500)
    (folder / "twin2").write_bytes(b"twin" * 500)
    (folder / "large").write_bytes(chance.randbytes(700_000))
    os.setxattr(folder / "twin1", "user.note", b"\x00\xff")
    os.link(folder / "twin2", folder / "d1" / "link")
    os.symlink("d1/link", folder / "symlink")
    return folder


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "HELP_FROM_FILES", 0)


@pytest.mark.slow
def test_a_tree_gathered_by_helpers_is_the_tree_that_one_process_reads(
    repository: Repository, restic: Restic, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal bytes give equal trees, digests and blobs. A file under a known name is compared with the parent first."""
    alone = take(repository, tree)
    monkeypatch.setattr(gathering, "HELP_FROM_FILES", 0)
    monkeypatch.setattr(small, "HELP_FROM_FILES", 0)

    helped = take(repository, tree)

    assert (helped.tree_id, helped.entries, helped.bytes) == (alone.tree_id, alone.entries, alone.bytes)
    assert helped.complete and helped.files == alone.files and helped.added_bytes < 1000
    (tree / "d0" / "fresh").write_bytes(b"fresh" * 300)
    digests = {entry.path: entry.blake3 for entry in helped.entries}
    again = take(repository, tree, parent=helped.snapshot_id, parent_digests=digests)
    assert 0 < again.added_bytes < 60_000 and again.files == alone.files + 1
    assert "no errors were found" in restic("check", "--read-data").stdout
    repository.restore(again.snapshot_id, tmp_path / "back", path="/artifacts")
    assert listing(tmp_path / "back") == listing(tree)


@pytest.mark.slow
@pytest.mark.usefixtures("helped")
def test_a_first_snapshot_by_helpers_is_whole(
    repository: Repository, restic: Restic, tree: Path, tmp_path: Path
) -> None:
    result = take(repository, tree)
    assert result.complete and result.files == 657
    assert result.bytes == sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) - 2 * 2000
    assert "no errors were found" in restic("check", "--read-data").stdout
    restic("restore", "latest", "--target", str(tmp_path / "back"))
    assert listing(tmp_path / "back" / "artifacts") == listing(tree)


@pytest.mark.slow
@pytest.mark.usefixtures("helped")
def test_a_helper_that_dies_ends_the_snapshot_and_leaves_no_descriptor_open(
    repository: Repository, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an answer is none: nothing is recorded, and the next attempt starts with new helpers."""
    send = gathering.Gathering.send

    def killed(self: gathering.Gathering[_Frame], *words: object) -> None:
        send(self, *words)  # type: ignore[arg-type]
        self._helpers[0].process.send_signal(signal.SIGKILL)
        self._helpers[0].process.wait()

    monkeypatch.setattr(gathering.Gathering, "send", killed)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(ComputeError):
        take(repository, tree)

    assert repository.snapshots() == []
    assert len(os.listdir("/proc/self/fd")) <= before
    monkeypatch.setattr(gathering.Gathering, "send", send)
    assert take(repository, tree).complete


@pytest.mark.slow
@pytest.mark.usefixtures("helped")
def test_what_changes_between_the_listing_and_the_helper_is_named(
    repository: Repository, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone, or a folder now, whose members the walk would have passed by: the snapshot is incomplete and says so. A
    symlink, or a file that grew beyond small: as it stands."""
    send = gathering.Gathering.send

    def swapped(self: gathering.Gathering[_Frame], owner: _Frame, *words: object) -> None:
        if owner.path == b"/artifacts" and (tree / "twin1").is_file():
            (tree / "twin1").unlink()
            (tree / "twin1").mkdir()
            (tree / "twin1" / "inside").write_bytes(b"inside")
            (tree / "empty").write_bytes(b"grown" * 100_000)
            (tree / 'o"dd & <nön>').unlink()
        send(self, owner, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(gathering.Gathering, "send", swapped)

    result = take(repository, tree)

    assert sorted(result.unreadable) == ['/artifacts/o"dd & <nön>', "/artifacts/twin1"]
    assert {entry.path: entry.size_bytes for entry in result.entries}["/artifacts/empty"] == 500_000


def test_a_helper_keeps_what_is_plain_and_leaves_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes while it is read, a link, a FIFO (which must not hold it up), a large file, a missing one."""
    (tmp_path / "plain").write_bytes(b"plain")
    (tmp_path / "moving").write_bytes(b"moving")
    (tmp_path / "linked").write_bytes(b"linked")
    os.link(tmp_path / "linked", tmp_path / "other")
    os.symlink("plain", tmp_path / "symlink")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(gathering_child.SMALL_BYTES + 1))
    names = [b"gone", b"large", b"linked", b"moving", b"pipe", b"plain", b"symlink"]
    pread = os.pread

    def touched(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        if data == b"moving":
            (tmp_path / "moving").write_bytes(b"moved!")
            os.utime(tmp_path / "moving", ns=(1, 1))
        return data

    monkeypatch.setattr(gathering_child.os, "pread", touched)
    shelf = Shelf(memoryview(bytearray(gathering_child.SLOT_BYTES)), new_master_key())
    fd = os.open(tmp_path, os.O_RDONLY)
    answer = gathered(Asked(b"/a", names), fd, shelf)
    os.close(fd)
    assert [name for name, node in zip(names, answer.nodes, strict=True) if node] == [b"plain"]
    assert (len(answer.entries), len(answer.blobs), answer.size_bytes) == (1, 1, 5)


def test_a_helper_stops_where_its_memory_ends(tmp_path: Path) -> None:
    """So many names as there is room for are answered, in order, and one at least."""
    names = [b"%03d" % number for number in range(60)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(random.Random(name).randbytes(100_000))
    shelf = Shelf(memoryview(bytearray(gathering_child.SLOT_BYTES)), new_master_key())
    fd = os.open(tmp_path, os.O_RDONLY)
    first = gathered(Asked(b"/a", names), fd, shelf)
    second = gathered(Asked(b"/a", names[len(first.nodes) :]), fd, shelf)
    os.close(fd)
    assert 30 < len(first.nodes) < 60 and all(first.nodes + second.nodes)
    assert len(first.nodes) + len(second.nodes) == 60 and second.blobs[0][1] == 0
