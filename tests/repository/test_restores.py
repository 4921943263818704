"""Restores that are killed, that bring something first, that go into a folder that stands, that meet damage."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from mover.clock import SYSTEM
from mover.errors import Conflict, Denied, RepositoryLocked, TierFull, TierUnavailable
from mover.repository import filling, locks
from mover.repository.inplace import Comparison, Preview
from mover.repository.reader import find_node
from mover.repository.reading import Requester
from mover.repository.repository import Repository, open_repository
from mover.repository.restore import MARKER, Order, clear, keep_preview, kept_preview
from mover.repository.staging import FOLDER_FLAGS, Staging
from mover.repository.tree import Node
from mover.repository.weighing import _Scale, weigh
from mover.tiers import beneath
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import Fault, FaultyTier
from tests.repository.conftest import PASSWORD, Restic, listing, take

NAME = "restore-1"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Some of everything: shards, text, a sparse file, hard links, a link, an empty folder, an attribute."""
    out, chance = tmp_path / "out", random.Random(7)
    (out / "logs" / "deep").mkdir(parents=True)
    (out / "empty").mkdir()
    for shard in range(3):
        (out / f"shard{shard}.pt").write_bytes(chance.randbytes((3 << 20) + 1000 * shard))
    (out / "logs" / "a.log").write_text("step\n" * 1000)
    (out / "logs" / "deep" / "last.pt").write_bytes(chance.randbytes(300_000))
    os.link(out / "shard0.pt", out / "logs" / "again")
    os.symlink("logs/a.log", out / "newest")
    with (out / "sparse").open("wb") as sparse:
        sparse.truncate(20 << 20)
        sparse.seek(12 << 20)
        sparse.write(b"in the middle")
    os.setxattr(out / "shard1.pt", "user.note", b"kept")
    return out


def again(repository: Repository, snapshot: str, target: Path, **order: object) -> None:
    done = repository.restore(snapshot, target, path="/artifacts", order=Order(name=NAME, **order))  # type: ignore[arg-type]
    assert done.complete and (done.files, done.folders, done.symlinks) == (7, 3, 1)
    clear(target, NAME)


# --- killed ----------------------------------------------------------------------------------------------------


POINTS = [*(f"bytes:{1 << shift}" for shift in (0, 20, 21, 22, 23)), *(f"rename:{n}" for n in (1, 2))]
WANTED_POINTS = [f"rename:{n}" for n in (2, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "first"), [*((p, ()) for p in POINTS), *((p, ("*.pt",)) for p in WANTED_POINTS)])
def test_a_restore_that_is_killed_anywhere_goes_on_and_ends_whole(
    repository: Repository, out: Path, tmp_path: Path, point: str, first: tuple[str, ...], restic: Restic
) -> None:
    """The target is absent, or what is in it is whole; the next attempt ends with what the first would have."""
    snapshot = take(repository, out).snapshot_id
    target = tmp_path / "back"
    command = [sys.executable, "-m", "tests.repository.restoring_child", str(tmp_path / "tier"), snapshot, str(target)]
    killed = subprocess.run([*command, NAME, point, *first], check=False)

    assert killed.returncode == -signal.SIGKILL
    for path in target.rglob("*"):
        if path.is_file() and not path.name.startswith(MARKER):
            assert path.read_bytes() == (out / path.relative_to(target)).read_bytes()
    again(repository, snapshot, target, first=first)
    assert listing(target) == listing(out)
    assert (target / "sparse").stat().st_blocks < 1000
    assert (target / "logs/again").stat().st_ino == (target / "shard0.pt").stat().st_ino
    assert {path.name for path in tmp_path.iterdir()} == {"back", "out", "tier"}
    assert "no errors were found" in restic("check", "--read-data").stdout


def test_what_stands_is_read_and_only_what_is_wrong_is_fetched_again(
    repository: Repository, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning anew would cost hours of a large restore; believing what stands would keep what a crash garbled."""
    snapshot = take(repository, out).snapshot_id
    target = tmp_path / "back"
    with monkeypatch.context() as patched:
        patched.setattr(Staging, "land", _power_cut)
        with pytest.raises(KeyboardInterrupt):
            again(repository, snapshot, target)
    staged = tmp_path / f".restoring-{NAME}" / "rest" / "shard1.pt"
    with staged.open("r+b") as garbled:
        garbled.seek(1 << 20)
        garbled.write(b"garbled")
    os.chmod(staged, 0o400)
    read: list[int] = []
    real = filling.BlobReader.read_run

    def counted(self: filling.BlobReader, pack_id: str, offset: int, length: int) -> bytes:
        read.append(length)
        return real(self, pack_id, offset, length)

    monkeypatch.setattr(filling.BlobReader, "read_run", counted)

    again(repository, snapshot, target)

    assert listing(target) == listing(out)
    assert 0 < sum(read) < 4 << 20
    assert (target / "sparse").stat().st_blocks < 1000


def test_neighbours_of_a_file_go_to_the_device_together(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they lie in packs. A page written in two halves waits twice for all that is under way to the same file:
    with one at each end of every blob, that was half of a restore."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "shard.pt").write_bytes(random.Random(5).randbytes((20 << 20) + 100))
    snapshot = take(repository, out).snapshot_id
    odd: list[int] = []
    real = os.pwrite

    def written(fd: int, data: memoryview, offset: int) -> int:
        odd.extend([offset] if offset % filling.ALIGN or len(data) % filling.ALIGN else [])
        return real(fd, data, offset)

    monkeypatch.setattr(filling, "LANE_BYTES", 10 << 20)
    monkeypatch.setattr(os, "pwrite", written)

    done = repository.restore(snapshot, tmp_path / "back", path="/artifacts")

    assert done.complete and listing(tmp_path / "back") == listing(out)
    assert len(odd) <= 5  # where one lane ends and the next begins, twice at most, and the end of the file


def test_a_restore_that_began_beside_a_prune_shows_nothing(
    repository: Repository, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two who lock at the same moment see each other a moment later only; the restore works meanwhile, unseen."""
    snapshot, target = take(repository, out).snapshot_id, tmp_path / "back"
    prune = locks.Lock(repository._files, repository._key, exclusive=True, clock=SYSTEM)
    locked, settle = threading.Event(), locks.Lock.settle

    def meanwhile(files: int, size_bytes: int) -> None:
        if not locked.is_set():
            prune._write()
            locked.set()

    def late(lock: locks.Lock) -> None:
        assert locked.wait(10)
        settle(lock)

    monkeypatch.setattr(locks.Lock, "settle", late)

    with pytest.raises(RepositoryLocked):
        repository.restore(snapshot, target, path="/artifacts", progress=meanwhile)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "tier"}
    prune.release()
    assert repository.restore(snapshot, target, path="/artifacts").complete


def _power_cut(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_processes_never_write_to_one_staging_folder(tmp_path: Path) -> None:
    """One that was paused, and the one that took over from it."""
    first = Staging(tmp_path / "back", NAME, in_place=False)
    with pytest.raises(RepositoryLocked):
        Staging(tmp_path / "back", NAME, in_place=False)
    first.close()
    Staging(tmp_path / "back", NAME, in_place=False).close()


def test_a_staging_folder_that_others_may_reach_is_not_used(tmp_path: Path) -> None:
    """Whoever may write to the parent could put one there, with links in it."""
    (tmp_path / f".restoring-{NAME}").mkdir(mode=0o777)
    (tmp_path / f".restoring-{NAME}").chmod(0o777)
    with pytest.raises(Conflict):
        Staging(tmp_path / "back", NAME, in_place=False)


def test_what_is_put_in_the_place_of_a_staging_folder_is_not_removed_for_it(tmp_path: Path) -> None:
    """Whoever may write to the parent may give another one's private folder the name of the staging: the daemon would
    empty it with its own rights."""
    staging = Staging(tmp_path / "back", NAME, in_place=False)
    (tmp_path / "anothers").mkdir(mode=0o700)
    (tmp_path / "anothers" / "thesis").write_text("the only copy")
    (tmp_path / f".restoring-{NAME}").rename(tmp_path / "put away")
    (tmp_path / "anothers").rename(tmp_path / f".restoring-{NAME}")
    staging.remove()
    staging.close()

    assert (tmp_path / f".restoring-{NAME}" / "thesis").read_text() == "the only copy"
    assert list((tmp_path / "put away").iterdir()) == []


# --- first -----------------------------------------------------------------------------------------------------


def test_what_is_wanted_first_stands_in_the_target_before_the_rest(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """Training goes on with the newest checkpoint while the logs still come: under their final names, whole, and
    with a word beside them that says that this is not all."""
    result = take(repository, out)
    target, seen = tmp_path / "back", []

    def look() -> None:
        found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        seen.append({name for name in found if not name.startswith(MARKER)})
        assert any(name.startswith(MARKER) for name in found)
        for name in seen[-1]:
            assert (target / name).read_bytes() == (out / name).read_bytes()

    order = Order(first=("logs/deep/*", "*.pt"), first_landed=look)
    done = repository.restore(result.snapshot_id, target, path="/artifacts", order=order)

    shards = {f"shard{n}.pt" for n in range(3)}
    assert seen == [{"logs/deep/last.pt"}, {"logs/deep/last.pt"} | shards]
    assert done.complete and (done.files, done.folders, done.symlinks) == (7, 3, 1)
    assert listing(target) == listing(out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".restoring-")]


def test_a_pattern_that_names_nothing_changes_nothing(repository: Repository, out: Path, tmp_path: Path) -> None:
    """The target is whole or absent, as without."""
    result = take(repository, out)
    done = repository.restore(
        result.snapshot_id, tmp_path / "back", path="/artifacts", order=Order(first=("*.safetensors",))
    )
    assert done.complete and listing(tmp_path / "back") == listing(out)


def test_what_its_owner_puts_there_meanwhile_stays(repository: Repository, out: Path, tmp_path: Path) -> None:
    """The target is theirs as soon as it is visible; the restore names what it could not bring."""
    result = take(repository, out)
    target = tmp_path / "back"

    def take_a_name() -> None:
        (target / "sparse").write_bytes(b"mine")
        (target / "logs").rename(target / "moved")

    order = Order(first=("*.pt",), first_landed=take_a_name)
    done = repository.restore(result.snapshot_id, target, path="/artifacts", order=order)

    assert (target / "sparse").read_bytes() == b"mine"
    assert (target / "moved/deep/last.pt").read_bytes() == (out / "logs/deep/last.pt").read_bytes()
    assert done.left == ["sparse"] and not done.complete
    assert (target / "logs/a.log").read_bytes() == (out / "logs/a.log").read_bytes()


# --- in place --------------------------------------------------------------------------------------------------


def preview_of(repository: Repository, snapshot: str, target: Path, *, path: str = "/artifacts") -> Preview:
    folder = os.open(target, FOLDER_FLAGS)
    try:
        with repository.looking(snapshot) as (blobs, root):
            node = find_node(blobs, root, path)
            assert node is not None
            comparison = Comparison(blobs, folder, lambda facts: True)
            if node.subtree is None:
                comparison.of_file(node)
            else:
                comparison.of_tree(node.subtree)
            return comparison.preview(snapshot, path)
    finally:
        os.close(folder)


def spoil(out: Path) -> None:
    """What happens to a folder in a week."""
    (out / "shard0.pt").write_bytes(b"better weights")  # and its other name with it
    with (out / "shard1.pt").open("r+b") as file:
        file.write(b"rot")
    facts = (out / "shard2.pt").stat()
    os.utime(out / "shard1.pt", ns=(facts.st_mtime_ns, facts.st_mtime_ns - 10**12))
    (out / "shard2.pt").unlink()
    (out / "newest").unlink()
    (out / "newest").mkdir()
    (out / "newest" / "inside").write_bytes(b"work")
    (out / "thesis.tex").write_bytes(b"unknown to the snapshot")


def test_a_preview_names_what_is_newer_what_differs_and_what_is_unknown(repository: Repository, out: Path) -> None:
    """Nobody agrees to a loss that was not shown; bytes are read, since equal size and time prove nothing."""
    result = take(repository, out)
    spoil(out)

    preview = preview_of(repository, result.snapshot_id, out)

    assert {loss.path: loss.verdict for loss in preview.losses} == {
        b"shard0.pt": "newer", b"logs/again": "newer", b"shard1.pt": "differs", b"newest": "other-kind",
    }  # fmt: skip
    assert preview.unknown == (b"thesis.tex",) and preview.absent == 1 and preview.absent_bytes == (3 << 20) + 2000
    assert preview_of(repository, result.snapshot_id, out).digest == preview.digest
    (out / "shard0.pt").write_bytes(b"another change")
    assert preview_of(repository, result.snapshot_id, out).digest != preview.digest


def test_a_restore_in_place_moves_aside_what_was_agreed_to_and_touches_nothing_else(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """What is replaced can be gone back to; what the snapshot does not know stays; what is equal is not written."""
    before = listing(out)
    result = take(repository, out)
    spoil(out)
    spoilt, inode = listing(out), (out / "sparse").stat().st_ino
    preview = preview_of(repository, result.snapshot_id, out)

    done = repository.restore(result.snapshot_id, out, path="/artifacts", order=Order(name=NAME, replace=preview))
    clear(out, NAME)

    assert done.complete and done.aside == f"out.replaced-{NAME}"
    after = listing(out)
    assert {name: facts[5:] for name, facts in after.items() if name != b"thesis.tex"} == {
        name: facts[5:] for name, facts in before.items()
    }
    assert (out / "thesis.tex").exists() and (out / "sparse").stat().st_ino == inode
    aside = listing(tmp_path / done.aside)
    assert {name for name in aside if name != b"logs"} == {
        b"shard0.pt", b"shard1.pt", b"newest", b"newest/inside", b"logs/again"
    }  # fmt: skip
    assert all(aside[name] == spoilt[name] for name in aside if name != b"logs")


def test_what_changes_after_the_preview_stays_and_is_named(repository: Repository, out: Path) -> None:
    """Somebody went on working between the look and the restore."""
    result = take(repository, out)
    (out / "shard0.pt").write_bytes(b"agreed")
    (out / "shard1.pt").unlink()
    preview = preview_of(repository, result.snapshot_id, out)
    (out / "shard0.pt").write_bytes(b"changed since")
    (out / "shard1.pt").write_bytes(b"new since")

    done = repository.restore(result.snapshot_id, out, path="/artifacts", order=Order(replace=preview))

    assert sorted(done.left) == ["logs/again", "shard0.pt", "shard1.pt"]
    assert (out / "shard0.pt").read_bytes() == b"changed since"
    assert (out / "shard1.pt").read_bytes() == b"new since" and not done.aside


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_restore_in_place_cut_off_at_any_step_loses_nothing_and_no_file_is_absent(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, after: bool
) -> None:
    """At each call that changes a name, once before and once after it. Where the file system can exchange two names,
    at every moment every file has a name with the old or the new content; the next attempt goes on by the preview that
    was agreed to."""
    source = tmp_path / "source"
    small(source)
    wanted, snapshot = listing(source), take(repository, source).snapshot_id
    spoil(source)
    spoilt = listing(source)
    for nth in range(1, 100):
        out = tmp_path / f"{nth}" / "out"
        out.parent.mkdir()
        subprocess.run(["cp", "-a", source, out], check=True)
        keep_preview(out, NAME, preview_of(repository, snapshot, out))
        with monkeypatch.context() as patched:
            calls = _cut(patched, nth, after=after)
            if not exchanges:
                patched.setattr(beneath, "exchange", _refused)
            died = False
            try:
                _in_place(repository, snapshot, out)
            except KeyboardInterrupt:
                died = True
        if exchanges:
            for name in {b"shard0.pt", b"shard1.pt", b"logs/again", b"logs/a.log"}:
                content = Path(os.fsdecode(os.path.join(os.fsencode(out), name))).read_bytes()
                assert content in (wanted[name][5], spoilt[name][5]), name
        if died:
            _in_place(repository, snapshot, out)
        clear(out, NAME)
        assert {name: facts[5:] for name, facts in listing(out).items() if name != b"thesis.tex"} == {
            name: facts[5:] for name, facts in wanted.items()
        }
        aside = listing(out.parent / f"out.replaced-{NAME}")
        assert all(aside[name][5:] == spoilt[name][5:] for name in aside) and len(aside) == 6
        assert sorted(path.name for path in out.parent.iterdir()) == ["out", f"out.replaced-{NAME}"]
        if not died:
            break
        assert len(calls) >= nth
    assert 8 <= nth < 99


def small(out: Path) -> None:
    """What `out` is, in little."""
    (out / "logs").mkdir(parents=True)
    for number in range(3):
        (out / f"shard{number}.pt").write_bytes(b"%d" % number * 3000)
    os.link(out / "shard0.pt", out / "logs/again")
    (out / "logs/a.log").write_text("step\n" * 100)
    os.symlink("shard0.pt", out / "newest")


def _cut(patched: pytest.MonkeyPatch, nth: int, *, after: bool) -> list[str]:
    """KeyboardInterrupt at the nth call that gives, takes or exchanges a name in the target or aside."""
    calls: list[str] = []

    def dying(real: Callable[..., None], word: str) -> Callable[..., None]:
        def call(*words: Any, **more: Any) -> None:
            calls.append(word)
            if len(calls) == nth and not after:
                raise KeyboardInterrupt
            real(*words, **more)
            if len(calls) == nth and after:
                raise KeyboardInterrupt

        return call

    patched.setattr(beneath, "exchange", dying(beneath.exchange, "exchange"))
    patched.setattr(beneath, "rename_between", dying(beneath.rename_between, "move"))
    patched.setattr(os, "link", dying(os.link, "link"))
    patched.setattr(os, "rename", dying(os.rename, "rename"))
    return calls


def _refused(*_: object) -> None:
    raise OSError(errno.EINVAL, "this file system knows no such rename")


@pytest.mark.parametrize("when", [b"one", b"shard1.pt"])
def test_what_somebody_changes_at_the_moment_of_the_exchange_stays(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: bytes
) -> None:
    """Between the last look and the step, before the old thing got its second name and after it: what comes out of the
    exchange is looked at, and goes back."""
    out = tmp_path / "out"
    small(out)
    snapshot = take(repository, out).snapshot_id
    (out / "shard1.pt").write_bytes(b"agreed")
    preview = preview_of(repository, snapshot, out)
    real = beneath.exchange

    seen = []

    def meanwhile(old: int, one: bytes, new: int, other: bytes) -> None:
        seen.append(one)
        if seen.count(when) == 1:
            (tmp_path / "fresh").write_bytes(b"changed just now")
            os.rename(tmp_path / "fresh", out / "shard1.pt")
            seen.append(when)
        real(old, one, new, other)

    monkeypatch.setattr(beneath, "exchange", meanwhile)
    done = repository.restore(snapshot, out, path="/artifacts", order=Order(name=NAME, replace=preview))
    clear(out, NAME)

    assert done.left == ["shard1.pt"] and (out / "shard1.pt").read_bytes() == b"changed just now"


def _in_place(repository: Repository, snapshot: str, out: Path) -> None:
    order = Order(name=NAME, replace=kept_preview(out, NAME))
    assert repository.restore(snapshot, out, path="/artifacts", order=order).complete


def test_a_folder_that_the_requester_may_not_change_refuses_the_preview(repository: Repository, out: Path) -> None:
    """The daemon could; whoever asks could not."""
    result = take(repository, out)
    (out / "logs/a.log").write_bytes(b"other")
    folder = os.open(out, FOLDER_FLAGS)
    try:
        with repository.looking(result.snapshot_id) as (blobs, root):
            node = find_node(blobs, root, "/artifacts")
            assert node is not None and node.subtree is not None
            inode = (out / "logs").stat().st_ino
            with pytest.raises(Denied):
                Comparison(blobs, folder, lambda facts: facts.st_ino != inode).of_tree(node.subtree)
            (out / "logs/a.log").write_text("step\n" * 1000)
            (out / "logs/secret").write_bytes(b"of somebody else")
            comparison = Comparison(blobs, folder, lambda facts: facts.st_ino != inode)
            comparison.of_tree(node.subtree)
            assert comparison.preview(result.snapshot_id, "/artifacts").unknown_count == 0
    finally:
        os.close(folder)


def test_giving_up_a_restore_in_place_still_delivers_what_was_moved_aside(
    repository: Repository, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled half-way: the staging goes, and nothing of its owner's with it."""
    result = take(repository, out)
    spoil(out)
    (out / "logs/a.log").write_bytes(b"other")
    preview = preview_of(repository, result.snapshot_id, out)
    keep_preview(out, NAME, preview)
    with monkeypatch.context() as patched:
        patched.setattr(Staging, "deliver_aside", _power_cut)
        with pytest.raises(KeyboardInterrupt):
            repository.restore(result.snapshot_id, out, path="/artifacts", order=Order(name=NAME, replace=preview))

    someone = Requester(os.geteuid(), 4712 if os.geteuid() == 0 else os.getegid())
    clear(out, NAME, owner=someone)
    clear(out, NAME, owner=someone)

    aside = tmp_path / f"out.replaced-{NAME}"
    assert {folder.stat().st_gid for folder in (aside, aside / "logs")} == {someone.gid}
    assert (aside / "logs/a.log").stat().st_gid == os.getegid()
    assert (tmp_path / f"out.replaced-{NAME}" / "shard0.pt").read_bytes() == b"better weights"
    assert not (tmp_path / f".restoring-{NAME}").exists()


# --- damage, full disks, lost connections ----------------------------------------------------------------------


def test_a_file_whose_digest_is_not_the_catalogs_is_left_out_and_named(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """Each blob may be right and the file still another one than was protected: only its own digest tells."""
    result = take(repository, out)
    known = {entry.path.removeprefix("artifacts/").encode(): entry.blake3 for entry in result.entries}
    known = {path.removeprefix(b"/artifacts/"): digest for path, digest in known.items()}
    assert known[b"shard2.pt"] == blake3((out / "shard2.pt").read_bytes()).hexdigest()
    known[b"shard1.pt"] = "00" * 32

    done = repository.restore(
        result.snapshot_id, tmp_path / "back", path="/artifacts", order=Order(digest_of=known.get)
    )

    assert done.damaged == ["shard1.pt"] and not (tmp_path / "back/shard1.pt").exists()
    assert (tmp_path / "back/shard2.pt").read_bytes() == (out / "shard2.pt").read_bytes()


def test_a_digest_is_found_whatever_order_the_parts_come_in(tmp_path: Path) -> None:
    """Packs are read side by side; what finds no room to wait is read back."""
    content = random.Random(3).randbytes(5 << 20)
    (tmp_path / "file").write_bytes(content)
    parts = [(at, content[at : at + (1 << 20)]) for at in range(0, len(content), 1 << 20)]
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        for places in (0, 2, 100):
            for seed in range(5):
                digest = filling.Digest(blake3(content).hexdigest(), waiting := threading.Semaphore(places))
                for offset, part in random.Random(seed).sample(parts, len(parts)):
                    digest.offer(offset, part)
                assert digest.holds(fd, len(content))
                assert waiting._value == places
        assert not filling.Digest("00" * 32, threading.Semaphore(0)).holds(fd, len(content))
    finally:
        os.close(fd)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True)
    if made.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_and_the_restore_goes_on_when_there_is_room(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """A real one: nothing is visible before it is whole, and nothing that was written is written again."""
    snapshot = take(repository, out).snapshot_id
    disk = tmp_path / "disk"
    with small_disk(disk, 6):
        with pytest.raises(TierFull):
            again(repository, snapshot, disk / "back")
        assert [path.name for path in disk.iterdir()] == [f".restoring-{NAME}"]
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        again(repository, snapshot, disk / "back")
        assert listing(disk / "back") == listing(out)


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_tier_that_goes_away_in_the_middle_leaves_what_stands_for_the_next_attempt(
    repository: Repository, tier: PosixTier, out: Path, tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "RUN_BYTES", 1 << 20)
    snapshot = take(repository, out).snapshot_id
    broken = open_repository(FaultyTier(tier, [Fault("read", "fail", nth=10 + nth)]), PASSWORD, prefix="repo")
    with pytest.raises(TierUnavailable):
        broken.restore(snapshot, tmp_path / "back", path="/artifacts", order=Order(name=NAME))
    assert not (tmp_path / "back").exists()
    again(repository, snapshot, tmp_path / "back")
    assert listing(tmp_path / "back") == listing(out)


# --- weighing --------------------------------------------------------------------------------------------------


def test_a_plan_weighs_files_once_and_holes_not_at_all(repository: Repository, out: Path) -> None:
    """A terabyte of zeros fits on any disk, and a hard link takes no room."""
    result = take(repository, out)
    with repository.looking(result.snapshot_id) as (blobs, root):
        weight = weigh(blobs, root, "/artifacts")
        one = weigh(blobs, root, "/artifacts/shard2.pt")

    assert (weight.files, weight.folders, weight.symlinks, weight.lost) == (7, 3, 1, 0)
    real = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and not path.is_symlink())
    assert weight.bytes == real - (out / "shard0.pt").stat().st_size
    assert weight.dense_bytes < weight.bytes - (8 << 20)
    assert one.files == 1 and one.bytes == (3 << 20) + 2000 and 0 < one.packs <= weight.packs


def test_a_lost_blob_is_seen_in_the_plan_already(repository: Repository, out: Path) -> None:
    result = take(repository, out)
    with repository.looking(result.snapshot_id) as (blobs, root):
        blobs.find = lambda kind, blob_id: None  # type: ignore[method-assign]
        node = Node(b"x", "file", 0o644, 0, 0, size=3, content=(b"0" * 32,))
        scale = _Scale(blobs)
        scale.add(node)
    assert scale.weight().lost == 1 and root
