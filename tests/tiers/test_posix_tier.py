"""What only folders can get wrong: links, pipes, mounts, full disks, kills and syncs."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from mover.errors import (
    Conflict,
    EntryExists,
    EntryMissing,
    MoverError,
    TierDenied,
    TierError,
    TierFull,
    TierUnavailable,
)
from mover.tiers import beneath, identity, mounts, posix
from mover.tiers.posix import PosixTier
from tests.support.leftovers import Leftovers

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "tier"
    made.mkdir()
    identity.establish(made, name="flash", zone="deidentified")
    return made


@pytest.fixture
def tier(root: Path) -> PosixTier:
    return PosixTier("flash", "deidentified", root)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    return secret


# --- ways out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old_kernel", [False, True], ids=["openat2", "walking"])
@pytest.mark.parametrize(
    "key", ["file-link", "folder-link/secret", "up-link/secret", "magic-link", "folder-link", "proc-link/self/environ"]
)
def test_links_are_never_followed(
    tier: PosixTier, root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, key: str, old_kernel: bool
) -> None:
    """A symlink planted in an intake folder must not lead to another patient or to the key."""
    if old_kernel:
        monkeypatch.setattr(beneath, "open_beneath", beneath.walk_beneath)
    (root / "file-link").symlink_to(outside)
    (root / "folder-link").symlink_to(outside.parent)
    (root / "up-link").symlink_to("..")
    (root / "magic-link").symlink_to("/proc/self/exe")
    (root / "proc-link").symlink_to("/proc")
    for call in (tier.read, lambda k: list(tier.stream(k)), lambda k: tier.put(k + "/new", [b"x"])):
        with pytest.raises(TierError):
            call(key)
    assert sorted(p.name for p in outside.parent.iterdir()) == ["secret", "tier"]


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder"])
def test_other_kinds_than_files_are_refused_without_hanging(
    tier: PosixTier, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pipe waits for a writer for ever; opening a device may do something."""
    if kind == "fifo":
        os.mkfifo(root / "odd")
    elif kind == "folder":
        (root / "odd").mkdir()
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("making a device needs root")
        os.mknod(root / "odd", 0o020666, os.makedev(1, 5))
    else:
        monkeypatch.chdir(root)  # a socket's path ends at 107 bytes
        socket.socket(socket.AF_UNIX).bind("odd")
    with pytest.raises(TierDenied, match="not a plain file"):
        tier.read("odd")
    listed = {entry.key: entry.kind for entry in tier.list()}
    assert listed == ({} if kind == "folder" else {"odd": "other"})


def test_a_source_with_a_second_name_is_refused(root: Path, outside: Path) -> None:
    """A hard link in an intake folder could be any file of that disk; on flash, links are how runs share."""
    os.link(outside, root / "linked")
    with pytest.raises(TierDenied, match="hard links"):
        PosixTier("intake", "identified", root, role="source", read_only=True).read("linked")
    assert PosixTier("flash", "deidentified", root).read("linked") == b"secret"


@pytest.mark.slow
def test_a_swapped_link_never_wins_the_race(tier: PosixTier, root: Path, outside: Path) -> None:
    """The name is resolved once; swapping it under us for a link gives an error, never the other file."""
    (root / "honest").write_bytes(b"honest")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in (outside, root / "honest"):
                (root / "next").unlink(missing_ok=True)
                if target == outside:
                    (root / "next").symlink_to(outside)
                else:
                    (root / "next").write_bytes(b"honest")
                os.replace(root / "next", root / "name")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen, refused = set(), 0
    try:
        for _ in range(3000):
            try:
                seen.add(tier.read("name"))
            except (TierDenied, EntryMissing):
                refused += 1
    finally:
        stop.set()
        swapper.join()
    assert seen <= {b"honest", b""} and refused > 0


# --- identity ------------------------------------------------------------------------------------------


def test_a_root_without_identity_is_not_mounted(tmp_path: Path) -> None:
    """The empty folder below a mount point must not be filled, listed as empty, or cleaned."""
    empty = tmp_path / "empty"
    empty.mkdir()
    tier = PosixTier("flash", "deidentified", empty)
    for call in (tier.check_identity, lambda: list(tier.list()), lambda: tier.put("x", [b"x"]), lambda: tier.read("x")):
        with pytest.raises(TierUnavailable):
            call()
    assert list(empty.iterdir()) == []
    with pytest.raises(TierUnavailable):
        PosixTier("flash", "deidentified", tmp_path / "nowhere").check_identity()


def test_a_tier_that_goes_away_while_in_use_is_noticed(tier: PosixTier, root: Path) -> None:
    """Every call looks at the root again; a long job must not go on in the folder below."""
    tier.put("before", [b"x"])
    root.rename(root.with_name("away"))
    root.mkdir()
    for call in (lambda: tier.put("after", [b"x"]), lambda: tier.remove("before"), lambda: list(tier.list())):
        with pytest.raises(TierUnavailable):
            call()
    assert list(root.iterdir()) == []
    root.rmdir()
    root.with_name("away").rename(root)
    assert tier.read("before") == b"x"


@pytest.mark.slow
@ROOT_ONLY
def test_an_unmounted_tier_is_unavailable_and_its_mount_point_stays_empty(tmp_path: Path) -> None:
    """Case 29, with a real mount. Nothing of ours keeps the mount busy either."""
    root = tmp_path / "mounted"
    root.mkdir()
    with tmpfs(root, "size=4m"):
        known_as = identity.establish(root, name="flash", zone="deidentified")
        tier = PosixTier("flash", "deidentified", root, identity=known_as)
        tier.put("entry", [b"x"])
        pinned = PosixTier("intake", "identified", root, read_only=True, identity=identity.pin(root))
        assert pinned.read("entry") == b"x"
    for away in (tier, pinned):
        with pytest.raises(TierUnavailable):
            away.read("entry")
        with pytest.raises(TierUnavailable):
            list(away.list())
    with pytest.raises(TierUnavailable):
        tier.put("entry", [b"x"])
    assert list(root.iterdir()) == []


def test_a_pinned_source_is_another_one_after_it_was_replaced(tmp_path: Path) -> None:
    """A read-only source carries no file of ours; the root's inode and file system say who it is."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "slide").write_bytes(b"x")
    tier = PosixTier("intake", "identified", source, role="source", read_only=True, identity=identity.pin(source))
    assert tier.read("slide") == b"x"
    source.rename(tmp_path / "old")
    source.mkdir()
    with pytest.raises(TierUnavailable):
        tier.check_identity()
    assert list(source.iterdir()) == []


def test_a_sentinel_names_a_source_too(tmp_path: Path) -> None:
    """For shares whose file system ids change with every mount."""
    (tmp_path / "PATHOLOGY").write_bytes(b"")
    good = PosixTier("intake", "identified", tmp_path, read_only=True, identity="sentinel:PATHOLOGY")
    good.check_identity()
    with pytest.raises(TierUnavailable):
        PosixTier("intake", "identified", tmp_path, read_only=True, identity="sentinel:OTHER").check_identity()


def test_nothing_is_ever_written_to_a_read_only_source(tmp_path: Path) -> None:
    """D11: not even a probe."""
    (tmp_path / "slide").write_bytes(b"x")
    tier = PosixTier("intake", "identified", tmp_path, role="source", read_only=True)
    for call in (
        lambda: tier.put("new", [b"x"]),
        lambda: tier.remove("slide"),
        lambda: tier.attempt("new", size_bytes=1),
        lambda: tier.sweep_temporaries(older_than_s=0, now_s=0),
    ):
        with pytest.raises(TierDenied):
            call()
    assert not tier.traits.conditional_put
    assert [path.name for path in tmp_path.iterdir()] == ["slide"]


def test_a_root_belongs_to_one_tier(root: Path) -> None:
    """Registering the same place under a second name is a mistake; the same name is a repetition."""
    assert identity.establish(root, name="flash", zone="deidentified").startswith("id:")
    with pytest.raises(Conflict):
        identity.establish(root, name="protect", zone="deidentified")
    with pytest.raises(TierUnavailable):
        PosixTier("flash", "deidentified", root, identity="id:" + "0" * 32).check_identity()


# --- listing -------------------------------------------------------------------------------------------

NAMES = [
    b"-dash", b"new\nline", b"\xff\xfe", b"\xc3\xa9", b"e\xcc\x81", b"Case", b"case", b"x" * 255, b"dot.",
    b"tab\t", b" space ", b"quote'\"", b"\x01",
]  # fmt: skip


def test_every_name_a_file_system_takes_is_listed_and_read(tier: PosixTier, root: Path) -> None:
    """Case 31: a name we cannot spell is still a slide."""
    for name in NAMES:
        with open(os.fsencode(root) + b"/" + name, "wb") as out:
            out.write(name)
    entries = list(tier.list())
    assert sorted(os.fsencode(entry.key) for entry in entries) == sorted(NAMES)
    assert all(tier.read(entry.key) == os.fsencode(entry.key) for entry in entries)


def test_passing_names_are_hidden_except_on_a_source(root: Path) -> None:
    """`.nfs…` and our temporaries are no entries; on a source nothing is ours, so everything shows. Only the very
    names an NFS client makes are passing ones: a file called `.nfs-notes` is a file."""
    passing = ".nfs000000000012ab5600000003"
    for name in (passing, ".nfs-notes", ".mover-tmp-abc", "slide"):
        (root / name).write_bytes(b"x")
    assert {e.key for e in PosixTier("flash", "deidentified", root).list()} == {"slide", ".nfs-notes"}
    seen = {e.key for e in PosixTier("intake", "identified", root, read_only=True).list()}
    assert seen == {passing, ".nfs-notes", ".mover-tmp-abc", "slide", ".mover/tier.json"}


def test_a_listing_that_breaks_off_raises(tier: PosixTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: half a listing looks like a deletion of the other half."""
    for folder in ("a", "b", "c"):
        tier.put(f"{folder}/x", [b"x"])
    honest, opened = beneath.open_folder, []

    def failing(root: int, parts: list[bytes]) -> int:
        opened.append(parts)
        if len(opened) == 3:
            raise OSError(errno.EIO, "input/output error")
        return honest(root, parts)

    monkeypatch.setattr(beneath, "open_folder", failing)
    with pytest.raises(TierError, match="listing failed: EIO"):
        list(tier.list())


def test_a_deep_tree_is_listed_without_recursion(tier: PosixTier, root: Path) -> None:
    """Deeper than Python's own limit on calls."""
    at = os.open(root, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir(b"d", dir_fd=at)
        deeper = os.open(b"d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(os.open(b"leaf", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    try:
        assert [len(entry.key) for entry in tier.list()] == [1200 * 2 + 4]
    finally:
        subprocess.run(["rm", "-rf", str(root / "d")], check=True)  # Python's own removal is recursive


# --- writing -------------------------------------------------------------------------------------------


def test_data_then_names_are_synced_before_a_put_returns(tier: PosixTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that survived every power cut: new folders' names, data, rename, folder."""
    steps: list[str] = []
    honest_sync, honest_rename = os.fsync, beneath.rename_noreplace

    def sync(descriptor: int) -> None:
        steps.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync data")
        honest_sync(descriptor)

    def rename(*args: object, **kept: object) -> None:
        steps.append("rename")
        honest_rename(*args, **kept)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(beneath, "rename_noreplace", rename)
    tier.put("new/folder/name", [b"x"])
    assert steps == ["sync folder", "sync folder", "sync data", "rename", "sync folder"]
    steps.clear()
    tier.put("new/folder/second", [b"x"])
    assert steps == ["sync data", "rename", "sync folder"]


def test_a_failed_sync_is_never_tried_again(tier: PosixTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a lost page once and then calls it clean; only writing anew helps."""
    calls = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(TierError, match="syncing failed: EIO"):
        tier.put("name", [b"x"])
    monkeypatch.undo()
    assert len(calls) == 1 and list(tier.root.iterdir()) == [tier.root / ".mover"]


def test_an_error_at_close_is_an_error(tier: PosixTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS reports a full server there, once; the name must not appear."""
    attempt = tier.attempt("name", size_bytes=1)
    attempt.write([b"x"])
    attempt.seal()
    honest, written = os.close, attempt.fileno()

    def failing(descriptor: int) -> None:
        honest(descriptor)
        if descriptor == written:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "close", failing)
    with pytest.raises(TierFull):
        attempt.publish()
    monkeypatch.undo()
    attempt.abandon()
    assert [p.name for p in tier.root.iterdir()] == [".mover"]


def test_without_the_kernels_rename_a_link_publishes_and_refuses(
    tier: PosixTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old NFS servers know no RENAME_NOREPLACE; the promise is the same."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.EINVAL, "invalid")

    monkeypatch.setattr(beneath, "rename_noreplace_only", unsupported)
    tier.put("name", [b"first"])
    attempts = [tier.attempt("second", size_bytes=1) for _ in range(2)]
    for attempt in attempts:
        attempt.write([b"x"])
        attempt.seal()
    attempts[0].publish()
    with pytest.raises(EntryExists):
        attempts[1].publish()
    attempts[1].abandon()
    assert {p.name for p in tier.root.iterdir()} == {".mover", "name", "second"}


def test_of_two_writers_of_one_name_exactly_one_wins(tier: PosixTier) -> None:
    """R8 under a race: never both, never a mixture."""
    outcomes: list[str] = []

    def write(mark: bytes) -> None:
        try:
            tier.put("contested", [mark] * 50)
            outcomes.append("won")
        except EntryExists:
            outcomes.append("lost")

    threads = [threading.Thread(target=write, args=(bytes([65 + n]),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("won") == 1 and len(set(tier.read("contested"))) == 1


@pytest.mark.slow
@ROOT_ONLY
def test_a_full_disk_leaves_no_name_and_no_rest(tmp_path: Path) -> None:
    """Case 9: on a real file system of 4 MiB."""
    root = tmp_path / "small"
    root.mkdir()
    with tmpfs(root, "size=4m"):
        identity.establish(root, name="flash", zone="deidentified")
        tier = PosixTier("flash", "deidentified", root)
        with pytest.raises(TierFull):
            tier.put("large", (bytes(1 << 20) for _ in range(16)))
        assert [p.name for p in root.iterdir()] == [".mover"]
        tier.put("small", [bytes(1 << 20)])


@pytest.mark.slow
@ROOT_ONLY
def test_no_inodes_left_is_a_full_tier(tmp_path: Path) -> None:
    """Case 10."""
    root = tmp_path / "few"
    root.mkdir()
    with tmpfs(root, "size=4m,nr_inodes=8"):
        identity.establish(root, name="flash", zone="deidentified")
        tier = PosixTier("flash", "deidentified", root)
        with pytest.raises(TierFull):
            for number in range(10):
                tier.put(f"{number}", [b"x"])


KILLED = """
import sys
from mover.tiers.posix import PosixTier
tier = PosixTier("flash", "deidentified", sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(10_000):
    tier.put(f"folder-{number % 5}/{number}", (bytes([number % 251]) * 65536 for _ in range(8)))
print("all", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_kill_9_in_the_middle_of_a_put_leaves_whole_files_only(tier: PosixTier, root: Path, seed: int) -> None:
    """R3: whatever stands under a final name is whole; a sweep takes the rest."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
    process.stdin.write(b"go\n")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(random.Random(seed).uniform(0.01, 0.12))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    for entry in tier.list():
        number = int(entry.key.rpartition("/")[2])
        assert tier.read(entry.key) == bytes([number % 251]) * (8 * 65536)
    tier.sweep_temporaries(older_than_s=-60, now_s=max(p.stat().st_mtime for p in root.rglob("*")))
    assert not [p for p in root.rglob(".mover-tmp-*")]


def test_what_is_published_or_removed_while_the_sweep_looks_does_not_end_it(
    tier: PosixTier, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes once an hour: ended by a neighbour's rename, it would leave everything behind it there."""
    honest, opened = posix._is_stale, posix.beneath.open_folder
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        (root / name / ".mover-tmp-left").write_bytes(b"x")
        (root / name / ".mover-tmp-published").write_bytes(b"x")

    def publishing(item: os.DirEntry[str], before_s: float) -> bool:
        if item.name == ".mover-tmp-published":
            for name in ("a", "b", "c"):
                (root / name / item.name).unlink(missing_ok=True)
        return honest(item, before_s)

    def removing(top: int, parts: list[bytes]) -> int:
        if parts == [b"b"]:
            shutil.rmtree(root / "b")
        return opened(top, parts)

    monkeypatch.setattr(posix, "_is_stale", publishing)
    monkeypatch.setattr(posix.beneath, "open_folder", removing)
    assert tier.sweep_temporaries(older_than_s=0, now_s=2**40) == 2
    assert not list(root.rglob(".mover-tmp-*"))
    with pytest.raises(EntryMissing):
        tier.sweep_temporaries("nowhere", older_than_s=0, now_s=2**40)


def test_the_sweep_spares_attempts_that_may_still_run(tier: PosixTier, root: Path) -> None:
    """By the time of their last change, which no source's old time hides; entries are never touched, and a folder
    in which a killed group was built goes whole."""
    tier.put("entry", [b"x"])
    old, folder = root / ".mover-tmp-old", root / "below" / ".mover-tmp-folder"
    old.write_bytes(b"x")
    (folder / "deeper" / ".removing-1" / "same" / "same").mkdir(parents=True)
    (folder / ".removing-1").write_bytes(b"x")
    (folder / "deeper" / "file").write_bytes(b"x")
    (folder / "deeper" / ".removing-1" / "same" / "file").write_bytes(b"x")
    before_s = max(old.stat().st_ctime, folder.stat().st_ctime)
    while (root / "entry").stat().st_ctime <= before_s:  # the file system's clock has ticked
        (root / "entry").chmod(0o600)
    running = tier.attempt("running", size_bytes=1)
    os.utime(running.fileno(), (1000, 1000))
    assert tier.sweep_temporaries(older_than_s=3600, now_s=before_s + 3599) == 0
    assert tier.sweep_temporaries(older_than_s=3600, now_s=before_s + 3600.000001) == 2
    running.write([b"x"])
    running.seal()
    running.publish()
    assert {e.key for e in tier.list()} == {"entry", "running"}
    assert not list((root / "below").iterdir())


def test_a_cold_read_asks_the_device(tier: PosixTier, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm re-read proves nothing: pages are dropped first and O_DIRECT is used where it works."""
    tier.put("name", [bytes(20000)])
    dropped, flags = [], []
    honest = os.open
    monkeypatch.setattr(beneath, "drop_cache", dropped.append)
    monkeypatch.setattr(os, "open", lambda path, flag, *a, **k: flags.append(flag) or honest(path, flag, *a, **k))
    assert b"".join(tier.stream("name", cold=True)) == bytes(20000)
    assert dropped and (any(flag & os.O_DIRECT for flag in flags) or not tier.traits.o_direct)


def test_no_error_says_a_name(root: Path) -> None:
    """On an identified tier every path is an identifier (D10)."""
    tier = PosixTier("intake", "identified", root, role="source", read_only=True)
    (root / "SMITH^JANE.svs").symlink_to("/nowhere/SMITH")
    for key in ("SMITH^JANE.svs", "SMITH/missing", "SMITH\0", "../SMITH"):
        for call in (tier.read, tier.stat if "svs" not in key else tier.read):
            with pytest.raises(MoverError) as caught:
                call(key)
            assert "SMITH" not in f"{caught.value!s} {caught.value!r} {caught.value.details}"


def test_probing_leaves_nothing_behind(tier: PosixTier, root: Path) -> None:
    """Traits are tried for real, on two small files that go again."""
    assert tier.traits.conditional_put and tier.traits.hard_link
    assert [path.name for path in (root / posix.CONTROL_FOLDER).iterdir()] == ["tier.json"]


@pytest.mark.parametrize(("filesystem", "believed"), [("ext4", True), ("fuseblk", False), ("ecryptfs", False)])
def test_one_sync_of_all_is_believed_only_where_it_reaches_the_device(
    tier: PosixTier, monkeypatch: pytest.MonkeyPatch, filesystem: str, believed: bool
) -> None:
    """It says "done" on stacked file systems too, and the bytes stand in the cache of what lies below."""
    mount = msgspec.structs.replace(mounts.NOWHERE, filesystem=filesystem)
    monkeypatch.setattr(mounts, "mount_of_device", lambda _: mount)
    assert tier.traits.syncfs is believed


def test_no_descriptor_is_left_open(tier: PosixTier) -> None:
    """R11, over successes and failures of every call."""
    tier.put("kept", [b"x"])
    before = Leftovers()
    for _ in range(20):
        for call in (
            lambda: tier.put("kept", [b"y"]),
            lambda: tier.read("missing"),
            lambda: tier.put("kept/below", [b"y"]),
            lambda: next(tier.stream("kept", cold=True)),
            lambda: tier.remove("missing"),
            lambda: list(tier.list("missing")),
        ):
            try:
                call()
            except MoverError:
                continue
    assert before.now() == []


class tmpfs:
    """A small real file system for the time of a block."""

    def __init__(self, at: Path, options: str) -> None:
        self._at, self._options = at, options

    def __enter__(self) -> None:
        command = ["mount", "-t", "tmpfs", "-o", self._options, "tmpfs", str(self._at)]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("this machine does not let us mount a tmpfs")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self._at)], check=True)
