"""Stock restic judges what we wrote, and we read what stock restic wrote."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mover.repository.facts import Disk, Folder, MemoryFile
from mover.repository.index import packs_of_all_files
from mover.repository.locks import locked
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.posix import PosixTier
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take

pytestmark = pytest.mark.slow


def make_odd_tree(folder: Path, *, seed: int = 7) -> None:
    """One of everything: large, empty, sparse, compressible, linked, oddly named, oddly allowed, oddly dated."""
    chance = random.Random(seed)
    folder.mkdir()
    (folder / "model.pt").write_bytes(chance.randbytes(9 << 20))
    (folder / "log.txt").write_text("".join(f"step {step} loss {step % 977}\n" for step in range(60_000)))
    (folder / "empty").write_bytes(b"")
    (folder / "zeros").write_bytes(bytes(3 << 20))
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "tool").write_text("#!/bin/sh\n")
    (folder / "deep" / "tool").chmod(0o4751)
    os.symlink("../log.txt", folder / "deep" / "link")
    os.symlink("/etc/passwd", folder / "deep" / "outward")
    os.link(folder / "log.txt", folder / "deep" / "er" / "hard.txt")
    for name in (b"bad\xff\xfename", b'quote"back\\slash', b"new\nline", "ünï <&> 😀".encode(), b" "):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(name)
    os.setxattr(folder / "log.txt", "user.origin", b"run\x001")
    os.utime(folder / "empty", ns=(1, 1_234_567_890_123_456_789))
    os.utime(folder / "zeros", ns=(0, -5_000_000_001))
    os.utime(folder / "deep" / "er", ns=(10**18, 10**18 + 1))


def test_restic_checks_lists_and_restores_byte_for_byte_what_we_wrote(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """The strongest promise of the protection: it is readable without us, ten years from now."""
    make_odd_tree(tmp_path / "out")

    result = take(repository, tmp_path / "out")

    assert result.complete
    assert "no errors were found" in restic("check", "--read-data").stdout
    (listed,) = json.loads(restic("snapshots", "--json").stdout)
    assert (listed["id"], listed["tags"]) == (result.snapshot_id, ["run=r1"])
    restic("restore", result.snapshot_id, "--target", str(tmp_path / "theirs"))
    assert listing(tmp_path / "theirs" / "artifacts") == listing(tmp_path / "out")


def test_our_restore_equals_the_source_with_modes_times_links_and_odd_names(
    repository: Repository, tmp_path: Path
) -> None:
    """The same tree back through our own reader, hard links as one file and zeros as holes."""
    make_odd_tree(tmp_path / "out")
    result = take(repository, tmp_path / "out")

    restored = repository.restore(result.snapshot_id, tmp_path / "ours", path="/artifacts")

    assert restored.complete and not restored.warnings
    assert listing(tmp_path / "ours") == listing(tmp_path / "out")
    assert (tmp_path / "ours/log.txt").samefile(tmp_path / "ours/deep/er/hard.txt")
    assert (tmp_path / "ours/zeros").stat().st_blocks * 512 < 1 << 20


def test_a_repository_written_by_restic_is_listed_checked_and_restored_by_us(
    tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """A site that used restic before keeps its repository: other cut points, other keys, same format."""
    make_odd_tree(tmp_path / "out")
    restic("init", "--repository-version", "2")
    restic("backup", "--tag", "old", str(tmp_path / "out"))

    repository = open_repository(tier, PASSWORD, prefix="repo")

    (facts,) = repository.snapshots()
    assert facts.tags == ("old",) and facts.paths == (str(tmp_path / "out"),)
    assert repository.check(True).errors == []
    repository.restore(facts.snapshot_id, tmp_path / "ours", path=str(tmp_path / "out"))
    assert listing(tmp_path / "ours") == listing(tmp_path / "out")


def test_restic_and_we_write_into_the_same_repository_in_turns(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Neither may mistake the other's packs, index files or locks; a prune by restic keeps what we need."""
    make_odd_tree(tmp_path / "out")
    first = take(repository, tmp_path / "out")
    restic("backup", str(tmp_path / "out"))
    (tmp_path / "out" / "more").write_bytes(random.Random(1).randbytes(2 << 20))
    second = take(repository, tmp_path / "out", parent=first.snapshot_id)

    assert repository.forget([first.snapshot_id]) == [first.snapshot_id]
    restic("prune", "--max-unused", "0")

    assert "no errors were found" in restic("check", "--read-data").stdout
    assert repository.check(True).errors == []
    repository.restore(second.snapshot_id, tmp_path / "ours", path="/artifacts")
    assert listing(tmp_path / "ours") == listing(tmp_path / "out")


def test_each_side_opens_with_a_key_that_the_other_added(
    repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """Two custodians, two passwords, one repository."""
    repository.add_key(b"second")
    (tmp_path / "third").write_text("third\n")
    restic("key", "add", "--new-password-file", str(tmp_path / "third"))

    assert open_repository(tier, b"third", prefix="repo").repository_id == repository.repository_id
    assert restic("snapshots", RESTIC_PASSWORD="second").returncode == 0
    assert restic("snapshots", ok=False, RESTIC_PASSWORD="fourth").returncode != 0


def test_restic_respects_our_exclusive_lock(repository: Repository, restic: Restic) -> None:
    """Otherwise a backup of theirs could lean on snapshots that we are forgetting."""
    with locked(repository._files, repository._key, exclusive=True):
        refused = restic("snapshots", ok=False)

    assert refused.returncode != 0 and "locked exclusively" in refused.stderr
    assert restic("snapshots").returncode == 0


def test_trees_are_byte_for_byte_what_restic_writes(repository: Repository, restic: Restic, tmp_path: Path) -> None:
    """Equal trees share one blob only if both writers spell them alike: quoting, order, omitted fields."""
    (tmp_path / "out").mkdir()
    for name in (b"bad\xff\xfename", b'q"b\\s', b"new\nline\x7f\x01", "ünï <&> 😀\u200b\u2028".encode()):
        with open(os.path.join(os.fsencode(tmp_path / "out"), name), "wb") as file:
            file.write(name)
    os.symlink("a<b>&c", tmp_path / "out" / "link")
    os.mkdir(tmp_path / "out" / "sub")
    os.setxattr(tmp_path / "out" / "sub", "user.a", b"v")
    (tmp_path / "out" / "sub" / "setgid").write_bytes(b"x")
    (tmp_path / "out" / "sub" / "setgid").chmod(0o2755)

    ours = take(repository, tmp_path / "out")
    restic("backup", str(tmp_path / "out"), TZ="UTC")

    theirs = next(each for each in repository.snapshots() if each.snapshot_id != ours.snapshot_id)
    tree = _subtree(restic, theirs.tree_id, [*(tmp_path / "out").parts[1:]])
    assert _subtree(restic, ours.tree_id, ["artifacts"]) == tree


def _subtree(restic: Restic, tree_id: str, names: list[str]) -> str:
    for name in names:
        nodes = json.loads(restic("cat", "blob", tree_id).stdout)["nodes"]
        tree_id = next(node["subtree"] for node in nodes if node["name"] == name)
    return tree_id


def test_a_snapshot_of_parts_and_memory_files_has_the_layout_it_was_given(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """A run's snapshot: artifacts and code from disk, the manifest and environment from memory."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.pt").write_bytes(b"weights")
    (tmp_path / "train.py").write_text("print(1)\n")
    source = Folder(
        {
            "artifacts": Disk(tmp_path, "out"),
            "code": Folder({"train.py": Disk(tmp_path, "train.py"), "code.diff": MemoryFile(b"")}),
            "manifest.jsonl": MemoryFile(b'{"format":1}\n'),
            "logs": Folder({}),
        }
    )

    result = take(repository, source)

    paths = sorted(line for line in restic("ls", result.snapshot_id).stdout.splitlines() if line.startswith("/"))
    assert paths == [
        "/artifacts",
        "/artifacts/a.pt",
        "/code",
        "/code/code.diff",
        "/code/train.py",
        "/logs",
        "/manifest.jsonl",
    ]
    assert [entry.path for entry in result.entries] == [p for p in paths if "." in p]
    assert restic("dump", result.snapshot_id, "/manifest.jsonl").stdout == '{"format":1}\n'


_KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mover.repository import blobs
from mover.repository.facts import Disk, Folder
from mover.repository.repository import open_repository
from mover.tiers.posix import PosixTier

blobs.INDEX_EVERY_PACKS = 2
tier = PosixTier("protect", "deidentified", Path(sys.argv[1]), role="protect")
repository = open_repository(tier, b"correct horse", prefix="repo")
print("open", flush=True)
repository.snapshot(Folder({"artifacts": Disk(Path(sys.argv[2]))}), hostname="h", username="u", tags=[],
                    time=datetime.now(UTC), paths=["/"])
print("done", flush=True)
"""


@pytest.mark.parametrize("packs", [0, 1, 3])
def test_a_snapshot_killed_at_any_point_is_repeated_and_restic_finds_no_error(
    packs: int, repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """kill -9 leaves orphans at worst; the repeat puts no finished and indexed pack a second time."""
    source = tmp_path / "out"
    source.mkdir()
    chance = random.Random(packs)
    for number in range(8):
        (source / f"shard{number}").write_bytes(chance.randbytes(9 << 20))
    data = tmp_path / "tier" / "repo" / "data"

    words = [sys.executable, "-c", _KILLED, str(tmp_path / "tier"), str(source)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert child.stdout is not None and child.stdout.readline() == "open\n"
    while _count(data) < packs and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = packs_of_all_files(repository._files, key=repository._key)
    finished_bytes = sum(blob.length for _, blobs in finished for blob in blobs)

    result = take(repository, source)

    assert "no errors were found" in restic("check", "--read-data").stdout
    assert repository.check(True).errors == []
    repository.restore(result.snapshot_id, tmp_path / "ours", path="/artifacts")
    assert listing(tmp_path / "ours") == listing(source)
    assert result.added_bytes < result.bytes - finished_bytes + (1 << 20)


def _count(data: Path) -> int:
    return sum(1 for path in data.rglob("*") if path.is_file() and len(path.name) == 64)


def test_object_prefixes_are_folders_a_copy_of_which_is_a_whole_repository(tmp_path: Path, restic: Restic) -> None:
    """The repository is nothing but files: `cp -a` of its folder, or a second tier, is a valid mirror."""
    repository = create_repository(make_tier(tmp_path / "first"), PASSWORD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_bytes(b"a")
    result = take(repository, tmp_path / "out")
    shutil.copytree(tmp_path / "first", tmp_path / "tier" / "repo")

    mirror = PosixTier("protect", "deidentified", tmp_path / "tier" / "repo", role="protect")
    assert open_repository(mirror, PASSWORD).check(True, result.snapshot_id).errors == []
    assert "no errors were found" in restic("check", "--read-data").stdout
