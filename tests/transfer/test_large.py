"""Large files: by every way the bytes arrive, stay sparse, are shared where they can be, and are read back for real."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from mover.errors import ChangedWhileReading, DigestMismatch, MoverError, RequestInvalid, Stopping, TierFull
from mover.model.recipe import Copy, Literal, Recipe, plain_copy
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import FaultyTier
from mover.transfer import Moved, Transfer, large
from mover.transfer.budgets import Budgets
from tests.support.leftovers import Leftovers
from tests.tiers.test_posix_tier import ROOT_ONLY
from tests.transfer.test_engine import flash, loop_mount, names, output, posix_tier, rests, source_tier

__all__ = ["flash", "source_tier"]

DATA = random.Random(11).randbytes((3 << 20) + 5000)


def move(source_tier: PosixTier, target: Any, recipe: Recipe | None = None, *, key: str = "out", **asked: Any) -> Moved:
    with source_tier.open("slide") as source:
        if recipe is None:
            recipe = plain_copy(source.size_bytes)
        return Transfer().run_recipe(
            recipe, source=source, source_tier=source_tier, target=target, key=key, **asked
        )


@pytest.fixture(params=["kernel", "lanes", "lanes in the cache"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way forced: which of them is taken is a matter of speed, never of what arrives."""
    by_kernel = request.param == "kernel"
    monkeypatch.setattr(large, "KERNEL_BYTES", 1 << 60 if by_kernel else 0)
    monkeypatch.setattr(large, "is_cached", lambda *_: not by_kernel)
    if by_kernel:  # also with read-back
        monkeypatch.setattr(large, "copies_within", lambda *_: True)
    if request.param == "lanes in the cache":
        monkeypatch.setattr(large, "open_direct", lambda *_: -1)
    return str(request.param)


SIZES = [1, 4095, 4097, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, len(DATA)]


@pytest.mark.parametrize("readback", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_every_way_brings_every_byte(
    source_tier: PosixTier, flash: PosixTier, way: str, size: int, readback: bool
) -> None:
    """At every size where a block, piece or buffer ends; and it says whether it was read back."""
    source_tier.put("slide", [DATA[:size]])
    moved = move(source_tier, flash, readback=readback)
    assert flash.read("out") == DATA[:size] and rests(flash) == []
    assert moved.digest.blake3 == blake3(DATA[:size]).hexdigest()
    assert moved.verified is readback and not moved.shared


@contextmanager
def flipping(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[list[int]]:
    """One bit changed on the device after it was written and before it is read back."""
    done: list[int] = []
    honest = large.read_cold

    def spoiled(descriptor: int, direct: int, offset: int, view: memoryview, until: int) -> int:
        if not done and offset <= at < until:
            done.append(at)
            with open(f"/proc/self/fd/{descriptor}", "r+b") as out:
                out.seek(at)
                byte = out.read(1)
                out.seek(at)
                out.write(bytes([byte[0] ^ 1]))
                out.flush()
                os.fsync(out.fileno())
        return honest(descriptor, direct, offset, view, until)

    monkeypatch.setattr(large, "read_cold", spoiled)
    yield done


@pytest.mark.parametrize("at", [0, 1_500_000, len(DATA) - 1])
def test_a_byte_flipped_between_writing_and_reading_back_is_found(
    source_tier: PosixTier, flash: PosixTier, way: str, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The overlapped read-back is as strict as the one that came after everything (D14): nothing is published."""
    source_tier.put("slide", [DATA])
    with flipping(monkeypatch, at) as done, pytest.raises(DigestMismatch):
        move(source_tier, flash)
    assert done and names(flash) == [] and rests(flash) == []


def test_nothing_is_published_before_it_was_synced_and_read_back(
    source_tier: PosixTier, flash: PosixTier, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of D14 on the real calls: every byte read, then the sync, then the name."""
    from mover.tiers import beneath

    source_tier.put("slide", [DATA])
    events: list[str] = []
    honest_read, honest_sync, honest_rename = large.read_cold, os.fsync, beneath.rename_noreplace
    monkeypatch.setattr(large, "read_cold", lambda *a: events.append("read") or honest_read(*a))
    monkeypatch.setattr(os, "fsync", lambda d: events.append("sync") or honest_sync(d))
    monkeypatch.setattr(beneath, "rename_noreplace", lambda *a, **k: events.append("name") or honest_rename(*a, **k))
    move(source_tier, flash)
    trail = events[events.index("read") :]
    last_read = len(trail) - 1 - trail[::-1].index("read")
    assert trail.index("sync") > last_read and trail.index("name") > trail.index("sync")


def test_a_kernel_that_writes_less_than_asked_is_asked_again(
    source_tier: PosixTier, flash: PosixTier, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short reads, writes and copies are promises of the system calls, not errors."""
    source_tier.put("slide", [DATA])
    honest_write, honest_read, honest_copy = os.pwrite, os.preadv, large.copy_file_range
    with monkeypatch.context() as patch:
        patch.setattr(large.os, "pwrite", lambda d, v, at: honest_write(d, v[: max(4096, len(v) // 1536 * 512)], at))
        patch.setattr(large.os, "preadv", lambda d, v, at: honest_read(d, [v[0][: max(4096, len(v[0]) // 2)]], at))
        patch.setattr(large, "copy_file_range", lambda s, t, n, a, b: honest_copy(s, t, min(n, 100_001), a, b))
        move(source_tier, flash)
    assert flash.read("out") == DATA


def test_names_of_any_bytes(source_tier: PosixTier, flash: PosixTier, way: str) -> None:
    """A name is bytes, not text."""
    source_tier.put("slide", [DATA])
    key = os.fsdecode(b"a\xff\n\\b/\xc3\x28 \x01")
    move(source_tier, flash, key=key)
    assert os.fsencode(key).rpartition(b"/")[2] in os.listdir(os.fsencode(flash.root / "a\udcff\n\\b"))
    assert flash.read(key) == DATA


# --- full, stopped, paced -------------------------------------------------------------------------------


@pytest.mark.slow
@ROOT_ONLY
def test_a_full_disk_is_named_and_left_clean(tmp_path: Path, source_tier: PosixTier, way: str) -> None:
    """On a real ext4 of 32 MiB: before the copy where space can be reserved, in the middle where it cannot."""
    source_tier.put("slide", [random.Random(1).randbytes(40 << 20)])
    with loop_mount(tmp_path, "ext4") as root:
        small = posix_tier(root / "disk", "small")
        with pytest.raises(TierFull) as caught:
            move(source_tier, small)
        assert caught.value.where == "small" and names(small) == [] and rests(small) == []
        with pytest.raises(TierFull):
            move(source_tier, small, readback=False)
        assert names(small) == [] and rests(small) == []


def test_a_move_is_stopped_between_two_steps(source_tier: PosixTier, flash: PosixTier, way: str) -> None:
    """A daemon that ends does not wait for a hundred gigabytes; without a journal nothing is left."""
    source_tier.put("slide", [DATA])
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 4

    with pytest.raises(Stopping):
        move(source_tier, flash, stopped=stopped)
    assert names(flash) == [] and rests(flash) == []


class Counting(Budgets):
    def __init__(self) -> None:
        super().__init__()
        self.taken: Counter[tuple[str, str]] = Counter()
        self.seen: Counter[tuple[str, str]] = Counter()
        self.largest = 0

    def take(self, tier: str, *, direction: Any, bytes_: int, files: int = 0, stopped: Any = None) -> None:
        self.taken[tier, direction] += bytes_
        self.largest = max(self.largest, bytes_)

    def observe(self, tier: str, *, direction: Any, seconds: float, bytes_: int, files: int = 1) -> None:
        self.seen[tier, direction] += bytes_


def test_every_byte_is_asked_of_the_budgets_in_steps(source_tier: PosixTier, flash: PosixTier, way: str) -> None:
    """Reading the source, writing the target, and reading the target back: a limit nobody asks limits nothing."""
    source_tier.put("slide", [DATA])
    budgets = Counting()
    move(source_tier, flash, budgets=budgets)
    wanted = {("archive", "read"), ("flash", "write"), ("flash", "read")}
    assert set(budgets.taken) == wanted and budgets.taken == budgets.seen
    assert all(len(DATA) <= count <= len(DATA) + (1 << 20) for count in budgets.taken.values())
    assert budgets.largest <= 32 << 20


def test_no_thread_and_no_descriptor_is_left_by_any_way(
    source_tier: PosixTier, flash: PosixTier, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R11, also after failures of each of its threads."""
    source_tier.put("slide", [DATA])
    move(source_tier, flash, key="first")
    before = Leftovers()
    move(source_tier, flash, key="second", source_digest=True)
    for name in ("read_cold", "read_fully", "write_fully", "settle", "copy_file_range"):
        with monkeypatch.context() as patch:
            patch.setattr(large, name, _failing)
            try:
                move(source_tier, flash, key=f"bad-{name}")
            except (MoverError, OSError):
                pass
    assert before.now() == []
    assert rests(flash) == []


def _failing(*_: object) -> int:
    raise OSError(5, "the device said no")


# --- two digests in one pass ----------------------------------------------------------------------------

IN_PLACE = Recipe(len(DATA), (Literal(b"h" * 700), Copy(700, 2_000_000 - 700), Literal(bytes(len(DATA) - 2_000_000))))
MOVED_ABOUT = Recipe(len(DATA), (Copy(1_500_000, 1_000_000), Literal(b"x" * 999), Copy(17, 2_000_000)))


SHIFTED = Recipe(len(DATA), (Literal(b"h" * 70_001), Copy(16, 900_000), Copy(1_500_000, 1_600_000), Literal(b"t")))
ALL_ANEW = Recipe(len(DATA), (Literal(b"nothing of it"),))


@pytest.mark.parametrize("recipe", [plain_copy(len(DATA)), IN_PLACE, SHIFTED, ALL_ANEW, MOVED_ABOUT])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_sources_digest_comes_with_the_results(
    source_tier: PosixTier, flash: PosixTier, way: str, recipe: Recipe, streamed: bool
) -> None:
    """Also over the ranges that the recipe drops: the number of a scan hangs on its source's digest (D19)."""
    source_tier.put("slide", [DATA])
    target = FaultyTier(flash, ()) if streamed else flash
    moved = move(source_tier, target, recipe, source_digest=True, segments=True)
    assert moved.source_digest is not None
    assert (moved.source_digest.blake3, moved.source_digest.size_bytes) == (blake3(DATA).hexdigest(), len(DATA))
    assert moved.digest.blake3 == blake3(output(recipe, DATA)).hexdigest()
    assert flash.read("out") == output(recipe, DATA)
    assert len(moved.digest.segments) == 1 and move(source_tier, flash, recipe, key="2").source_digest is None


# --- sparse ---------------------------------------------------------------------------------------------


def sparse_file(path: Path, size: int, islands: dict[int, bytes]) -> str:
    with open(path, "wb") as out:
        out.truncate(size)
        for at, data in islands.items():
            out.seek(at)
            out.write(data)
        os.fsync(out.fileno())
    hasher, at, zeros = blake3(), 0, bytes(1 << 20)
    for start, data in [*sorted(islands.items()), (size, b"")]:
        for hole in range(at, start, len(zeros)):
            hasher.update(zeros[: start - hole])
        hasher.update(data)
        at = start + len(data)
    return hasher.hexdigest()


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


ISLANDS = {0: b"a" * 5000, 5 << 20: DATA[:1_200_000], (9 << 20) + 4096: b"b" * 100, (20 << 20) - 1: b"z"}


@pytest.mark.parametrize("readback", [True, False])
@pytest.mark.parametrize("end", [20 << 20, (33 << 20) + 77])
def test_holes_stay_holes_and_are_zeros_in_the_digest(
    source_tier: PosixTier, flash: PosixTier, readback: bool, end: int
) -> None:
    """Checkpoint files and disk images are mostly holes; filling them would fill the flash."""
    digest = sparse_file(source_tier.root / "slide", end, ISLANDS)
    if allocated(source_tier.root / "slide") >= end:
        pytest.skip("this file system keeps no holes")
    moved = move(source_tier, flash, readback=readback)
    assert moved.digest.blake3 == digest == blake3(flash.read("out")).hexdigest()
    assert allocated(flash.root / "out") <= allocated(source_tier.root / "slide") + (1 << 16)
    move(source_tier, flash, key="dense", sparse=False)
    assert allocated(flash.root / "dense") >= end // 4096 * 4096


def test_a_file_of_nothing_but_a_hole(source_tier: PosixTier, flash: PosixTier) -> None:
    """And one that ends in a hole, which SEEK_DATA answers with an error."""
    digest = sparse_file(source_tier.root / "slide", 70 << 20, {})
    assert move(source_tier, flash).digest.blake3 == digest
    assert (flash.root / "out").stat().st_size == 70 << 20 and allocated(flash.root / "out") < 1 << 16


def test_pieces_along_holes_cover_a_file_exactly_once(tmp_path: Path) -> None:
    """No byte twice, none missed, whatever lies where."""
    for seed in range(20):
        random_ = random.Random(seed)
        size = random_.randrange(1, 40 << 20)
        islands = {random_.randrange(size): b"x" for _ in range(random_.randrange(12))}
        sparse_file(tmp_path / "file", size, islands)
        with open(tmp_path / "file", "rb") as opened:
            found = list(large.sparse_pieces(opened.fileno(), size))
        assert [piece.at for piece in found] == [0, *(p.at + p.length for p in found)][:-1]
        assert found[-1].at + found[-1].length == size
        for at in islands:
            piece = next(p for p in found if p.at <= at < p.at + p.length)
            runs = ((piece.at, piece.length),) if piece.runs is None else piece.runs
            assert any(start <= at < start + length for start, length in runs)


# --- shared ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@ROOT_ONLY
def test_within_a_file_system_that_can_blocks_are_shared_and_trust_is_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constant time for what was verified under this very fingerprint; one reading for what was not."""
    with loop_mount(tmp_path, "xfs -m reflink=1") as root:
        disk = posix_tier(root / "disk", "disk")
        disk.put("slide", [DATA])
        digest, seen = blake3(DATA).hexdigest(), disk.stat("slide").fingerprint
        read = move(disk, disk, key="read", source_digest=True)
        assert read.shared and read.verified and not read.trusted_since and read.digest.blake3 == digest
        assert read.source_digest == read.digest
        unread = move(disk, disk, key="unread", readback=False)
        assert unread.shared and not unread.verified and unread.digest.blake3 == digest
        monkeypatch.setattr(large, "Follower", _failing)
        monkeypatch.setattr(large, "digest_along", _failing)
        inherited = move(disk, disk, key="trusted", expected=digest, trusted_since="2026-01-02", seen=seen)
        assert (inherited.shared, inherited.verified, inherited.trusted_since) == (True, False, "2026-01-02")
        assert inherited.digest.blake3 == digest
        monkeypatch.undo()
        with pytest.raises(DigestMismatch):
            move(disk, disk, key="other", expected=blake3(b"other").hexdigest())
        assert all(disk.read(key) == DATA for key in ("read", "unread", "trusted"))
        redacted = Recipe(len(DATA), (Literal(b"h" * 4096), Copy(4096, len(DATA) - 4096)))
        overlap = move(disk, disk, redacted, key="recipe")
        assert disk.read("recipe") == b"h" * 4096 + DATA[4096:] and overlap.verified


def test_trust_is_not_inherited_by_a_copy_or_a_changed_source(source_tier: PosixTier, flash: PosixTier) -> None:
    """Without shared blocks the bytes are new, and are read back like any others."""
    source_tier.put("slide", [DATA])
    seen, digest = source_tier.stat("slide").fingerprint, blake3(DATA).hexdigest()
    moved = move(source_tier, FaultyTier(flash, ()), expected=digest, trusted_since="2026-01-02", seen=seen)
    assert (moved.shared, moved.verified, moved.trusted_since) == (False, True, "")
    with pytest.raises(RequestInvalid):
        move(source_tier, flash, key="2", trusted_since="2026-01-02", expected=digest)
    os.utime(source_tier.root / "slide", ns=(0, 0))
    with pytest.raises(ChangedWhileReading):
        move(source_tier, flash, key="2", expected=digest, trusted_since="2026-01-02", seen=seen)
    assert names(flash) == ["out"]


# --- memory ---------------------------------------------------------------------------------------------

MEASURED = """
import sys
from mover.model.recipe import plain_copy
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer
from tests.support.memory import peak_bytes
source_tier, flash = (PosixTier(name, "deidentified", root) for name, root in zip(("archive", "flash"), sys.argv[1:]))

with source_tier.open("slide") as source:
    before = peak_bytes()
    moved = Transfer().run_recipe(plain_copy(source.size_bytes), source=source, source_tier=source_tier,
                                  target=flash, key="out", source_digest=True)
print(moved.digest.blake3, peak_bytes(), before)
"""


def measured(source_tier: PosixTier, flash: PosixTier) -> tuple[str, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(source_tier.root), str(flash.root)],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    digest, peak, before = done.stdout.split()
    return digest, int(peak), int(before)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(source_tier: PosixTier, flash: PosixTier) -> None:
    """300 MB is the promise whatever is moved; the engine's own part is a few buffers."""
    sparse_file(source_tier.root / "slide", 1 << 30, {at << 24: DATA for at in range(0, 64, 4)})
    _, peak, before = measured(source_tier, flash)
    assert peak < 150 << 20 and peak - before < 48 << 20


@pytest.mark.soak
def test_a_file_of_a_hundred_gigabytes(source_tier: PosixTier, flash: PosixTier) -> None:
    """Sparse, as far as the disk goes; with data beyond every 32-bit edge."""
    size = 100 * 10**9
    digest = sparse_file(
        source_tier.root / "slide", size, {0: DATA, (4 << 30) - 1000: DATA, 50 << 30: DATA, size - len(DATA): DATA}
    )
    found, peak, _ = measured(source_tier, flash)
    assert found == digest and peak < 300 << 20
    assert (flash.root / "out").stat().st_size == size and allocated(flash.root / "out") < 64 << 20
