"""The engine: bytes arrive as the recipe says, are read back cold, and cross zones only when cleared."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    MoverError,
    RedactionUnproven,
    TierFull,
    ZoneCrossing,
)
from mover.model.proving import Prover
from mover.model.recipe import SEGMENT_BYTES, Copy, Literal, Recipe, compact, plain_copy
from mover.model.source import ByteSource
from mover.model.tiers import Zone
from mover.tiers import identity
from mover.tiers.posix import PosixTier
from mover.tiers.staging import StagingTier
from mover.tiers.wrappers import Fault, FaultyTier
from mover.transfer import Clearance, Moved, Transfer, clear, engine, large
from mover.transfer.digest import digest_recipe
from tests.support.leftovers import Leftovers
from tests.support.seaweed import object_tier
from tests.tiers.test_posix_tier import ROOT_ONLY, tmpfs


def posix_tier(root: Path, name: str, zone: Zone = "deidentified") -> PosixTier:
    root.mkdir(parents=True, exist_ok=True)
    identity.establish(root, name=name, zone=zone)
    return PosixTier(name, zone, root)


@pytest.fixture
def source_tier(tmp_path: Path) -> PosixTier:
    return posix_tier(tmp_path / "source", "archive")


@pytest.fixture
def flash(tmp_path: Path) -> PosixTier:
    return posix_tier(tmp_path / "flash", "flash")


def run(
    recipe: Recipe,
    source_tier: StagingTier,
    target: StagingTier,
    *,
    key: str = "out/slide",
    expected: str = "",
    segments: bool = False,
    readback: bool = True,
) -> Moved:
    with source_tier.open("slide") as source:
        return Transfer().run_recipe(
            recipe,
            source=source,
            source_tier=source_tier,
            target=target,
            key=key,
            expected=expected,
            segments=segments,
            readback=readback,
        )


def output(recipe: Recipe, data: bytes) -> bytes:
    """The recipe's meaning in two lines, to hold the engine against."""
    parts = [s.data if isinstance(s, Literal) else data[s.offset : s.offset + s.length] for s in recipe.segments]
    return b"".join(parts)


def names(tier: StagingTier) -> list[str]:
    return sorted(entry.key for entry in tier.list())


def rests(tier: PosixTier) -> list[Path]:
    return list(tier.root.rglob(".mover-tmp-*"))


# --- bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 1 << 20, SEGMENT_BYTES, SEGMENT_BYTES + 1])
def test_a_plain_copy_arrives_with_the_digest_b3sum_prints(source_tier: PosixTier, flash: PosixTier, size: int) -> None:
    """At every size where a buffer, block or segment ends."""
    data = random.Random(size).randbytes(size)
    source_tier.put("slide", [data])
    moved = run(plain_copy(size), source_tier, flash, segments=True)
    assert flash.read("out/slide") == data
    assert (moved.digest.blake3, moved.digest.size_bytes) == (blake3(data).hexdigest(), size)
    slices = [data[at : at + SEGMENT_BYTES] for at in range(0, size, SEGMENT_BYTES)]
    assert moved.digest.segments == tuple(blake3(part).hexdigest() for part in slices)


DATA = random.Random(7).randbytes(300_000)
SEGMENTS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 70_000)).map(
            lambda pair: Copy(pair[0], min(pair[1], len(DATA) - pair[0]))
        ),
        st.binary(max_size=5000).map(Literal),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=SEGMENTS, number=st.integers(0, 1 << 60))
@pytest.mark.slow
def test_any_recipe_makes_exactly_its_output(
    source_tier: PosixTier, flash: PosixTier, segments: list[Copy | Literal], number: int
) -> None:
    """By the kernel's copy and by streaming, overlapping, repeated and empty segments included."""
    if not names(source_tier):
        source_tier.put("slide", [DATA])
    recipe = Recipe(len(DATA), tuple(segments))
    wanted = output(recipe, DATA)
    for target, way in ((flash, "kernel"), (FaultyTier(flash, ()), "stream")):
        key = f"{way}/{number}-{len(names(flash))}"
        moved = run(recipe, source_tier, target, key=key)
        assert flash.read(key) == wanted and moved.digest.blake3 == blake3(wanted).hexdigest()
    with source_tier.open("slide") as source:
        assert digest_recipe(recipe, source).blake3 == blake3(wanted).hexdigest()


@pytest.mark.slow
def test_recipes_run_to_and_from_a_bucket(
    source_tier: PosixTier, flash: PosixTier, request: pytest.FixtureRequest
) -> None:
    """Archive by upload, stage by range reads: the two directions every slide takes."""
    archive = object_tier(request.getfixturevalue("weed"))
    data = random.Random(1).randbytes(30 << 20)
    source_tier.put("slide", [data])
    recipe = compact(
        len(data), [Literal(b"new header"), Copy(1000, 20 << 20), Literal(bytes(9 << 20)), Copy(25 << 20, 5 << 20)]
    )
    moved = run(recipe, source_tier, archive, key="slides/1/a/slide")
    with archive.open("slides/1/a/slide") as stored:
        back = Transfer().run_recipe(
            plain_copy(stored.size_bytes),
            source=stored,
            source_tier=archive,
            target=flash,
            key="back",
            expected=moved.digest.blake3,
        )
    assert flash.read("back") == output(recipe, data) and back.digest == moved.digest


@pytest.mark.slow
@ROOT_ONLY
@pytest.mark.parametrize("options", ["ext4", "xfs -m reflink=1"])
def test_across_and_within_real_file_systems(tmp_path: Path, source_tier: PosixTier, options: str) -> None:
    """Between file systems the kernel may refuse to copy; within xfs blocks are shared."""
    data = random.Random(2).randbytes(5 << 20)
    source_tier.put("slide", [data])
    with loop_mount(tmp_path, options) as root:
        disk = posix_tier(root / "disk", "disk")
        run(plain_copy(len(data)), source_tier, disk, key="slide")
        run(plain_copy(len(data)), disk, disk, key="again")
        assert disk.read("slide") == disk.read("again") == data
        assert disk.traits.reflink == ("reflink" in options)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_the_kernel_does_not_copy_we_do(
    source_tier: PosixTier, flash: PosixTier, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """NFS to local, old kernels: slower, and otherwise the same."""

    def refusing(*_: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(large, "copy_file_range", refusing)
    monkeypatch.setattr(large, "is_cached", lambda *_: False)
    source_tier.put("slide", [DATA])
    run(plain_copy(len(DATA)), source_tier, flash, readback=False)
    assert flash.read("out/slide") == DATA


# --- zones ----------------------------------------------------------------------------------------------


class Lenient:
    """A verifier that finds nothing wrong: the engine's own rules are what is tested."""

    def verify(self, source: ByteSource, recipe: Recipe) -> object:
        return None


class Strict:
    def verify(self, source: ByteSource, recipe: Recipe) -> object:
        raise RedactionUnproven("a name was found")


REDACTED = Recipe(len(DATA), (Literal(bytes(1000)), Copy(1000, len(DATA) - 1000)))


@pytest.fixture
def intake(tmp_path: Path) -> PosixTier:
    tier = posix_tier(tmp_path / "intake", "intake", "identified")
    tier.put("slide", [DATA])
    tier.put("other", [DATA])
    return tier


def cross(
    intake: PosixTier,
    flash: StagingTier,
    recipe: Recipe,
    clearance: Callable[..., Clearance | None],
    *,
    key: str = "slide",
) -> Moved:
    with intake.open("slide") as source, intake.open(key) as opened:
        return Transfer().run_recipe(
            recipe, source=opened, source_tier=intake, target=flash, key="out", clearance=clearance(source)
        )


def test_a_cleared_recipe_crosses(intake: PosixTier, flash: PosixTier) -> None:
    """The one way over."""
    cross(intake, flash, REDACTED, lambda source: clear(Lenient(), source, REDACTED))
    assert flash.read("out") == output(REDACTED, DATA)


WHOLE = [
    plain_copy(len(DATA)),
    Recipe(len(DATA), (Copy(0, 1000), Copy(1000, len(DATA) - 1000))),
    Recipe(len(DATA), (Copy(1000, len(DATA) - 1000), Copy(0, 1000))),
    Recipe(len(DATA), (Literal(b"header"), Copy(0, len(DATA)))),
    Recipe(len(DATA), (Copy(0, 2000), Copy(1000, len(DATA) - 1000), Literal(b"x"))),
]


@pytest.mark.parametrize("recipe", WHOLE)
def test_a_copy_of_everything_never_crosses_whatever_is_passed(
    intake: PosixTier, flash: PosixTier, recipe: Recipe
) -> None:
    """I2, I9: cut up, reordered or with something before it, it is still the whole source."""
    for clearance in (
        lambda _: None,
        lambda source: clear(Lenient(), source, recipe),
        lambda source: clear(Lenient(), source, REDACTED),
        lambda _: "cleared",
    ):
        with pytest.raises(ZoneCrossing):
            cross(intake, flash, recipe, clearance)  # type: ignore[arg-type]
    assert names(flash) == [] and rests(flash) == []


def test_no_recipe_crosses_without_its_own_clearance(intake: PosixTier, flash: PosixTier) -> None:
    """Not without one, not with another recipe's, not over another file, not with one made by hand."""
    other = Recipe(len(DATA), (Literal(bytes(999)), Copy(1000, len(DATA) - 1000)))
    with pytest.raises(ZoneCrossing, match="no verifier"):
        cross(intake, flash, REDACTED, lambda _: None)
    with pytest.raises(ZoneCrossing, match="another recipe"):
        cross(intake, flash, REDACTED, lambda source: clear(Lenient(), source, other))
    with pytest.raises(ZoneCrossing, match="another source"):
        cross(intake, flash, REDACTED, lambda source: clear(Lenient(), source, REDACTED), key="other")
    with pytest.raises(ZoneCrossing, match="never from a caller"), intake.open("slide") as source:
        Clearance(object(), recipe_digest="", fingerprint=source.fingerprint(), verifier="me")
    with pytest.raises(RedactionUnproven):
        cross(intake, flash, REDACTED, lambda source: clear(Strict(), source, REDACTED))
    assert names(flash) == [] and rests(flash) == []


def test_a_source_that_changed_after_it_was_cleared_does_not_cross(intake: PosixTier, flash: PosixTier) -> None:
    """What was verified is no longer what would be read."""
    with intake.open("slide") as source:
        clearance = clear(Lenient(), source, REDACTED)
        (intake.root / "slide").write_bytes(DATA[::-1])
        with pytest.raises(ZoneCrossing, match="another source"):
            Transfer().run_recipe(
                REDACTED, source=source, source_tier=intake, target=flash, key="out", clearance=clearance
            )


def test_a_caller_cannot_claim_another_zone(intake: PosixTier, flash: PosixTier, source_tier: PosixTier) -> None:
    """The open entry carries its zone; naming a harmless tier beside it changes nothing."""
    with intake.open("slide") as source, pytest.raises(ZoneCrossing):
        Transfer().run_recipe(plain_copy(len(DATA)), source=source, source_tier=source_tier, target=flash, key="out")


def test_within_a_zone_plain_copies_are_free(intake: PosixTier, tmp_path: Path) -> None:
    """Quarantine is identified too."""
    quarantine = posix_tier(tmp_path / "quarantine", "quarantine", "identified")
    run(plain_copy(len(DATA)), intake, quarantine)
    assert quarantine.read("out/slide") == DATA


# --- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Fault("write", "flip", at=150_000), Fault("stream_cold", "flip", at=3), Fault("stream_cold", "cut", at=9)]
)
@pytest.mark.parametrize("kind", ["posix", "object"])
def test_a_flipped_byte_at_the_destination_is_found(
    source_tier: PosixTier, flash: PosixTier, request: pytest.FixtureRequest, kind: str, fault: Fault
) -> None:
    """Every common mover believes its own write; one flipped byte and the source is gone (finding 3)."""
    target = flash if kind == "posix" else object_tier(request.getfixturevalue("weed"))
    source_tier.put("slide", [DATA])
    with pytest.raises(DigestMismatch):
        run(plain_copy(len(DATA)), source_tier, FaultyTier(target, [fault]))
    assert names(target) == [] and rests(flash) == []
    run(plain_copy(len(DATA)), source_tier, FaultyTier(target, ()))
    assert target.read("out/slide") == DATA


@pytest.mark.slow
@ROOT_ONLY
def test_rot_on_the_device_is_found_although_the_cache_is_right(tmp_path: Path) -> None:
    """Finding 4, on a real disk image edited under a synced file: a warm re-read sees nothing."""
    data = random.Random(3).randbytes(1 << 20)
    with loop_mount(tmp_path, "ext4") as root:
        disk = posix_tier(root / "disk", "disk")
        attempt = disk.attempt("slide", size_bytes=len(data))
        attempt.write([data])
        attempt.seal()
        image = tmp_path / "image"
        at = image.read_bytes().find(data[500_000:500_064])
        assert at > 0
        with open(image, "r+b") as device:
            device.seek(at)
            device.write(bytes([data[500_000] ^ 1]))
            os.fsync(device.fileno())
        assert os.pread(attempt.fileno(), len(data), 0) == data
        assert b"".join(bytes(block) for block in attempt.stream_cold()) != data
        attempt.abandon()


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite", "replace"])
@pytest.mark.parametrize("way", ["kernel", "lanes", "stream"])
def test_a_source_that_changes_while_it_is_read_is_refused(
    source_tier: PosixTier, flash: PosixTier, monkeypatch: pytest.MonkeyPatch, change: str, way: str
) -> None:
    """Case 25. A shrinking file must not take the process with it, as a mapping would."""
    data = DATA * 8
    source_tier.put("slide", [data])
    path = source_tier.root / "slide"
    honest_copy, honest_preadv, honest_pread = large.copy_file_range, os.preadv, os.pread
    done: list[bool] = []

    def disturb() -> None:
        if done:
            return
        done.append(True)
        if change == "shrink":
            os.truncate(path, 1000)
        elif change == "replace":
            (path.parent / "new").write_bytes(data)
            os.rename(path.parent / "new", path)
        else:
            with open(path, "r+b") as out:
                out.seek(0, 2 if change == "grow" else 0)
                out.write(b"late")

    def copying(*args: int) -> int:
        count = honest_copy(*args[:2], min(args[2], 1 << 20), *args[3:])
        disturb()
        return count

    def reading(descriptor: int, views: list[memoryview], at: int) -> int:
        count = honest_preadv(descriptor, [views[0][: 1 << 19]], at)
        disturb()
        return count

    def plain_reading(descriptor: int, count: int, at: int) -> bytes:
        piece = honest_pread(descriptor, min(count, 1000), at)
        disturb()
        return piece

    if way == "kernel":
        monkeypatch.setattr(large, "is_cached", lambda *_: False)
        monkeypatch.setattr(large, "copy_file_range", copying)
    elif way == "lanes":
        monkeypatch.setattr(large.os, "preadv", reading)
    else:
        monkeypatch.setattr(engine.os, "pread", plain_reading)
    target = FaultyTier(flash, ()) if way == "stream" else flash
    with pytest.raises(ChangedWhileReading):
        run(plain_copy(len(data)), source_tier, target, readback=way != "kernel")
    monkeypatch.undo()
    assert done and names(flash) == [] and rests(flash) == []


def test_bytes_other_than_the_catalog_says_are_not_published(source_tier: PosixTier, flash: PosixTier) -> None:
    """Staging knows the digest beforehand: rot in the archive must not reach a run."""
    source_tier.put("slide", [DATA])
    with pytest.raises(DigestMismatch):
        run(plain_copy(len(DATA)), source_tier, flash, expected=blake3(b"other").hexdigest())
    assert names(flash) == [] and rests(flash) == []
    run(plain_copy(len(DATA)), source_tier, flash, expected=blake3(DATA).hexdigest())


def test_a_range_that_is_not_what_it_should_be_keeps_the_whole_from_its_name(
    source_tier: PosixTier, flash: PosixTier
) -> None:
    """A tar of ten thousand files has no digest beforehand; each of its files has. Who is wrong is known afterwards."""
    source_tier.put("slide", [DATA])
    right = ("right", 100, 1000, blake3(DATA[100:1100]).hexdigest())
    for wrong in ([("wrong", 5000, 10, "ab" * 32)], []):
        prover = Prover([right, *wrong])
        with source_tier.open("slide") as source, pytest.raises(DigestMismatch) if wrong else nullcontext():
            Transfer().run_recipe(
                plain_copy(len(DATA)), source=source, source_tier=source_tier, target=flash, key="out/tar",
                proving=prover, files=2,
            )  # fmt: skip
        assert prover.wrong() == [name for name, *_ in wrong] and rests(flash) == []
        assert names(flash) == ([] if wrong else ["out/tar"])


def test_a_recipe_for_a_file_of_another_size_is_refused(source_tier: PosixTier, flash: PosixTier) -> None:
    """It was made for what the file used to be."""
    source_tier.put("slide", [DATA])
    with pytest.raises(ChangedWhileReading):
        run(plain_copy(len(DATA) - 1), source_tier, flash)


def test_a_taken_name_stops_before_the_first_byte_and_changes_nothing(source_tier: PosixTier, flash: PosixTier) -> None:
    """R8."""
    source_tier.put("slide", [DATA])
    flash.put("out/slide", [b"somebody's"])
    with pytest.raises(EntryExists):
        run(plain_copy(len(DATA)), source_tier, flash)
    assert flash.read("out/slide") == b"somebody's" and rests(flash) == []


@pytest.mark.parametrize("call", ["write", "seal", "publish"])
def test_a_tier_that_fails_at_any_step_leaves_nothing_under_the_name(
    source_tier: PosixTier, flash: PosixTier, call: str
) -> None:
    """And the same recipe runs well afterwards."""
    source_tier.put("slide", [DATA])
    with pytest.raises(TierFull):
        run(plain_copy(len(DATA)), source_tier, FaultyTier(flash, [Fault(call, "full", at=1000)]))  # type: ignore[arg-type]
    assert rests(flash) == []
    if call != "publish":
        assert names(flash) == []
        run(plain_copy(len(DATA)), source_tier, flash)
    assert flash.read("out/slide") == DATA


@pytest.mark.slow
@ROOT_ONLY
def test_a_full_target_is_reported_and_left_clean(tmp_path: Path, source_tier: PosixTier) -> None:
    """Case 9 through the kernel's copy, on a real file system of 2 MiB."""
    source_tier.put("slide", [bytes(8 << 20)])
    (tmp_path / "small").mkdir()
    with tmpfs(tmp_path / "small", "size=2m"):
        small = posix_tier(tmp_path / "small", "small")
        with pytest.raises(TierFull) as caught:
            run(plain_copy(8 << 20), source_tier, small)
        assert caught.value.where == "small"
        assert names(small) == [] and rests(small) == []


KILLED = """
import sys
from mover.model.recipe import plain_copy
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer
source_tier = PosixTier("archive", "deidentified", sys.argv[1])
flash = PosixTier("flash", "deidentified", sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(10_000):
    with source_tier.open("slide") as source:
        Transfer().run_recipe(plain_copy(source.size_bytes), source=source, source_tier=source_tier,
                              target=flash, key=f"{number}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_kill_9_leaves_whole_files_or_none(source_tier: PosixTier, flash: PosixTier, seed: int) -> None:
    """R3, and the next process goes on where the killed one was."""
    data = random.Random(seed).randbytes(3 << 20)
    source_tier.put("slide", [data])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source_tier.root), str(flash.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
    process.stdin.write(b"go\n")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(random.Random(seed).uniform(0.005, 0.15))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = names(flash)
    assert all(flash.read(name) == data for name in done)
    run(plain_copy(len(data)), source_tier, flash, key=f"{len(done)}")


def test_no_thread_and_no_descriptor_is_left(source_tier: PosixTier, flash: PosixTier) -> None:
    """R11 over both ways and their failures."""
    source_tier.put("slide", [DATA])
    before = Leftovers()
    for number in range(5):
        run(plain_copy(len(DATA)), source_tier, flash, key=f"{number}")
        for fault in (Fault("write", "full", at=10), Fault("write", "fail"), Fault("stream_cold", "flip")):
            with pytest.raises(MoverError):
                run(plain_copy(len(DATA)), source_tier, FaultyTier(flash, [fault]), key=f"bad-{number}")
    assert before.now() == []


class loop_mount:
    """A fresh real file system on a disk image, `image`, for the time of a block."""

    def __init__(self, folder: Path, options: str) -> None:
        self._folder, (self._type, *self._options) = folder, options.split()

    def __enter__(self) -> Path:
        image, root = self._folder / "image", self._folder / "mounted"
        root.mkdir()
        with open(image, "wb") as out:
            out.truncate((320 if self._type == "xfs" else 32) << 20)
        commands = (
            [f"mkfs.{self._type}", "-q", *self._options, str(image)],
            ["mount", "-o", "loop", str(image), str(root)],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True)
            if done.returncode != 0:
                pytest.skip(f"this machine does not let us run {command[0]}")
        return root

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self._folder / "mounted")], check=True)
