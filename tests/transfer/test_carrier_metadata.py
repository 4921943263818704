"""What of an entry's metadata travels, in all four ways an entry may go; and what is said when it cannot."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from mover.model.moving import Item, Keep, Options
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer, carrier, group
from mover.transfer.carrier import Carrier
from tests.support.carrying import carried, files, items, plant, posix_tier, rests

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners are changed by root only")
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# the same file small in a synced group, small and synced alone, and large
WAYS = pytest.mark.parametrize("size, few", [(500, 0), (500, 16), (9 << 20, 16)], ids=["group", "alone", "large"])


@pytest.fixture
def source(tmp_path: Path) -> PosixTier:
    return posix_tier(tmp_path / "source", "archive")


@pytest.fixture
def target(tmp_path: Path) -> PosixTier:
    return posix_tier(tmp_path / "target", "flash")


@pytest.fixture
def serial() -> Iterator[Carrier]:
    made = Carrier(Transfer(), processes=0)
    yield made
    made.close()


def acl(*entries: tuple[int, int, int]) -> bytes:
    """acl(5) as the kernel stores it: version 2, then tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def file_acl(user: int) -> bytes:
    none = 0xFFFFFFFF
    return acl((1, 6, none), (2, 6, user), (4, 4, none), (16, 6, none), (32, 4, none))


def xattr(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return None


def set_or_skip(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError:
        pytest.skip(f"the file system of this machine's tests holds no {name}")


@WAYS
def test_mode_and_time_travel_and_nothing_else_by_default(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, size: int, few: int
) -> None:
    """Set-uid without its owner would lend the daemon's rights to whoever runs the file."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    made = plant(source.root, {"file": size})
    set_or_skip(source.root / "file", "user.note", b"secret")
    os.chmod(source.root / "file", 0o6751)
    before = os.umask(0o027)
    try:
        assert carried(serial, source, target, items(source, made))[0].state == "moved"
    finally:
        os.umask(before)
    status = os.lstat(target.root / "out" / "file")
    assert stat.S_IMODE(status.st_mode) == 0o751
    assert status.st_mtime_ns == os.lstat(source.root / "file").st_mtime_ns
    assert xattr(target.root / "out" / "file", "user.note") is None
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())


@WAYS
def test_without_a_word_neither_mode_nor_time_travels(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, size: int, few: int
) -> None:
    """A policy may want fresh files."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    made = plant(source.root, {"file": size})
    os.chmod(source.root / "file", 0o751)
    found = carried(serial, source, target, items(source, made), Options(keep=Keep(mode=False, mtime=False)))
    status = os.lstat(target.root / "out" / "file")
    assert found[0].state == "moved" and stat.S_IMODE(status.st_mode) == 0o644
    assert status.st_mtime_ns != os.lstat(source.root / "file").st_mtime_ns


@NEEDS_ROOT
@WAYS
def test_owner_attributes_and_acls_travel_when_they_are_to_be_kept(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, size: int, few: int
) -> None:
    """A home directory that comes back without them is not a copy."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    made = plant(source.root, {"file": size})
    path = source.root / "file"
    set_or_skip(path, "user.note", b"\0kept")
    set_or_skip(path, "trusted.note", b"the system's own")
    set_or_skip(path, ACCESS, file_acl(1234))
    os.chown(path, 4711, 4712)
    os.chmod(path, 0o6764)
    keep = Keep(owner=True, xattrs=True, acls=True)
    found = carried(serial, source, target, items(source, made), Options(keep=keep))
    there = target.root / "out" / "file"
    status, wanted = os.lstat(there), os.lstat(path)
    assert found[0].state == "moved" and there.read_bytes() == made["file"]
    assert (status.st_uid, status.st_gid, status.st_mode) == (4711, 4712, wanted.st_mode)
    assert status.st_mtime_ns == wanted.st_mtime_ns
    assert xattr(there, "user.note") == b"\0kept" and xattr(there, "trusted.note") is None
    assert xattr(there, ACCESS) == xattr(path, ACCESS) is not None


@WAYS
def test_an_acl_that_the_source_never_had_is_not_inherited(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, size: int, few: int
) -> None:
    """The target's folder may give rights to everything made in it."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    made = plant(source.root, {"file": size})
    (target.root / "out").mkdir()
    set_or_skip(target.root / "out", DEFAULT, file_acl(99))
    found = carried(serial, source, target, items(source, made), Options(keep=Keep(acls=True)))
    assert found[0].state == "moved" and xattr(target.root / "out" / "file", ACCESS) is None


@WAYS
@pytest.mark.parametrize("word", ["xattrs", "acls", "owner", "mode", "mtime"])
def test_what_the_target_cannot_hold_fails_the_entry_by_name(
    source: PosixTier,
    target: PosixTier,
    serial: Carrier,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    few: int,
    word: str,
) -> None:
    """Left out in silence it would be missed when the source is long released."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    made = plant(source.root, {"file": size, "other": 10})
    set_or_skip(source.root / "file", "user.note", b"x")
    set_or_skip(source.root / "file", ACCESS, file_acl(1234))
    os.chmod(source.root / "file", 0o640)
    wanted = items(source, made)

    def no(*_: object, **__: object) -> None:
        raise OSError(95, "not supported")

    def forgotten(*_: object, **__: object) -> None:
        """As a file system that takes it and keeps its own."""

    if word in ("xattrs", "acls"):
        monkeypatch.setattr(os, "setxattr", no)
    elif word == "owner":
        monkeypatch.setattr(os, "fchown", no)
    elif word == "mode":
        monkeypatch.setattr(os, "fchmod", forgotten)
    else:
        monkeypatch.setattr(os, "utime", forgotten)
    before = os.umask(0o077 if word == "mode" else 0o022)
    try:
        keep = Keep(xattrs=word == "xattrs", acls=word == "acls", owner=word == "owner")
        found = carried(serial, source, target, wanted, Options(keep=keep))
    finally:
        os.umask(before)
    assert (found[0].state, found[0].code) == ("failed", "metadata-unsupported")
    if word in ("xattrs", "acls"):
        assert found[1].state == "moved"
    assert "out/file" not in files(target.root) and not rests(target.root)


# --- links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 16], ids=["one sync", "each synced"])
def test_symlinks_are_made_again_with_their_text_and_never_followed(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Also one that leads nowhere, out of the tier, or is no text."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    texts = {"near": b"file", "nowhere": b"no/such", "out": b"/etc/passwd", "bytes": b"\xff\xfe"}
    plant(source.root, {"file": 10})
    for key, text in texts.items():
        os.symlink(text, source.root / key)
        os.utime(source.root / key, ns=(5, 10**17), follow_symlinks=False)
    wanted = items(source, texts)
    found = carried(serial, source, target, wanted, Options(keep=Keep(symlinks="copy")))
    for one in wanted:
        there = target.root / one.target
        assert os.readlink(os.fsencode(there)) == texts[one.source]
        assert os.lstat(there).st_mtime_ns == 10**17
        assert (found[one.id].state, found[one.id].blake3) == ("moved", blake3(texts[one.source]).hexdigest())
    again = carried(serial, source, target, wanted, Options(keep=Keep(symlinks="copy")))
    assert {one.state for one in again.values()} == {"present"}


@pytest.mark.parametrize("word, state, code", [("skip", "skipped", "symlinks"), ("refuse", "failed", "entry-refused")])
def test_symlinks_are_left_out_or_refused_as_the_policy_says(
    source: PosixTier, target: PosixTier, serial: Carrier, word: str, state: str, code: str
) -> None:
    """Both are outcomes: nothing is left out in silence."""
    os.symlink("x", source.root / "link")
    keep = Keep(symlinks=word)  # type: ignore[arg-type]
    found = carried(serial, source, target, items(source, ["link"]), Options(keep=keep))[0]
    assert (found.state, found.code) == (state, code) and not (target.root / "out" / "link").is_symlink()


def several_names(source: PosixTier, size: int) -> list[str]:
    plant(source.root, {"a/first": size, "single": 5})
    (source.root / "b").mkdir()
    os.link(source.root / "a/first", source.root / "b/second")
    os.link(source.root / "a/first", source.root / "third")
    return ["a/first", "b/second", "third", "single"]


@pytest.mark.parametrize("size", [500, 9 << 20], ids=["small", "large"])
def test_names_of_one_file_stay_together_when_they_are_to_be_linked(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Across groups and folders; bytes are moved once."""
    monkeypatch.setattr(carrier.decide, "DEFAULT", carrier.decide.Bounds(files=2))
    keys = several_names(source, size)
    options = Options(keep=Keep(hard_links="link"))
    found = carried(serial, source, target, items(source, keys), options)
    inodes = [os.lstat(target.root / "out" / key).st_ino for key in keys]
    assert len(set(inodes[:3])) == 1 and inodes[3] != inodes[0]
    assert {one.state for one in found.values()} == {"moved"} and len(found) == 4
    assert sorted(found[n].shared for n in range(3)) == [False, True, True]
    assert len({found[n].blake3 for n in range(3)}) == 1
    assert {one.state for one in carried(serial, source, target, items(source, keys), options).values()} == {"present"}


@pytest.mark.parametrize("size", [500, 9 << 20], ids=["small", "large"])
def test_names_of_one_file_are_copied_apart_or_refused(
    source: PosixTier, target: PosixTier, serial: Carrier, size: int
) -> None:
    """By the policy's word."""
    keys = several_names(source, size)
    found = carried(serial, source, target, items(source, keys), Options(keep=Keep(hard_links="refuse")))
    assert {found[n].code for n in range(3)} == {"entry-refused"} and found[3].state == "moved"
    found = carried(serial, source, target, items(source, keys), Options(keep=Keep(hard_links="copy")))
    assert [found[n].state for n in range(4)] == ["moved"] * 3 + ["present"]
    assert len({os.lstat(target.root / "out" / key).st_ino for key in keys}) == 4


def test_more_names_than_can_be_kept_in_mind_are_said_not_copied(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is bounded; a file that has been seen whole makes room."""
    monkeypatch.setattr(carrier, "HARD_LINKS_HELD", 1)
    plant(source.root, {"a": 5, "b": 6, "c": 7})
    for key in "abc":
        os.link(source.root / key, source.root / f"{key}2")
    options = Options(keep=Keep(hard_links="link"))
    found = carried(serial, source, target, items(source, ["a", "b", "a2", "c", "c2"]), options)
    assert {n: (one.state, one.code) for n, one in found.items()} == {
        0: ("moved", ""), 1: ("failed", "metadata-unsupported"), 2: ("moved", ""), 3: ("moved", ""), 4: ("moved", ""),
    }  # fmt: skip


# --- folders --------------------------------------------------------------------------------------------


def test_folders_get_their_time_and_mode_after_what_is_in_them(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every name in a folder changes its time; the deepest come first; empty ones arrive too."""
    monkeypatch.setattr(carrier, "FOLDERS_IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(carrier, "FOLDERS_AT_ONCE", 2)
    plant(source.root, {"a/b/c/file": 10, "a/file": 10})
    (source.root / "a" / "empty").mkdir()
    folders = ["a", "a/b", "a/b/c", "a/empty"]
    for number, key in enumerate(reversed(folders)):
        os.chmod(source.root / key, 0o1770 - number)
        os.utime(source.root / key, ns=(10**17, 10**17 + number))
    wanted = items(source, [*folders, "a/b/c/file", "a/file"])
    found = carried(serial, source, target, wanted)
    assert {one.state for one in found.values()} == {"moved"} and len(found) == 6
    for key in folders:
        here, there = os.lstat(source.root / key), os.lstat(target.root / "out" / key)
        assert (here.st_mode, here.st_mtime_ns) == (there.st_mode, there.st_mtime_ns)
    again = carried(serial, source, target, wanted)
    assert {one.state for one in again.values()} == {"present"}


def test_a_folder_carries_its_default_acl(source: PosixTier, target: PosixTier, serial: Carrier) -> None:
    """What will be made in it later has the rights that its owner meant."""
    plant(source.root, {"a/file": 1})
    set_or_skip(source.root / "a", DEFAULT, file_acl(77))
    found = carried(serial, source, target, items(source, ["a", "a/file"]), Options(keep=Keep(acls=True)))
    assert {one.state for one in found.values()} == {"moved"}
    assert xattr(target.root / "out" / "a", DEFAULT) == xattr(source.root / "a", DEFAULT)
    assert xattr(target.root / "out" / "a" / "file", ACCESS) is None


def test_a_folder_that_is_none_any_more_is_said(source: PosixTier, target: PosixTier, serial: Carrier) -> None:
    """And one whose place on the target is taken by a file."""
    plant(source.root, {"a/file": 1, "b/file": 1})
    wanted = items(source, ["a", "b"])
    os.rename(source.root / "a", source.root / "gone")
    (target.root / "out").mkdir()
    (target.root / "out" / "b").write_bytes(b"a file")
    found = carried(serial, source, target, wanted)
    assert {(one.state, one.code) for one in found.values()} == {("failed", "entry-missing")}


# --- sparse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 16], ids=["one sync", "each synced"])
@pytest.mark.parametrize("sparse", [True, False])
def test_holes_of_small_files_stay_holes(
    source: PosixTier, target: PosixTier, serial: Carrier, monkeypatch: pytest.MonkeyPatch, few: int, sparse: bool
) -> None:
    """Four megabytes of nothing in each of a million files are four terabytes."""
    monkeypatch.setattr(group, "FEW_FILES", few)
    with open(source.root / "file", "wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * 5000)
        file.seek(3 << 20)
        file.write(b"y")
        file.truncate(4 << 20)
        os.fsync(file.fileno())
    if os.stat(source.root / "file").st_blocks * 512 >= 4 << 20:
        pytest.skip("the file system of this machine's tests makes no holes")
    found = carried(serial, source, target, items(source, ["file"]), Options(keep=Keep(sparse=sparse)))
    there = target.root / "out" / "file"
    assert found[0].state == "moved" and there.read_bytes() == (source.root / "file").read_bytes()
    assert (os.stat(there).st_blocks * 512 < 1 << 20) == sparse


def test_an_item_is_told_apart_from_its_planned_kind(source: PosixTier, target: PosixTier, serial: Carrier) -> None:
    """A file that the plan saw as a link is no link."""
    made = plant(source.root, {"file": 1})
    planned = items(source, made)[0]
    wanted = [Item(0, "file", "out/file", "symlink", planned.fingerprint)]
    found = carried(serial, source, target, wanted, Options(keep=Keep(symlinks="copy")))
    assert (found[0].state, found[0].code) == ("failed", "changed-since-plan")
