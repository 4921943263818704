"""Reading happens with the requester's rights, or not at all."""

from __future__ import annotations

import errno
import os
import random
import struct
import threading
import time
from pathlib import Path

import pytest

from mover.errors import Denied
from mover.repository import reading
from mover.repository.facts import Disk, Folder
from mover.repository.reading import ChildReader, FolderHandle, JudgedReader, Reader, Requester, open_reader
from mover.repository.repository import Repository
from tests.repository.conftest import listing, take
from tests.support.folders import open_the_way

NOBODY = Requester(uid=65534, gid=65534)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="taking on another user's rights needs root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What everybody may read, what only root may, and what can be listed but not entered."""
    open_the_way(tmp_path)
    folder = tmp_path / "out"
    (folder / "open" / "deep").mkdir(parents=True)
    (folder / "open" / "deep" / "a").write_bytes(b"a")
    (folder / "secret").write_bytes(b"secret")
    (folder / "secret").chmod(0o600)
    (folder / "locked").mkdir()
    (folder / "locked" / "b").write_bytes(b"b")
    (folder / "locked").chmod(0o700)
    (folder / "listed").mkdir()
    (folder / "listed" / "c").write_bytes(b"c")
    (folder / "listed").chmod(0o744)
    os.symlink("secret", folder / "link")
    return folder


@needs_root
@pytest.mark.slow
def test_what_the_requester_may_not_read_is_named_and_never_protected(repository: Repository, tree: Path) -> None:
    """Otherwise `finish` with somebody else's path would hand out that person's files at the restore."""
    result = take(repository, Folder({"artifacts": Disk(tree, "", NOBODY)}))

    assert [entry.path for entry in result.entries] == ["/artifacts/open/deep/a"]
    assert sorted(result.unreadable) == ["/artifacts/listed/c", "/artifacts/locked", "/artifacts/secret"]
    assert not result.complete


@needs_root
@pytest.mark.slow
def test_a_requester_with_the_group_reads_what_the_group_may(repository: Repository, tree: Path) -> None:
    """Supplementary groups count, as they would at a login."""
    os.chown(tree / "secret", 0, 4242)
    (tree / "secret").chmod(0o640)

    result = take(repository, Folder({"artifacts": Disk(tree, "", Requester(65534, 65534, (4242,)))}))

    assert "/artifacts/secret" in [entry.path for entry in result.entries]


@needs_root
@pytest.mark.slow
def test_the_child_sees_and_hands_over_exactly_what_a_direct_reader_would(
    repository: Repository, tmp_path: Path, tree: Path
) -> None:
    """Names of any bytes, many in one folder, links, xattrs: the way through the child changes nothing."""
    tree.joinpath("secret").chmod(0o644)
    tree.joinpath("locked").chmod(0o755)
    tree.joinpath("listed").chmod(0o755)
    for number in range(300):
        (tree / "open" / f"{number:03}-{'n' * 200}").write_bytes(b"%d" % number)
    with open(os.fsencode(tree) + b'/\xff\n"', "wb") as file:
        file.write(b"odd")

    result = take(repository, Folder({"artifacts": Disk(tree, "", NOBODY)}))

    repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts")
    assert result.complete
    assert listing(tmp_path / "back") == listing(tree)


@needs_root
def test_the_child_has_given_up_root_for_good(tree: Path) -> None:
    """Real, effective, saved and file system ids, groups and capabilities: no way back."""
    reader = ChildReader(Requester(65534, 65533, (4242,)), root=Path("/"))
    try:
        reader.open_root(tree, "open")
        status = Path(f"/proc/{reader._child.pid}/status").read_text()
        words = {line.split(":")[0]: line.split(":")[1].split() for line in status.splitlines()}
    finally:
        reader.close()

    assert (words["Uid"], words["Gid"], words["Groups"]) == (["65534"] * 4, ["65533"] * 4, ["4242"])
    assert int(words["CapEff"][0], 16) == int(words["CapPrm"][0], 16) == 0


def test_a_daemon_that_cannot_become_others_refuses_to_read_for_another_user(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading with its own rights instead is what must never happen; the error names the root."""
    monkeypatch.setattr(reading, "can_become_others", lambda: False)

    with pytest.raises(Denied, match=str(tree)):
        open_reader(Requester(1001, 1001), root=tree)


def test_a_component_swapped_for_a_symlink_leads_nowhere(tmp_path: Path) -> None:
    """Each step is opened without following: a link at any depth is an error, never a way out."""
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b").write_bytes(b"outside")
    reader = open_reader(None, root=tmp_path)
    assert isinstance(reader.open_root(tmp_path / "root", "a/b"), FolderHandle)
    (tmp_path / "root" / "a").rename(tmp_path / "root" / "gone")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "outside")

    with pytest.raises(OSError, match="(?i)directory|symbolic"):
        reader.open_root(tmp_path / "root", "a/b")


@pytest.mark.slow
def test_a_swapper_that_races_the_walk_gets_nothing_of_the_outside_protected(
    repository: Repository, tmp_path: Path
) -> None:
    """Folder and file are exchanged for links to a secret as fast as the machine can, during snapshots."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"the secret of the other project")
    (tmp_path / "out" / "d").mkdir(parents=True)
    (tmp_path / "out" / "d" / "f").write_bytes(b"mine")
    stop = threading.Event()

    def swap() -> None:
        real, kept = tmp_path / "out" / "d", tmp_path / "out" / "kept"
        while not stop.is_set():
            real.rename(kept)
            real.symlink_to(tmp_path / "outside")
            real.unlink()
            kept.rename(real)

    swapper = threading.Thread(target=swap)
    swapper.start()
    sizes = set()
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            sizes |= {entry.size_bytes for entry in take(repository, tmp_path / "out").entries}
    finally:
        stop.set()
        swapper.join()

    assert sizes <= {4}


def test_a_requester_of_the_daemons_own_user_needs_no_child() -> None:
    """The common case of a daemon that runs as the training user costs nothing."""
    me = Requester(os.geteuid(), os.getegid())

    assert isinstance(open_reader(me, root=Path("/")), reading.DirectReader)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """system.posix_acl_access as the kernel keeps it, acl(5): (tag, rights, who) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def draw_modes(folder: Path, dice: random.Random) -> list[bytes]:
    """Files and folders of a few users and groups, of any mode, half of them with an access list."""
    nobody = 0xFFFF_FFFF
    for number in range(120):
        path = folder / f"{number:03}"
        if number % 2:
            path.mkdir()
        else:
            path.write_bytes(b"x")
        os.chown(path, dice.choice([0, 64_001, 64_002]), dice.choice([0, 64_001, 64_003]))
        path.chmod(dice.randrange(0o1000))
        if dice.random() < 0.5:
            rights = [dice.randrange(8) for _ in range(7)]
            os.setxattr(path, "system.posix_acl_access", acl(
                (0x01, rights[0], nobody), (0x02, rights[1], 64_001), (0x04, rights[2], nobody),
                (0x08, rights[3], 64_001), (0x08, rights[4], 64_003), (0x10, rights[5], nobody),
                (0x20, rights[6], nobody),
            ))  # fmt: skip
    return sorted(os.fsencode(path.name) for path in folder.iterdir())


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(
    "requester", [Requester(64_001, 64_001), Requester(64_004, 64_001, (64_003,)), Requester(64_005, 64_005)]
)
def test_what_is_judged_is_what_the_kernel_would_do(tmp_path: Path, requester: Requester) -> None:
    """The same tree through a child that became the requester and through a reader that only judges: every file and
    folder is opened by both or by neither, whatever modes and access lists say."""
    open_the_way(tmp_path)
    tmp_path.chmod(0o755)
    try:
        names = draw_modes(tmp_path, random.Random(7))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("this file system keeps no access lists")

    child = tried(ChildReader(requester, root=tmp_path), tmp_path, names)
    judged = tried(JudgedReader(requester), tmp_path, names)

    assert child == judged
    assert {"opened", "13"} <= set(judged.values())


def tried(reader: Reader, root: Path, names: list[bytes]) -> dict[bytes, str]:
    """What became of each: opened, or the error's number; of a folder also of a file in it."""
    try:
        top = reader.open_root(root, "")
        assert isinstance(top, FolderHandle)
        return {name: tried_one(reader, root, top, name) for name in names}
    finally:
        reader.close()


def tried_one(reader: Reader, root: Path, top: FolderHandle, name: bytes) -> str:
    try:
        if not (root / os.fsdecode(name)).is_dir():
            [opened] = reader.open_files(top, [name])
            if isinstance(opened, OSError):
                return str(opened.errno)
            os.close(opened)
            return "opened"
        folder = reader.enter(top, name)
        [inner] = reader.open_files(folder, [b"absent"])
        [seen] = reader.look(folder, [b"absent"])
        reader.leave(folder)
        return f"entered {getattr(inner, 'errno', 0)} {seen.error}"
    except OSError as error:
        return str(error.errno)


def test_our_own_rights_beyond_our_users_are_not_lent_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token for the service's user must not read with the service's CAP_DAC_OVERRIDE what a login would not."""
    me = Requester(4711, 4711)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "getegid", lambda: 4711)
    monkeypatch.setattr(reading, "can_become_others", lambda: False)
    monkeypatch.setattr(reading, "reads_past_modes", lambda: True)
    assert isinstance(open_reader(me, root=tmp_path), JudgedReader)
    monkeypatch.setattr(reading, "reads_past_modes", lambda: False)
    assert isinstance(open_reader(me, root=tmp_path), reading.DirectReader)
