"""The carrier: each item exactly once or the error that ended it all, whatever is killed, full, changed or gone."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.errors import MetadataUnsupported, MoverError, Stopping, TierFull, TierUnavailable, WorkerLost, ZoneCrossing
from mover.model.moving import Item, Keep, Options, Outcome
from mover.tiers.object import ObjectAttempt
from mover.tiers.posix import TEMPORARY, PosixTier, fingerprint_of
from mover.tiers.wrappers import Fault, FaultyTier, RetryTier
from mover.transfer import Transfer, carrier, group, workers
from mover.transfer.carrier import Carrier
from mover.transfer.group import Job, Report
from tests.support.carrying import carried, files, items, numbered, planned, plant, posix_tier, rests
from tests.support.seaweed import object_tier
from tests.tiers.test_posix_tier import ROOT_ONLY
from tests.transfer.test_engine import loop_mount

MIXED = {
    "a/empty": 0,
    "a/one": 1,
    "a/block": 4096,
    "a/deep/er/more": 4097,
    "b/medium": 100_000,
    "b/big": 2_000_000,
    "top": 12,
}


@pytest.fixture
def source(tmp_path: Path) -> PosixTier:
    return posix_tier(tmp_path / "source", "archive")


@pytest.fixture
def target(tmp_path: Path) -> PosixTier:
    return posix_tier(tmp_path / "target", "flash")


@pytest.fixture
def serial() -> Iterator[Carrier]:
    """In this process, so that tests can reach in."""
    made = Carrier(Transfer(), processes=0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def working() -> Iterator[Carrier]:
    made = Carrier(Transfer(), processes=2)
    yield made
    made.close()


# --- what arrives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("readback", [True, False])
@pytest.mark.parametrize("again", [False, True], ids=["into nothing", "into folders that stand"])
@pytest.mark.parametrize("few", [0, 16], ids=["one sync", "each synced"])
def test_a_tree_arrives_whole_and_every_outcome_tells_the_truth(
    source: PosixTier,
    target: PosixTier,
    serial: Carrier,
    monkeypatch: pytest.MonkeyPatch,
    readback: bool,
    again: bool,
    few: int,
) -> None:
    """Digest, size and fingerprint go into the catalog: what they say must be what stands there."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    made = plant(source.root, MIXED)
    if again:
        for key in made:
            (target.root / "out" / key).parent.mkdir(parents=True, exist_ok=True)
    wanted = items(source, made)
    found = carried(serial, source, target, wanted, Options(readback=readback))
    assert {key.removeprefix("out/"): data for key, data in files(target.root).items()} == made
    for one in wanted:
        outcome, data = found[one.id], made[one.source]
        assert (outcome.state, outcome.verified) == ("moved", readback)
        assert (outcome.blake3, outcome.size_bytes) == (blake3(data).hexdigest(), len(data))
        assert outcome.written == fingerprint_of(os.lstat(target.root / one.target))
        assert outcome.written.mtime_ns == one.fingerprint.mtime_ns
    assert not rests(target.root)


@pytest.mark.slow
def test_worker_processes_carry_what_threads_do(source: PosixTier, target: PosixTier, working: Carrier) -> None:
    """Small and large beside each other; the bytes and the count decide."""
    made = plant(source.root, {**dict.fromkeys(numbered(600), 300), "large": 9 << 20, "sub/large": 9 << 20})
    found = carried(working, RetryTier(source, sleep=lambda _: None), target, items(source, made))  # type: ignore[arg-type]
    assert {one.state for one in found.values()} == {"moved"} and len(found) == len(made)
    assert {key.removeprefix("out/"): data for key, data in files(target.root).items()} == made
    again = carried(working, source, target, items(source, made))
    assert {(one.state, one.verified) for one in again.values()} == {("present", True)}
    assert [again[n].written for n in sorted(again)] == [found[n].written for n in sorted(found)]


@pytest.mark.parametrize("few", [0, 16], ids=["one sync", "each synced"])
def test_names_that_are_taken_are_compared_never_replaced(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """D13: equal bytes are somebody's earlier work, other bytes are somebody's data."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    made = plant(source.root, {"same": 500, "other": 500, "longer": 500, "large": 9 << 20, "folder": 10})
    for key, data in {"same": made["same"], "other": bytes(500), "longer": bytes(501), "large": bytes(9 << 20)}.items():
        (target.root / "out").mkdir(exist_ok=True)
        (target.root / "out" / key).write_bytes(data)
    (target.root / "out" / "folder").mkdir()
    before = files(target.root)
    found = carried(serial, source, target, items(source, made))
    assert [(found[n].state, found[n].code) for n in range(5)] == [
        ("present", ""), ("failed", "entry-exists"), ("failed", "entry-exists"), ("failed", "entry-exists"),
        ("failed", "entry-exists"),
    ]  # fmt: skip
    assert files(target.root) == before and not rests(target.root)


def test_what_is_no_longer_what_was_planned_is_said_by_name(
    source: PosixTier, target: PosixTier, serial: Carrier
) -> None:
    """Case 25, I7: a vanished, changed or replaced entry is never a success, and never stops the others."""
    keys = ["stays", "vanishes", "grows", "touched", "replaced", "pipe", "becomes a link"]
    plant(source.root, dict.fromkeys(keys, 100))
    wanted = items(source, keys)
    (source.root / "vanishes").unlink()
    (source.root / "grows").write_bytes(bytes(101))
    os.utime(source.root / "touched")
    plant(source.root, {"new": 100})
    os.rename(source.root / "new", source.root / "replaced")
    (source.root / "pipe").unlink()
    os.mkfifo(source.root / "pipe")
    (source.root / "becomes a link").unlink()
    (source.root / "becomes a link").symlink_to("stays")
    found = carried(serial, source, target, wanted)
    assert {one.source: (found[one.id].state, found[one.id].code) for one in wanted} == {
        "stays": ("moved", ""),
        "vanishes": ("failed", "entry-missing"),
        "grows": ("failed", "changed-since-plan"),
        "touched": ("failed", "changed-since-plan"),
        "replaced": ("failed", "changed-since-plan"),
        "pipe": ("failed", "entry-refused"),
        "becomes a link": ("failed", "entry-refused"),
    }
    assert list(files(target.root)) == ["out/stays"]


@pytest.mark.parametrize("size", [200, 9 << 20], ids=["small", "large"])
@pytest.mark.parametrize("times", [1, 9])
def test_a_file_that_changes_while_it_is_read_is_read_again_and_then_reported(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, size: int, times: int
) -> None:
    """A writer that ends soon costs a second reading; one that does not is named."""
    made = plant(source.root, {"file": size})
    wanted = items(source, made)
    honest, left = os.fstat, [times]

    def changing(descriptor: int) -> os.stat_result:
        here = os.readlink(f"/proc/self/fd/{descriptor}")
        if here == str(source.root / "file") and left[0] and changing.armed:  # type: ignore[attr-defined]
            left[0] -= 1
            with open(source.root / "file", "r+b") as file:
                file.write(bytes([left[0]]))
            os.utime(source.root / "file", ns=(1, 10**18 + left[0]))
        return honest(descriptor)

    changing.armed = size < 1 << 20  # type: ignore[attr-defined]
    if size > 1 << 20:  # the engine asks more often: change when it copies
        honest_run = Transfer.run_recipe

        def run(self: Transfer, *args: object, **named: object) -> object:
            changing.armed = True  # type: ignore[attr-defined]
            return honest_run(self, *args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Transfer, "run_recipe", run)
    monkeypatch.setattr(os, "fstat", changing)
    found = carried(serial, source, target, wanted)[0]
    monkeypatch.undo()
    if times == 1:
        now = (source.root / "file").read_bytes()
        assert (found.state, found.blake3) == ("moved", blake3(now).hexdigest())
        assert files(target.root) == {"out/file": now}
    else:
        assert (found.state, found.code, found.retry) == ("failed", "changed-while-reading", True)
        assert not files(target.root)


def test_a_source_that_does_not_hold_the_announced_bytes_is_not_moved(
    source: PosixTier, target: PosixTier, serial: Carrier
) -> None:
    """A digest known beforehand is a promise of somebody: the sealed manifest, the catalog."""
    made = plant(source.root, {"right": 100, "wrong": 100})
    digest = blake3(made["right"]).hexdigest()
    wanted = [Item(*_fields(one)[:5], digest) for one in items(source, made)]
    found = carried(serial, source, target, wanted)
    assert (found[0].state, found[1].state, found[1].code) == ("moved", "failed", "digest-mismatch")
    assert list(files(target.root)) == ["out/right"]


def _fields(one: Item) -> tuple[object, ...]:
    return tuple(getattr(one, name) for name in one.__struct_fields__)


NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: not {b"/"[0], 0} & set(name) and name not in (b".", b"..") and not name.startswith(TEMPORARY)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(NAMES, min_size=1, max_size=8), folder=NAMES)
@pytest.mark.slow
def test_names_of_any_bytes_are_carried(
    source: PosixTier, target: PosixTier, serial: Carrier, names: set[bytes], folder: bytes
) -> None:
    """Scanners of the nineties write Latin-1, and worse."""
    number = len(os.listdir(source.root))  # each example has a folder of its own
    place = os.fsencode(source.root) + b"/%x/" % number + folder
    os.makedirs(place)
    keys = []
    for name in sorted(names):
        with open(place + b"/" + name, "wb") as file:
            file.write(name)
        keys.append(os.fsdecode(b"%x/" % number + folder + b"/" + name))
    found = carried(serial, source, target, items(source, keys))
    assert {one.state for one in found.values()} == {"moved"}
    there = os.fsencode(target.root) + b"/out/%x/" % number + folder
    assert set(os.listdir(there)) == names
    assert all(open(there + b"/" + name, "rb").read() == name for name in names)  # noqa: SIM115


@pytest.mark.slow
def test_names_of_any_bytes_reach_the_workers(source: PosixTier, target: PosixTier, working: Carrier) -> None:
    """They have no text that a wire format takes."""
    name = b"\xff\xfe caf\xe9 \n\t"
    with open(os.fsencode(source.root) + b"/" + name, "wb") as file:
        file.write(b"x")
    assert carried(working, source, target, items(source, [os.fsdecode(name)]))[0].state == "moved"
    assert os.listdir(os.fsencode(target.root) + b"/out") == [name]


@pytest.mark.parametrize(
    "key",
    ["../out", "/out", "a//b", "a/../../b", "", ".", "a/.", "nul\0", ".mover-tmp-mine", "n" * 256, "a/" * 2000 + "b"],
    ids=lambda key: repr(key[:20]),
)
def test_keys_that_lead_out_are_refused_one_by_one(
    source: PosixTier, target: PosixTier, serial: Carrier, key: str
) -> None:
    """A list from outside names what to move and where to."""
    made = plant(source.root, {"good": 10})
    good = items(source, made)[0]
    bad = [Item(1, "good", key, "file", good.fingerprint)]
    if not key.startswith(".mover"):
        bad.append(Item(2, key, "fine", "file", good.fingerprint))
    found = carried(serial, source, target, [good, *bad])
    assert found[0].state == "moved"
    assert {found[one.id].code for one in bad} == {"request-invalid"}
    assert list(files(target.root)) == ["out/good"] and not rests(target.root)


def test_links_on_the_way_are_never_followed(source: PosixTier, target: PosixTier, serial: Carrier) -> None:
    """On neither side: a planted link must not lead to another patient, nor out of the target."""
    made = plant(source.root, {"real/file": 10})
    (source.root / "link").symlink_to("real")
    (target.root / "elsewhere").mkdir()
    (target.root / "out").symlink_to("elsewhere")
    good = items(source, made)[0]
    crossing = [("link/file", "in"), ("real/file", "out/in")]
    found = carried(
        serial,
        source,
        target,
        [Item(n, *keys, "file", good.fingerprint) for n, keys in enumerate(crossing)],
    )
    assert {one.state for one in found.values()} == {"failed"}
    assert {one.code for one in found.values()} <= {"tier-denied", "entry-missing"}
    assert not files(target.root)


# --- folders that are published whole ---------------------------------------------------------------------


def test_a_link_that_could_not_be_dressed_is_not_published_with_its_folder(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome says failed; under its final name it would stand there all the same, and be taken for done."""
    made = plant(source.root, dict.fromkeys(numbered(20, folder="new"), 10))
    wanted = items(source, made)
    (source.root / "new/0/link").symlink_to("00000")
    seen = fingerprint_of(os.lstat(source.root / "new/0/link"))
    link = Item(99, "new/0/link", "out/new/0/link", "symlink", seen)

    def refused(*_: object, **__: object) -> None:
        raise MetadataUnsupported("its owner cannot be set")

    monkeypatch.setattr(group.metadata, "dress_link", refused)
    found = carried(serial, source, target, [*wanted, link], Options(keep=Keep(symlinks="copy")))
    assert found.pop(99).code == "metadata-unsupported"
    assert {one.state for one in found.values()} == {"moved"} and len(files(target.root)) == len(made)
    assert not os.path.lexists(target.root / "out/new/0/link") and not rests(target.root)


def test_what_failed_and_cannot_be_removed_keeps_its_whole_folder_from_being_published(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full file system that copies on write may refuse even to remove: then nothing of the folder gets its name."""
    made = plant(source.root, dict.fromkeys(numbered(20, folder="new"), 10))
    real_write, real_unlink = os.write, os.unlink
    failed: list[int] = []

    def write(descriptor: int, data: bytes) -> int:
        if not failed and TEMPORARY.decode() in os.readlink(f"/proc/self/fd/{descriptor}"):
            failed.append(descriptor)
            raise OSError(errno.EIO, "scripted")
        return real_write(descriptor, data)

    def unlink(name: bytes, *, dir_fd: int | None = None) -> None:
        if failed and not kept:
            kept.append(name)
            raise OSError(errno.EIO, "scripted")
        real_unlink(name, dir_fd=dir_fd)

    kept: list[bytes] = []
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(MoverError):
        carried(serial, source, target, items(source, made))
    assert kept and not files(target.root)


# --- zones and tiers ------------------------------------------------------------------------------------


def test_plain_items_never_leave_the_identified_zone(tmp_path: Path, target: PosixTier, serial: Carrier) -> None:
    """D4, before the first item is looked at."""
    intake = posix_tier(tmp_path / "intake", "intake", "identified")

    def never() -> Iterator[Item]:
        raise AssertionError("no item may be asked for")
        yield

    with pytest.raises(ZoneCrossing):
        serial.carry(never(), source=intake, target=target)


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_tier_that_goes_away_in_mid_work_ends_the_carry(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """D11, I7: an unmounted source shows an empty folder; that is no list of missing entries."""
    made = plant(source.root, dict.fromkeys(numbered(40), 50))
    wanted = items(source, made)
    root = {"source": source, "target": target}[which].root
    honest = group._Group._sync_data

    def leaving(self: object) -> None:
        root.rename(root.with_name("unmounted"))
        root.mkdir()
        honest(self)  # type: ignore[arg-type]

    monkeypatch.setattr(group._Group, "_sync_data", leaving)
    found: list[Outcome] = []
    with pytest.raises(TierUnavailable):
        for outcomes in serial.carry(wanted, source=source, target=target):
            found += outcomes
    assert {one.state for one in found} <= {"moved"}
    if which == "target":
        assert not found


@pytest.mark.slow
@ROOT_ONLY
def test_a_full_disk_ends_the_carry_and_loses_nothing(
    tmp_path: Path, source: PosixTier, serial: Carrier
) -> None:
    """What was reported stands there, what was not is carried by the next run, nothing half stands anywhere."""
    made = plant(source.root, dict.fromkeys(numbered(90), 500_000))
    with loop_mount(tmp_path, "ext4") as root:
        disk = posix_tier(root / "disk", "disk")
        ballast = root / "ballast"
        ballast.write_bytes(bytes(4 << 20))
        wanted, found = items(source, made), {}
        with pytest.raises(TierFull):
            for outcomes in serial.carry(wanted, source=source, target=disk):
                found.update((one.id, one) for one in outcomes)
        stands = {key.removeprefix("out/"): data for key, data in files(disk.root).items()}
        assert stands and all(made[key] == data for key, data in stands.items())
        assert {wanted[id_].source for id_, one in found.items() if one.state == "moved"} == set(stands)
        assert not rests(disk.root)
        ballast.unlink()
        rest = [one for one in wanted if one.source not in stands][:3]
        room = [one for one in wanted if one.source in stands] + rest
        assert [one.state for _, one in sorted(carried(serial, source, disk, rest).items())] == ["moved"] * 3
        assert {one.state for one in carried(serial, source, disk, room).values()} == {"present"}


@pytest.mark.slow
@ROOT_ONLY
@pytest.mark.parametrize("key", ["out/new/2", "stands/2"], ids=["in a new folder", "in one that stands"])
def test_a_byte_that_turns_on_the_device_is_found_before_it_gets_a_name(
    tmp_path: Path, source: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """The page cache still holds the right byte: only a cold re-read sees it."""
    made = plant(source.root, {str(number): 9000 for number in range(20)})
    with loop_mount(tmp_path, "ext4") as root:
        disk = posix_tier(root / "disk", "disk")
        (disk.root / "stands").mkdir()
        honest = group._Group._sync_data

        def turning(self: object) -> None:
            honest(self)  # type: ignore[arg-type]
            image = tmp_path / "image"
            at = image.read_bytes().find(made["2"][4096:8192])
            assert at > 0
            with open(image, "r+b") as device:
                device.seek(at + 100)
                device.write(bytes([made["2"][4196] ^ 1]))

        monkeypatch.setattr(group._Group, "_sync_data", turning)
        folder = key.rpartition("/")[0]
        found = carried(serial, source, disk, items(source, made, to=folder + "/"))
        assert [id_ for id_, one in found.items() if one.state != "moved"] == [2]
        assert (found[2].code, found[2].blake3) == ("digest-mismatch", "")
        assert sorted(os.listdir(disk.root / folder)) == sorted(set(made) - {"2"}) and not rests(disk.root)


def test_a_failed_sync_is_never_repeated_but_written_again_from_the_source(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel forgets what it could not write and calls the next sync a success (R5)."""
    made = plant(source.root, dict.fromkeys(numbered(40), 50))
    synced = []

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(honest, name)

        def syncfs(self, descriptor: int) -> int:
            synced.append(descriptor)
            return -1

    honest, honest_fsync = group._LIBC, os.fsync
    monkeypatch.setattr(group, "_LIBC", Failing())

    def failing_once(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("-5"):
            raise OSError(5, "no")
        honest_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing_once)
    found = carried(serial, source, target, items(source, made))
    assert len(synced) == 1
    assert [(id_, one.code) for id_, one in found.items() if one.state != "moved"] == [(5, "tier")]
    assert len(files(target.root)) == 39 and not rests(target.root)


def test_a_folder_that_appears_meanwhile_is_filled_never_replaced(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers begin the same new folder: what it lacks goes in whole, the rest name by name."""
    keys = ["a/1", "a/2", "a/3", "a/b/4", "a/b/c/5", "a/d/e/6", "a/d/e/f/7", *(f"a/fill/{n}" for n in range(20))]
    made = plant(source.root, dict.fromkeys(keys, 50))
    honest = group.Layout.publish

    def late(self: group.Layout) -> object:
        (target.root / "out" / "a" / "b").mkdir(parents=True)
        (target.root / "out" / "a" / "2").write_bytes(made["a/2"])
        (target.root / "out" / "a" / "3").write_bytes(b"other")
        return honest(self)

    monkeypatch.setattr(group.Layout, "publish", late)
    found = carried(serial, source, target, items(source, made))
    states = {key: (found[n].state, found[n].code) for n, key in enumerate(keys)}
    assert states.pop("a/2") == ("present", "") and states.pop("a/3") == ("failed", "entry-exists")
    assert set(states.values()) == {("moved", "")}
    assert files(target.root) == {f"out/{key}": data for key, data in made.items()} | {"out/a/3": b"other"}
    assert not rests(target.root)
    for n, key in enumerate(keys):
        if found[n].state != "failed":
            assert found[n].written == fingerprint_of(os.lstat(target.root / "out" / key))


def test_faulty_tiers_stay_in_the_way(source: PosixTier, target: PosixTier, serial: Carrier) -> None:
    """A wrapper that changes what happens is never bypassed by the way of the workers."""
    made = plant(source.root, {"one": 100, "two": 100})
    faulty = FaultyTier(target, [Fault("stream_cold", "flip", at=3)])
    found = {}
    for outcomes in serial.carry(items(source, made), source=source, target=faulty):
        found.update((one.id, (one.state, one.code)) for one in outcomes)
    assert sorted(found.values()) == [("failed", "digest-mismatch"), ("moved", "")]
    assert len(files(target.root)) == 1 and not rests(target.root)


# --- stopping, leaving, memory --------------------------------------------------------------------------


def test_a_carry_that_is_stopped_reports_what_is_durable_and_can_be_run_again(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pause and abort: nothing is reported that does not stand, the next run carries the rest."""
    made = plant(source.root, dict.fromkeys(numbered(200), 20))
    monkeypatch.setattr(carrier.decide, "DEFAULT", carrier.decide.Bounds(files=64))
    wanted, asked = items(source, made), [0]

    def stopped() -> bool:
        asked[0] += 1
        return asked[0] > 6

    found: dict[int, Outcome] = {}
    for outcomes in serial.carry(wanted, source=source, target=target, stopped=stopped):
        found.update((one.id, one) for one in outcomes)
    assert len(found) < 200 and {one.state for one in found.values()} <= {"moved"}
    assert {wanted[n].target for n in found} == set(files(target.root)) and not rests(target.root)
    rest = carried(serial, source, target, wanted)
    assert {n for n, one in rest.items() if one.state == "present"} == set(found)
    assert len(files(target.root)) == 200


def test_the_stream_is_read_only_as_far_as_there_is_room(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million items must not stand in memory because the catalog is slow to take the outcomes."""
    made = plant(source.root, dict.fromkeys(numbered(300), 5))
    monkeypatch.setattr(carrier.decide, "DEFAULT", carrier.decide.Bounds(files=10))
    read = [0]

    def counted() -> Iterator[Item]:
        for one in items(source, made):
            read[0] += 1
            yield one

    coming = serial.carry(counted(), source=source, target=target)
    next(coming)
    assert read[0] <= 10 * (carrier.GROUPS_AHEAD + 2)
    coming.close()  # type: ignore[attr-defined]
    assert read[0] <= 10 * (carrier.GROUPS_AHEAD + 2) and not rests(target.root)


def test_an_error_of_the_stream_itself_comes_through(source: PosixTier, target: PosixTier, serial: Carrier) -> None:
    """The stream is a cursor of the catalog's, which can break."""
    made = plant(source.root, {"one": 5})

    def broken() -> Iterator[Item]:
        yield from items(source, made)
        raise RuntimeError("the cursor broke")

    with pytest.raises(RuntimeError, match="cursor"):
        list(serial.carry(broken(), source=source, target=target))
    assert not rests(target.root)


# --- killed ---------------------------------------------------------------------------------------------

CARRYING = """
import os, sys, time
from pathlib import Path
from mover.transfer import Transfer
from mover.transfer.carrier import Carrier
from mover.decide import groups
from tests.support.carrying import posix_tier, items, numbered
root, count = Path(sys.argv[1]), int(sys.argv[2])
groups.DEFAULT = groups.Bounds(files=100)
source, target = posix_tier(root / "source", "archive"), posix_tier(root / "target", "flash")
carrier = Carrier(Transfer(), processes=2)
if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    for outcomes in carrier.carry(items(source, numbered(count)), source=source, target=target):
        for one in outcomes:
            print(one.id, one.state, one.blake3, flush=True)
"""


def children(pid: int) -> list[int]:
    tasks = os.listdir(f"/proc/{pid}/task")
    return [int(child) for task in tasks for child in _words(f"/proc/{pid}/task/{task}/children")]


def _words(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []


@pytest.mark.slow
# the first waits for reports, the second for a temporary file
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 3, 4))])
def test_kill_9_at_any_point_leaves_whole_files_and_no_worker(tmp_path: Path, seed: int) -> None:
    """R3: what was reported stands there; what stands under a final name is whole; the next run ends the work."""
    source, target = posix_tier(tmp_path / "source", "archive"), posix_tier(tmp_path / "target", "flash")
    made = plant(source.root, dict.fromkeys(numbered(1500), 3000))
    process = subprocess.Popen(
        [sys.executable, "-c", CARRYING, str(tmp_path), "1500"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
    process.stdin.write(b"go\n")
    process.stdin.flush()
    chance = random.Random(seed)
    wait_for = chance.choice(["temporary", "report", "report"])
    reported = []
    if wait_for == "report":
        reported += [process.stdout.readline() for _ in range(chance.randint(1, 900))]
    else:
        while not rests(target.root) and process.poll() is None:
            pass
    workers_then = children(process.pid)
    process.send_signal(signal.SIGKILL)
    reported += process.stdout.read().splitlines()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert workers_then
    for pid in workers_then:
        _gone(pid)
    for line in reported:
        words = line.decode().split()
        if len(words) == 3:  # the last line may be cut
            key = f"many/{int(words[0]) % 7}/{int(words[0]):05}"
            assert words[1] == "moved" and (target.root / "out" / key).read_bytes() == made[key]
    for entry in target.list():
        assert target.read(entry.key) == made[entry.key.removeprefix("out/")]
    again = Carrier(Transfer(), processes=0)
    found = carried(again, source, target, items(source, made))
    again.close()
    assert {one.state for one in found.values()} <= {"moved", "present"} and len(found) == len(made)
    assert {key.removeprefix("out/"): data for key, data in _visible(target).items()} == made
    target.sweep_temporaries(older_than_s=-60, now_s=max(path.lstat().st_ctime for path in target.root.rglob("*")))
    assert not rests(target.root)


def _visible(tier: PosixTier) -> dict[str, bytes]:
    return {entry.key: tier.read(entry.key) for entry in tier.list()}


def _gone(pid: int) -> None:
    """Within its two ways of noticing, on a busy machine; a zombie of an adopting process counts as gone."""
    waiting = threading.Event()
    for _ in range(2000):
        state = _words(f"/proc/{pid}/stat")
        if not state or state[2] == "Z":
            return
        waiting.wait(0.05)
    raise AssertionError("a worker outlived its parent")


@pytest.mark.slow
def test_a_killed_worker_costs_a_repetition_and_nothing_else(
    source: PosixTier, target: PosixTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills the largest process when memory ends: its group is carried by another."""
    made = plant(source.root, dict.fromkeys(numbered(900), 2000))
    monkeypatch.setattr(carrier.decide, "DEFAULT", carrier.decide.Bounds(files=300))
    honest, killed = workers._Worker._await, []

    def killing(self: workers._Worker, *args: object) -> None:
        if len(killed) < 2:
            while not rests(target.root) and self._process.poll() is None:
                pass
            killed.append(self._process.pid)
            self._process.kill()
        honest(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(workers._Worker, "_await", killing)
    made_carrier = Carrier(Transfer(), processes=1)
    try:
        found = carried(made_carrier, source, target, items(source, made))
    finally:
        made_carrier.close()
    assert len(killed) == 2 and len(found) == len(made)
    assert {one.state for one in found.values()} <= {"moved", "present"}
    assert {key.removeprefix("out/"): data for key, data in _visible(target).items()} == made


def test_an_entry_that_ends_every_worker_is_found_and_named(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In halves, so that its neighbours pay little."""
    made = plant(source.root, dict.fromkeys(numbered(50), 20))
    jobs = []

    class Fragile:
        def run(self, job: Job, **_: object) -> Report:
            jobs.append(len(job.items))
            if any(one.id == 31 for one in job.items):
                raise WorkerLost("gone")
            return group.run_group(job)

        def close(self) -> None:
            pass

    monkeypatch.setattr(serial, "workers", Fragile())
    found = carried(serial, source, target, items(source, made))
    lost = [(n, one.code, one.retry) for n, one in found.items() if one.state == "failed"]
    assert lost == [(31, "worker-lost", True)]
    assert len(found) == 50 and len(jobs) < 16


@pytest.mark.slow
def test_workers_import_little() -> None:
    """Each of them is memory that no file needs."""
    code = "import sys, mover.transfer.workers; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"aiohttp", "psycopg", "obstore", "procrastinate", "numpy", "structlog", "prometheus_client"}


# --- object tiers ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_go_to_a_bucket_and_back(
    source: PosixTier, target: PosixTier, working: Carrier, request: pytest.FixtureRequest
) -> None:
    """Small ones whole, large ones by the engine; a second run finds them; other bytes are never replaced."""
    bucket = object_tier(request.getfixturevalue("weed"))
    sizes = {"s/one": 1, "s/empty": 0, "s/some": 70_000, "s/large": 3 << 20, "s/taken": 50}
    made = plant(source.root, {**sizes, **dict.fromkeys(numbered(40), 700)})
    bucket.put("out/s/taken", [b"other bytes"])
    wanted = items(source, made)
    up = carried(working, source, bucket, wanted)  # type: ignore[arg-type]
    assert {n: (one.state, one.code) for n, one in up.items()} == {
        n: (("failed", "entry-exists") if one.source == "s/taken" else ("moved", "")) for n, one in enumerate(wanted)
    }
    again = carried(working, source, bucket, wanted)  # type: ignore[arg-type]
    assert {one.state for n, one in again.items() if wanted[n].source != "s/taken"} <= {"moved", "present"}
    keys = [one.key for one in bucket.list("out") if not one.key.endswith("taken")]
    back = [Item(n, key, f"back/{key}", "file", bucket.stat(key).fingerprint) for n, key in enumerate(keys)]
    gone = Item(len(back), "out/never", "back/never", "file", back[0].fingerprint)
    other = Item(len(back) + 1, back[0].source, "back/other", "file", planned(back[0].fingerprint.size_bytes))
    found = carried(working, bucket, target, [*back, gone, other])  # type: ignore[arg-type]
    assert (found.pop(gone.id).code, found.pop(other.id).code) == ("entry-missing", "changed-since-plan")
    assert {(one.state, one.verified) for one in found.values()} == {("moved", True)}
    for one in back:
        assert found[one.id].written == fingerprint_of(os.lstat(target.root / one.target))
        assert found[one.id].written.mtime_ns == one.fingerprint.mtime_ns  # type: ignore[union-attr]
    assert {key.removeprefix("back/out/"): data for key, data in files(target.root).items()} == {
        key: data for key, data in made.items() if key != "s/taken"
    }


@pytest.mark.slow
@pytest.mark.parametrize("size", [70_000, 3 << 20, 40 << 20], ids=["in memory", "streamed", "in parts"])
def test_a_worker_that_lost_its_lease_leaves_the_object_that_the_next_one_vouched_for(
    source: PosixTier, serial: Carrier, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """I1: it put the object, was paused, and another worker found it whole; woken and stopped, it must not
    take back what a row counts on by now."""
    bucket = object_tier(request.getfixturevalue("weed"))
    [data] = plant(source.root, {"one": size}).values()
    wanted, found, real = items(source, ["one"]), {}, ObjectAttempt.stream_cold

    def stream_cold(attempt: ObjectAttempt) -> Iterator[bytes | memoryview]:
        monkeypatch.setattr(ObjectAttempt, "stream_cold", real)
        found.update(carried(serial, source, bucket, wanted))  # type: ignore[arg-type]
        raise Stopping("the lease is another's")

    monkeypatch.setattr(ObjectAttempt, "stream_cold", stream_cold)
    assert carried(serial, source, bucket, wanted) == {}  # type: ignore[arg-type]
    assert found[0].state in ("moved", "present") and bucket.read("out/one") == data


def test_a_name_found_standing_is_made_durable(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D14: whoever published it may have been killed before the folder was synced; now its source may leave."""
    made = plant(source.root, {"deep/large": 9 << 20})
    plant(target.root, {"out/deep/large": 1})
    (target.root / "out/deep/large").write_bytes(made["deep/large"])
    synced, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert carried(serial, source, target, items(source, made))[0].state == "present"
    assert str(target.root / "out/deep") in synced


@pytest.mark.slow
def test_what_an_object_cannot_hold_is_said(
    source: PosixTier, working: Carrier, request: pytest.FixtureRequest
) -> None:
    """A policy that keeps owners must not lose them in silence."""
    bucket = object_tier(request.getfixturevalue("weed"))
    plant(source.root, {"file": 10, "folder/x": 1})
    (source.root / "link").symlink_to("file")
    wanted = items(source, ["file", "link", "folder"])
    options = Options(keep=Keep(owner=True, symlinks="copy"))
    found = {}
    for outcomes in working.carry(wanted, source=source, target=bucket, options=options):
        found.update((one.id, (one.state, one.code)) for one in outcomes)
    assert found == {
        0: ("failed", "metadata-unsupported"), 1: ("failed", "metadata-unsupported"), 2: ("skipped", "folders"),
    }  # fmt: skip


def test_an_entry_s_own_trouble_is_not_the_tier_s(source: PosixTier, target: PosixTier, serial: Carrier) -> None:
    """One answer of 503 for one object does not end a million others: the tier itself is asked."""
    made = plant(source.root, {"one": 10, "two": 10})
    faulty = FaultyTier(target, [Fault("write", "fail")])
    found = {}
    for outcomes in serial.carry(items(source, made), source=source, target=faulty):
        found.update((one.id, (one.state, one.code, one.retry)) for one in outcomes)
    assert sorted(found.values()) == [("failed", "tier-unavailable", True), ("moved", "", False)]


def test_errors_of_a_closed_carrier_are_named(source: PosixTier, target: PosixTier) -> None:
    """A daemon that ends while a carry begins."""
    made = plant(source.root, {"one": 10})
    closed = Carrier(Transfer(), processes=0)
    closed.close()
    with pytest.raises(MoverError, match="closed"):
        carried(closed, source, target, items(source, made))
    assert planned(3).size_bytes == 3


@pytest.mark.slow
@ROOT_ONLY
def test_a_file_system_mounted_inside_the_target_is_synced_too(
    tmp_path: Path, source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sync of the root's file system says nothing about another one below it."""
    made = plant(source.root, dict.fromkeys(numbered(40), 50))
    with loop_mount(tmp_path, "ext4") as root:
        inside = target.root / "out"
        inside.mkdir()
        subprocess.run(["mount", "--bind", str(root), str(inside)], check=True)
        try:
            synced, honest = [], os.fsync

            def noted(descriptor: int) -> None:
                status = os.fstat(descriptor)
                synced.append((status.st_dev, status.st_ino))
                honest(descriptor)

            monkeypatch.setattr(os, "fsync", noted)
            found = carried(serial, source, target, items(source, made))
            assert {one.state for one in found.values()} == {"moved"}
            for path in (inside, *inside.rglob("*")):
                status = path.stat()
                if path.name != "lost+found":
                    assert (status.st_dev, status.st_ino) in synced
        finally:
            subprocess.run(["umount", str(inside)], check=True)
