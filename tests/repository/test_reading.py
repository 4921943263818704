"""Reading happens with the requester's rights, or not at all."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from mover.errors import Denied
from mover.repository import reading
from mover.repository.facts import Disk, Folder
from mover.repository.reading import ChildReader, FolderHandle, Requester, open_reader
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


def test_a_daemon_that_is_not_root_refuses_to_read_for_another_user(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading with its own rights instead is what must never happen; the error names the root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

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
