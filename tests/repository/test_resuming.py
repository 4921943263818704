"""A snapshot that was killed goes on where it was: what it had finished is put no second time."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mover.clock import SYSTEM
from mover.errors import RepositoryLocked
from mover.repository import locks
from mover.repository.index import IndexDocument, IndexedPack, encode_document
from mover.repository.packs import PackBuilder, PackedBlob, read_header
from mover.repository.repository import Repository, open_repository
from mover.repository.resuming import TAIL_BYTES, unnamed_packs
from mover.tiers.posix import PosixTier
from tests.repository.conftest import PASSWORD, Restic, listing, take

_KILLED = """
import os, sys, threading
from datetime import UTC, datetime
from pathlib import Path
from mover.repository import blobs
from mover.repository.facts import Disk, Folder
from mover.repository.repository import open_repository
from mover.tiers.posix import PosixTier

put, note = [], blobs.BlobWriter._note_put

def noted(writer, *pack):
    put.append(pack)
    if len(put) >= int(sys.argv[3]):
        os.write(1, b"put\\n")  # at once: threads would mix their letters
        threading.Event().wait()
    note(writer, *pack)

blobs.BlobWriter._note_put = noted
tier = PosixTier("protect", "deidentified", Path(sys.argv[1]), role="protect")
repository = open_repository(tier, b"correct horse", prefix="repo")
repository.snapshot(Folder({"artifacts": Disk(Path(sys.argv[2]))}), hostname="h", username="u", tags=[],
                    time=datetime.now(UTC), paths=["/"])
"""


def stored(repository: Repository) -> dict[str, list[PackedBlob]]:
    """Every pack on the tier with what its own header says, index files unasked."""
    files = repository._files
    found = {each.file_id: each.size_bytes for each in files.ids("data")}
    return {pack: read_header(files.read_range(pack, 0, size), repository._key) for pack, size in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("packs", [1, 4])
def test_no_pack_that_a_killed_snapshot_had_finished_is_put_again(
    packs: int, repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Hours of upload are not lost with a node: neither what index files name nor what none names yet."""
    source = tmp_path / "out"
    source.mkdir()
    chance = random.Random(packs)
    for number in range(9):
        (source / f"shard{number}").write_bytes(chance.randbytes(9 << 20))
    words = [sys.executable, "-c", _KILLED, str(tmp_path / "tier"), str(source), str(packs)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert child.stdout is not None and child.stdout.readline() == "put\n"
    finally:
        child.kill()
        child.wait()
    finished = stored(repository)
    assert len(finished) >= packs and not list(repository._files.ids("index"))

    result = take(repository, source, resuming=True)

    after = stored(repository)
    assert set(finished) <= set(after)  # a slow kill may come when all packs are there
    times = Counter((blob.type, blob.blob_id) for blobs in after.values() for blob in blobs)
    assert set(times.values()) == {1}
    assert "no errors were found" in restic("check", "--read-data").stdout
    repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts")
    assert listing(tmp_path / "back") == listing(source)


def put_pack(repository: Repository, blobs: int, *, size: int = 100) -> str:
    """A pack that nobody named: what a kill leaves."""
    builder = PackBuilder("data")
    for number in range(blobs):
        plain = bytes([number % 251]) * size
        builder.add(number.to_bytes(32, "big"), repository._key.seal(plain), plain_length=0)
    pack = builder.finish(repository._key)
    repository._files.put("data", pack.pack_id, pack.parts, size_bytes=pack.size_bytes)
    return pack.pack_id


def unnamed(repository: Repository) -> dict[str, int]:
    index = repository._fresh_index()
    found = unnamed_packs(repository._files, key=repository._key, index=index)
    return {pack: len(blobs) for pack, blobs in found}


def test_unnamed_packs_are_found_by_their_headers_however_long(repository: Repository) -> None:
    """Two thousand small blobs have a header longer than what is read at first."""
    small, large = put_pack(repository, 2), put_pack(repository, TAIL_BYTES // 37 + 1)
    assert unnamed(repository) == {small: 2, large: TAIL_BYTES // 37 + 1}


def test_a_pack_that_is_damaged_or_marked_to_go_is_not_leant_on(repository: Repository, tmp_path: Path) -> None:
    """A prune beside us has said that it takes the marked one away; the damaged one would not be read again."""
    marked, damaged, cut, sound = (put_pack(repository, blobs) for blobs in (1, 2, 3, 4))
    document = encode_document(IndexDocument([], [IndexedPack(marked, [], 1, 1)]))
    repository._files.save_document("index", document, key=repository._key)
    for pack, at in ((damaged, -20), (cut, None)):
        path = tmp_path / "tier" / "repo" / "data" / pack[:2] / pack
        content = bytearray(path.read_bytes())
        if at is None:
            del content[:10]
        else:
            content[at] ^= 1
        path.write_bytes(content)

    assert unnamed(repository) == {sound: 4}


def test_a_snapshot_that_repeats_nothing_lists_no_packs(
    repository: Repository, tier: PosixTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository of twenty terabytes has a million of them."""
    (tmp_path / "out").mkdir()
    listed: list[str] = []
    once = tier.list
    monkeypatch.setattr(tier, "list", lambda prefix="": listed.append(prefix) or once(prefix))  # type: ignore[func-returns-value]
    opened = open_repository(tier, PASSWORD, prefix="repo")

    take(opened, tmp_path / "out", time=datetime(2026, 1, 1, tzinfo=UTC))
    assert listed and not any(prefix.endswith("data") for prefix in listed)
    take(opened, tmp_path / "out", resuming=True)
    assert any(prefix.endswith("data") for prefix in listed)


def test_who_locks_at_the_same_moment_stops_a_snapshot_before_it_has_written_anything(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait that the format asks for is spent reading; nothing of it counts before the second look."""
    monkeypatch.setattr(locks, "SETTLE_S", 0.5)
    source = tmp_path / "out"
    source.mkdir()
    (source / "shard").write_bytes(random.Random(1).randbytes(3 << 20))
    theirs = locks.Lock(repository._files, repository._key, exclusive=True, clock=SYSTEM)
    read: list[int] = []

    def lock_too(files: int, size_bytes: int) -> None:
        if not read:
            theirs._write()
        read.append(size_bytes)

    with pytest.raises(RepositoryLocked):
        take(repository, source, progress=lock_too)

    assert read and not list(repository._files.ids("data")) and not list(repository._files.ids("index"))
    assert [found.file_id for found in repository._files.ids("locks")] == [theirs.lock_id]
    repository._files.remove("locks", theirs.lock_id)
    assert take(repository, source).complete


def test_a_snapshot_that_adds_nothing_looks_a_second_time_too(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file alone would bring back what somebody forgets at this moment."""
    source = tmp_path / "out"
    source.mkdir()
    (source / "log").write_bytes(b"same")
    take(repository, source)
    monkeypatch.setattr(locks, "SETTLE_S", 0.5)
    theirs = locks.Lock(repository._files, repository._key, exclusive=True, clock=SYSTEM)
    with pytest.raises(RepositoryLocked):
        take(repository, source, progress=lambda files, size: None if theirs.lock_id else theirs._write())
    assert len(repository.snapshots()) == 1
