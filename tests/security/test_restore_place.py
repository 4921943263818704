"""A restore is written by the daemon, often root, at a path somebody else names: it must not make folders where
that person could not, and not where a folder is exchanged for a link in between (confused deputy)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mover.errors import Denied, NotFound, RequestInvalid
from mover.protect.places import restore_place, rights_of
from mover.repository.reading import Requester

BOB = Requester(64_001, 64_001)
OTHER_USER = os.geteuid() + 1


@pytest.fixture(autouse=True)
def passable(tmp_path: Path) -> None:
    """pytest's folder is closed to others: every refusal below must have another reason."""
    tmp_path.chmod(0o755)


def try_place(to: Path | str, root: Path, requester: Requester | None = BOB, forbidden: Path | None = None,
              *, local: bool = False) -> str:  # fmt: skip
    tiers = [forbidden] if forbidden else []
    with restore_place(str(to), requester=requester, local=local, roots=(str(root),), forbidden=tiers) as target:
        target.mkdir()
        return os.path.realpath(target)


def test_somebody_elses_folder_below_a_declared_root_is_refused(tmp_path: Path) -> None:
    """Found: with `/home` declared, bob could have root make a folder in alice's home, owned by bob."""
    alice = tmp_path / "alice"
    alice.mkdir(mode=0o755)
    with pytest.raises(Denied):
        try_place(alice / ".config", tmp_path)
    assert not (alice / ".config").exists()


def test_a_folder_one_may_write_to_behind_a_closed_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alice").mkdir(mode=0o700)
    (tmp_path / "alice/open").mkdir()
    (tmp_path / "alice/open").chmod(0o777)
    with pytest.raises(Denied):
        try_place(tmp_path / "alice/open/x", tmp_path)


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    """Found: the path was resolved, judged and resolved again; a link swapped in between led root anywhere."""
    (tmp_path / "root").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc").chmod(0o777)
    (tmp_path / "root").chmod(0o777)
    (tmp_path / "root/mine").symlink_to(tmp_path / "etc")
    with pytest.raises(Denied):
        try_place(tmp_path / "root/mine/x", tmp_path / "root")
    assert not list((tmp_path / "etc").iterdir())


def test_a_folder_exchanged_after_the_judgement_leads_nowhere(tmp_path: Path) -> None:
    root, etc = tmp_path / "root", tmp_path / "etc"
    for folder in (root, root / "mine", etc):
        folder.mkdir()
        folder.chmod(0o777)
    with restore_place(str(root / "mine/x"), requester=BOB, local=False, roots=(str(root),), forbidden=[]) as target:
        (root / "mine").rename(root / "away")
        (root / "mine").symlink_to(etc)
        target.mkdir()
    assert (root / "away/x").is_dir()
    assert not list(etc.iterdir())


@pytest.mark.parametrize("to", ["relative", "/", "/a/../b", "", "/x\0y"])
def test_what_is_no_plain_absolute_path_is_refused(tmp_path: Path, to: str) -> None:
    with pytest.raises((RequestInvalid, Denied)):
        try_place(to, tmp_path)


def test_outside_every_declared_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "rootling").mkdir()
    (tmp_path / "rootling").chmod(0o777)
    for requester in (BOB, None):
        with pytest.raises(Denied):
            try_place(tmp_path / "rootling/x", tmp_path / "root", requester)


def test_a_parent_that_is_not_there_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(NotFound):
        try_place(tmp_path / "no/x", tmp_path)


def test_an_identified_tier_is_refused_also_to_root_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "source/batch").mkdir(parents=True)
    (tmp_path / "source/batch").chmod(0o777)
    (tmp_path / "door").symlink_to(tmp_path / "source/batch")
    me = Requester(os.geteuid(), os.getegid())
    for to in (tmp_path / "source/batch/x", tmp_path / "door/x"):
        for requester in (BOB, me, None):
            with pytest.raises(Denied):
                try_place(to, tmp_path, requester, tmp_path / "source", local=True)


def test_no_folder_that_holds_a_forbidden_place_is_a_target(tmp_path: Path) -> None:
    """A restore in place into the folder above would replace things in the tier below it."""
    (tmp_path / "all/source").mkdir(parents=True)
    me = Requester(os.geteuid(), os.getegid())
    with pytest.raises(Denied):
        try_place(tmp_path / "all", tmp_path, me, tmp_path / "all/source", local=True)
    (tmp_path / "door").symlink_to(tmp_path / "all/source")
    with pytest.raises(Denied):
        try_place(tmp_path / "door", tmp_path, me, tmp_path / "all/source", local=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_without_posix_rights_only_the_daemons_own_folders_are_written_to(tmp_path: Path) -> None:
    """Found: any operator's token could have root write into any folder below a declared root."""
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice").chmod(0o777)
    os.chown(tmp_path / "alice", OTHER_USER, -1)
    with pytest.raises(Denied):
        try_place(tmp_path / "alice/x", tmp_path, None)


def test_a_tokens_root_stays_below_the_declared_roots(tmp_path: Path) -> None:
    """Found: whoever may make tokens could make one for uid 0 and have root write anywhere. Only the kernel's
    word for it, on the local socket, opens every place."""
    (tmp_path / "root").mkdir()
    (tmp_path / "etc").mkdir()
    for root in (Requester(0, 0), Requester(os.geteuid(), os.getegid())):
        with pytest.raises(Denied):
            try_place(tmp_path / "etc/cron", tmp_path / "root", root)
    me = Requester(os.geteuid(), os.getegid())
    assert try_place(tmp_path / "etc/x", tmp_path / "root", me, local=True) == str(tmp_path / "etc/x")


def test_ones_own_folders_are_welcome(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert try_place(tmp_path / "shared/back", tmp_path) == str(tmp_path / "shared/back")
    assert try_place(tmp_path / "shared/mine", tmp_path, None) == str(tmp_path / "shared/mine")


@pytest.mark.parametrize(
    ("mode", "owner", "rights"),
    [(0o700, (BOB.uid, 0), 7), (0o077, (BOB.uid, BOB.gid), 0), (0o070, (1, BOB.gid), 7), (0o707, (1, BOB.gid), 0),
     (0o705, (1, 1), 5)],
)  # fmt: skip
def test_a_mode_is_read_as_the_kernel_reads_it(mode: int, owner: tuple[int, int], rights: int) -> None:
    """The first class that fits counts, even where a later one would grant more."""
    facts = os.stat_result((0o40000 | mode, 0, 0, 1, *owner, 0, 0, 0, 0))
    assert rights_of(facts, BOB) == rights
