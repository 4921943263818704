"""Scans of changes on a real ext4 with the kernel's own events: they find what a full scan finds, or are refused."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mover.catalog.database import Database
from mover.clock import monotonic_s, pause
from mover.deid.vault import Vault
from mover.errors import CatalogUnavailable, ChangesUnknown, Conflict, RequestInvalid, TierUnavailable
from mover.model import wire
from mover.walk.changes import ChangesLedger, Pointed
from mover.walk.watcher import TierWatch, Watcher
from tests.rooms.rig import PROJECT
from tests.support.postgres import Dsns
from tests.walk.test_scans import Ward, drift, plant

IMAGE_BYTES = 64 << 20


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own. Skips visibly where this user may not mount or watch one."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounting and watching a file system takes root and mkfs.ext4")
    folder = tmp_path_factory.mktemp("watched")
    image, point = folder / "image", folder / "mount"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-N", "40000", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=False, capture_output=True).returncode:
        pytest.skip("loop mounts are refused here")
    try:
        TierWatch("flash", point).close()
    except TierUnavailable as error:
        subprocess.run(["umount", str(point)], check=True)
        pytest.skip(f"fanotify: {error.what}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
async def ward(
    ext4: Path, dsns: Dsns, database: Database, vault: Vault, tier_rows: None, tmp_path: Path
) -> AsyncIterator[Ward]:
    folder = ext4 / tmp_path.name
    folder.mkdir()
    yield Ward(folder, dsns, database, vault)
    shutil.rmtree(folder)


@contextmanager
def watching(ward: Ward) -> Iterator[None]:
    """Ends without a word, as a kill does."""
    watcher = Watcher(ward.dsns.daemon, {"flash": ward.flash})
    ended = threading.Event()
    watcher.turn()
    thread = threading.Thread(target=lambda: watcher.run(stopped=ended.is_set))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        watcher.close()


def left(ward: Ward) -> list[bytes]:
    return sorted(bytes(row.folder) for row in ward.rows("select folder from mover.folder_hint"))


def wait_for_word(ward: Ward) -> None:
    """Until the watcher has handed over all that happened before."""
    until = ward.rows("select clock_timestamp() as now")[0].now
    deadline_s = monotonic_s() + 180
    while ward.rows("select tier from mover.folder_watch where project_id = %s and heard_at < %s", PROJECT, until):
        assert monotonic_s() < deadline_s
        pause(0.05)


async def assert_truth(ward: Ward) -> None:
    """A full scan right afterwards finds nothing that was not known."""
    scan = await ward.scan()
    assert (scan.state, drift(scan)[1:]) == ("complete", (0, 0, 0))


# --- what is read ------------------------------------------------------------------------------------------


def test_a_hint_below_a_moved_folder_is_read_with_it_and_once() -> None:
    pointed = Pointed([(b"a", True), (b"a/b", False), (b"a/b/c", True), (b"x", False), (b"", False)])
    assert set(pointed.first) == {b"a", b"x", b""}
    assert pointed.enters_all(b"a/b") and pointed.enters_all(b"new") and not pointed.enters_all(b"x")
    assert pointed.covers(b"top") and pointed.covers(b"a/deep/down/file") and not pointed.covers(b"x/y/file")


@pytest.mark.slow
async def test_only_changed_folders_are_read_and_what_came_of_them_is_merged(ward: Ward) -> None:
    plant(ward.flash, *(f"d{n}/f{m}" for n in range(20) for m in range(3)), "old/sub/x", "old/y", "gone/deep/z", "top")
    with watching(ward):
        await ward.scan()
        ward.verify("d3/f0", "gone/deep/z")
        plant(ward.flash, "d1/new", b"d2/caf\xe9\n/\xff", "fresh/a/b/c", "top2")
        (ward.flash / "d3" / "f0").write_text("another size")
        os.chmod(ward.flash / "d4" / "f1", 0o600)
        os.rename(ward.flash / "old", ward.flash / "d5" / "moved")
        shutil.rmtree(ward.flash / "gone")
        (ward.flash / "d6" / "f2").unlink()
        scan = await ward.scan(changes_only=True)
        assert (scan.method, scan.state) == ("changes", "caught-up")
        assert scan.drift.new == 6 and scan.drift.changed == 2 and scan.drift.gone == 4
        assert (scan.drift.changed_verified, scan.drift.gone_verified) == (1, 1)
        assert scan.folders < 20 and left(ward) == []
        await assert_truth(ward)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 3))])
async def test_after_any_edits_a_scan_of_changes_leaves_a_full_one_nothing_to_find(ward: Ward, seed: int) -> None:
    chance = random.Random(seed)
    plant(ward.flash, *(f"d{n % 7}/e{n % 3}/f{n}" for n in range(60)))
    with watching(ward):
        await ward.scan()
        for _ in range(3):
            edit(ward.flash, chance, edits=40)
            scan = await ward.scan(changes_only=True)
            assert scan.state == "caught-up", scan
        await assert_truth(ward)


def edit(root: Path, chance: random.Random, *, edits: int) -> None:
    """Files and folders made, written, moved, exchanged and removed, under any bytes."""
    for number in range(edits):
        folders = [b""] + [os.path.join(at, b"") for at, _, _ in os.walk(os.fsencode(root)) if b"/.mover" not in at][1:]
        at = chance.choice(folders) or os.fsencode(root) + b"/"
        name = b"%d-" % number + bytes(chance.choice(b"ab\n\xff\x80 .") for _ in range(3))
        inside = [one for one in os.listdir(at) if one != b".mover"]
        one = at + chance.choice(inside) if inside else at + name
        act = chance.choice(["make", "make", "folder", "write", "mode", "move", "move", "remove", "again"])
        if act == "make" or not inside:
            plant(root, at + name)
        elif act == "folder":
            os.makedirs(at + name + b"/x/y")
            plant(root, at + name + b"/x/y/z")
        elif act == "write" and os.path.isfile(one):
            with open(one, "ab") as file:
                file.write(b"more")
        elif act == "mode":
            os.chmod(one, 0o700 if os.path.isdir(one) else 0o640)
        elif act == "move":
            to = chance.choice(folders) or os.fsencode(root) + b"/"
            if not to.startswith(one + b"/"):
                os.rename(one, to + name)
        elif act == "remove":
            shutil.rmtree(one) if os.path.isdir(one) else os.unlink(one)
        elif act == "again" and os.path.isdir(one):  # another folder under the old name
            os.rename(one, at + name)
            plant(root, one + b"/instead")


@pytest.mark.slow
async def test_what_a_transfer_recorded_and_somebody_removed_is_gone(ward: Ward) -> None:
    """No walk has seen it, so no listing names it."""
    plant(ward.flash, "a/one", "b/two")
    with watching(ward):
        await ward.scan()
        plant(ward.flash, "a/sent")
        ward.rows(
            "insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark) "
            "values (%s, 'flash', 'a/sent', 'file', 1, 1, '1:1')", PROJECT,
        )  # fmt: skip
        (ward.flash / "a" / "sent").unlink()
        scan = await ward.scan(changes_only=True)
        assert (scan.state, scan.drift.gone) == ("caught-up", 1)


@pytest.mark.slow
async def test_a_hint_that_comes_while_its_folder_is_read_stays(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(ward.flash, "a/one", "b/two")
    with watching(ward):
        await ward.scan()
        plant(ward.flash, "a/new")
        merge = ChangesLedger.merge

        def merge_late(self: ChangesLedger, **more: Any) -> bool:
            plant(ward.flash, "a/later")
            wait_for_word(ward)
            return merge(self, **more)

        monkeypatch.setattr(ChangesLedger, "merge", merge_late)
        scan = await ward.scan(changes_only=True)
        monkeypatch.undo()
        assert (scan.state, scan.drift.new, left(ward)) == ("caught-up", 1, [b"a"])
        assert (await ward.scan(changes_only=True)).drift.new == 1
        await assert_truth(ward)


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_without_a_watcher_or_a_full_scan_there_is_nothing_to_go_on_from(ward: Ward) -> None:
    plant(ward.flash, "a")
    with pytest.raises(ChangesUnknown, match="complete scan"):
        await ward.scan(changes_only=True)
    await ward.scan()
    with pytest.raises(ChangesUnknown, match="ever watched"):
        await ward.scan(changes_only=True)
    with watching(ward), pytest.raises(ChangesUnknown, match="started"):
        await ward.scan(changes_only=True)


@pytest.mark.slow
async def test_a_watcher_that_was_killed_and_started_again_knows_nothing_before_a_full_scan(ward: Ward) -> None:
    """What changed while it was away nobody heard."""
    plant(ward.flash, "a/one")
    line = (
        "import sys; from pathlib import Path; from mover.walk.watcher import Watcher\n"
        "w = Watcher(sys.argv[1], {'flash': Path(sys.argv[2])}); w.turn(); print('on', flush=True)\n"
        "w.run(stopped=lambda: False)"
    )
    command = [sys.executable, "-c", line, ward.dsns.daemon, str(ward.flash)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - it is only started
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    await ward.scan()
    assert (await ward.scan(changes_only=True)).state == "caught-up"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    plant(ward.flash, "a/unheard")
    ward.rows("update mover.folder_watch set heard_at = now() - interval '1 min'")
    with pytest.raises(ChangesUnknown, match="not running"):
        await ward.scan(changes_only=True)
    with watching(ward):
        with pytest.raises(ChangesUnknown, match="not all heard"):
            await ward.scan(changes_only=True)
        assert drift(await ward.scan())[1] == 1
        plant(ward.flash, "a/heard")
        assert drift(await ward.scan(changes_only=True))[1] == 1


@pytest.mark.slow
async def test_events_that_overflowed_the_kernels_queue_are_a_gap(ward: Ward) -> None:
    (ward.flash / "many").mkdir()
    watcher = Watcher(ward.dsns.daemon, {"flash": ward.flash})
    try:
        watcher.turn()
        await ward.scan()
        for number in range(17_000):
            os.mknod(ward.flash / "many" / str(number))
        watcher.turn()
        with pytest.raises(ChangesUnknown, match="overflow"):
            await ward.scan(changes_only=True)
        assert left(ward) == []
    finally:
        watcher.close()


@pytest.mark.slow
async def test_a_change_of_a_file_with_several_names_is_a_gap(ward: Ward) -> None:
    """One name is in the event; the others stand in folders that nobody names."""
    plant(ward.flash, "a/one", "b/x")
    os.link(ward.flash / "a" / "one", ward.flash / "b" / "two")
    with watching(ward):
        await ward.scan()
        (ward.flash / "a" / "one").write_text("more")
        wait_for_word(ward)
        with pytest.raises(ChangesUnknown, match="hard-links"):
            await ward.scan(changes_only=True)


@pytest.mark.slow
async def test_more_hints_than_their_bound_are_a_gap(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mover.walk.hints.HINTS_MAX", 5)
    with watching(ward):
        plant(ward.flash, "x")
        await ward.scan()
        plant(ward.flash, *(f"d{n}/f" for n in range(9)))
        wait_for_word(ward)
        with pytest.raises(ChangesUnknown, match="too-many"):
            await ward.scan(changes_only=True)
        assert left(ward) == []


@pytest.mark.slow
async def test_a_tier_that_was_emptied_is_a_question_first(ward: Ward) -> None:
    plant(ward.flash, "a/one", "b/two")
    with watching(ward):
        await ward.scan()
        shutil.rmtree(ward.flash / "a")
        shutil.rmtree(ward.flash / "b")
        scan = await ward.scan(changes_only=True)
        assert (scan.state, scan.drift.gone) == ("incomplete", None)
        assert len(ward.entries()) == 2 and left(ward) != []
        scan = await ward.scan(changes_only=True, empty_ok=True)
        assert (scan.state, scan.drift.gone, ward.entries()) == ("caught-up", 2, {})


@pytest.mark.slow
async def test_identified_tiers_and_parts_of_tiers_are_not_watched(ward: Ward) -> None:
    for body in (
        wire.ScanRequest(tier="intake", changes_only=True),
        wire.ScanRequest(tier="flash", prefix="a", changes_only=True),
    ):
        with pytest.raises(RequestInvalid):
            await ward.scans.declare(PROJECT, "ann", body)


@pytest.mark.slow
async def test_a_full_scan_that_is_asked_for_is_never_answered_with_one_of_changes(ward: Ward) -> None:
    plant(ward.flash, "a")
    with watching(ward):
        await ward.scan()
        await ward.scans.declare(PROJECT, "ann", wire.ScanRequest(tier="flash", changes_only=True))
        with pytest.raises(Conflict, match="another kind"):
            await ward.scans.declare(PROJECT, "ann", wire.ScanRequest(tier="flash"))


@pytest.mark.slow
async def test_a_scan_that_broke_off_goes_on_with_the_hints_it_took(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are its own until it has merged what they meant; what changes in between stays for the next."""
    plant(ward.flash, "a/one", "b/two", "c/three")
    with watching(ward):
        await ward.scan()
        plant(ward.flash, "a/new", "fresh/deep/file")
        (ward.flash / "b" / "two").unlink()

        def broken(*_: Any, **__: Any) -> bool:
            raise CatalogUnavailable("cut")

        monkeypatch.setattr(ChangesLedger, "merge", broken)
        scan = await ward.scan(changes_only=True)
        assert scan.finished_at is None
        monkeypatch.undo()
        plant(ward.flash, "c/later")
        wait_for_word(ward)
        ward.due()
        await ward.work("tier-walk")
        scan = await ward.scans.view(PROJECT, scan.id)
        assert (scan.state, scan.drift.new, scan.drift.gone, left(ward)) == ("caught-up", 2, 1, [b"c"])
        assert (await ward.scan(changes_only=True)).drift.new == 1
        await assert_truth(ward)
