"""`finish` may name a code tree: git is asked about it, and a repository is a program for git. Whatever its
configuration names, nothing of it runs, and nothing outside the tree is read (the deputy, runs.md)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mover.errors import Denied
from mover.protect import git as room
from mover.protect.git import look_at
from mover.repository import reading
from mover.repository.facts import Disk
from mover.repository.reading import Requester, open_reader
from mover.sandbox import confine
from tests.support.folders import open_the_way

FOREIGN = Requester(64_001, 64_001)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="taking on another user's rights needs root")
needs_landlock = pytest.mark.skipif(not confine.landlock_abi(), reason="this kernel has no Landlock")
pytestmark = pytest.mark.slow


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, name: str = "train.py") -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / name).write_text("first\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_an_honest_tree_gives_its_commit_and_its_changes(tmp_path: Path) -> None:
    """The fences must not shut out what they are there for: also with binary changes and many files."""
    tree = repository(tmp_path / "tree")
    for n in range(300):
        (tree / f"f{n}").write_text("x")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "more")
    (tree / "train.py").write_text("second\n")
    (tree / "f7").write_bytes(bytes(range(256)))
    state = look_at(Disk(tmp_path, "tree"))
    assert state is not None
    assert state.commit.decode().strip() == git(tree, "rev-parse", "HEAD")
    assert b"+second" in state.diff and b"GIT binary patch" in state.diff


def in_a_submodule(folder: Path, command: str) -> None:
    """`git diff` looks whether submodules are dirty, with a git of its own in each."""
    inner = repository(folder.parent / "inner")
    git(folder, "submodule", "add", "-q", str(inner), "lib")
    git(folder, "commit", "-qm", "submodule")
    git(folder / "lib", "config", "filter.x.clean", command)
    (folder / "lib/.gitattributes").write_text("* filter=x\n")
    (folder / "lib/train.py").write_text("changed\n")


def as_a_filter(folder: Path, command: str) -> None:
    git(folder, "config", "filter.x.clean", command)
    (folder / ".gitattributes").write_text("* filter=x\n")


def by_an_include(folder: Path, command: str) -> None:
    (folder / "more").write_text(f'[filter "x"]\n  clean = "{command}"\n')
    git(folder, "config", "include.path", "../more")
    (folder / ".gitattributes").write_text("* filter=x\n")


def as_monitor(folder: Path, command: str) -> None:
    (folder / "monitor").write_text(f"#!/bin/sh\n{command}\n")
    (folder / "monitor").chmod(0o755)
    git(folder, "config", "core.fsmonitor", str(folder / "monitor"))


def as_differ(folder: Path, command: str) -> None:
    git(folder, "config", "diff.x.command", command)
    git(folder, "config", "diff.x.textconv", command)
    git(folder, "config", "diff.external", command)
    (folder / ".gitattributes").write_text("* diff=x\n")


def as_pager_and_aliases(folder: Path, command: str) -> None:
    git(folder, "config", "core.pager", command)
    git(folder, "config", "alias.diff", f"!{command}")
    git(folder, "config", "alias.rev-parse", f"!{command}")


def by_a_promised_object(folder: Path, command: str) -> None:
    """A missing object is fetched from the remote that promised it, over a transport that is a command."""
    blob = git(folder, "rev-parse", "HEAD:train.py")
    (folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for name, value in {
        "core.repositoryformatversion": "1", "extensions.partialClone": "evil", "remote.evil.promisor": "true",
        "remote.evil.url": str(folder), "remote.evil.uploadpack": command, "protocol.allow": "always",
    }.items():  # fmt: skip
        git(folder, "config", name, value)


ATTACKS = [
    in_a_submodule, as_a_filter, by_an_include, as_monitor, as_differ, as_pager_and_aliases, by_a_promised_object,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("fences", ["no-landlock", pytest.param("all", marks=pytest.mark.soak)])
def test_nothing_that_a_tree_names_is_run(
    tmp_path: Path, attack: Callable[[Path, str], None], fences: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: a clean filter of a submodule ran with the daemon's rights. Each set of fences holds alone; what
    one holds, more of them hold too."""
    if fences == "no-landlock":
        boot = "from mover.sandbox import confine; confine.landlock_abi = lambda: 0; "
        monkeypatch.setattr(room, "_BOOT", room._BOOT.replace("from mover.protect", boot + "from mover.protect"))
    tree = repository(tmp_path / "tree")
    trace = tmp_path / "ran"
    attack(tree, f"touch {trace}; cat")
    (tree / "train.py").write_text("second\n")
    look_at(Disk(tmp_path, "tree"))
    assert not trace.exists()


@needs_landlock
def test_another_working_tree_that_the_configuration_names_is_not_read(tmp_path: Path) -> None:
    """Found: `core.worktree = /etc` put the shadow file, read as root, into the requester's own snapshot."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "train.py").write_text("a secret of the daemon\n")
    tree = repository(tmp_path / "tree")
    git(tree, "config", "core.worktree", str(elsewhere))
    state = look_at(Disk(tmp_path, "tree"))
    assert state is None or b"secret" not in state.diff


@needs_landlock
@pytest.mark.parametrize("way", ["gitfile", "alternates", "link"])
def test_another_repository_is_not_read(tmp_path: Path, way: str) -> None:
    other = repository(tmp_path / "other", "secret.txt")
    tree = repository(tmp_path / "tree")
    if way == "gitfile":
        subprocess.run(["rm", "-r", tree / ".git"], check=True)
        (tree / ".git").write_text(f"gitdir: {other}/.git\n")
    elif way == "alternates":
        (tree / ".git/objects/info/alternates").write_text(f"{other}/.git/objects\n")
        (tree / ".git/HEAD").write_text(git(other, "rev-parse", "HEAD") + "\n")
    else:
        subprocess.run(["rm", "-r", tree / ".git"], check=True)
        (tree / ".git").symlink_to(other / ".git")
    assert look_at(Disk(tmp_path, "tree")) is None


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    """The path is the requester's word; git must look where the snapshot looks."""
    repository(tmp_path / "secret")
    (tmp_path / "tree").symlink_to(tmp_path / "secret")
    assert look_at(Disk(tmp_path, "tree")) is None


def test_a_huge_answer_and_a_hanging_git_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A diff of terabytes is cut at a bound, not gathered first; what hangs is killed."""
    tree = repository(tmp_path / "tree")
    (tree / "train.py").write_text("x\n" * 600_000)
    monkeypatch.setattr(room, "ANSWER_MAX_BYTES", 1 << 20)
    monkeypatch.setattr(room, "PIECE_BYTES", 1 << 16)
    assert look_at(Disk(tmp_path, "tree")) is None
    monkeypatch.setattr(room, "TIMEOUT_S", 0.5)
    (tree / ".git/HEAD").unlink()
    os.mkfifo(tree / ".git/HEAD")
    began = time.monotonic()
    assert look_at(Disk(tmp_path, "tree")) is None
    assert time.monotonic() - began < 100


@needs_root
def test_git_reads_as_the_requester(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    open_the_way(tmp_path)
    tree.chmod(0o700)
    assert look_at(Disk(tmp_path, "tree", FOREIGN)) is None
    tree.chmod(0o755)
    state = look_at(Disk(tmp_path, "tree", FOREIGN))
    assert state is not None


def test_without_the_requesters_rights_git_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: git ran first, with the daemon's own rights, and only the reading was denied."""
    repository(tmp_path / "tree")
    monkeypatch.setattr(reading, "can_become_others", lambda: False)
    with pytest.raises(Denied):
        look_at(Disk(tmp_path, "tree", FOREIGN))


@needs_root
def test_the_way_to_a_root_may_be_closed_to_the_requester(tmp_path: Path) -> None:
    """Jobs run on other nodes; on the storage node the flash may stand behind a folder of the daemon's. Below the
    root only the requester's rights count."""
    (tmp_path / "closed/flash/out").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    (tmp_path / "closed/flash/out/mine").write_text("x")
    (tmp_path / "closed/flash/secret").mkdir(mode=0o700)
    root = tmp_path / "closed/flash"
    reader = open_reader(FOREIGN, root=root)
    try:
        folder = reader.open_root(root, "out")
        assert not isinstance(folder, int) and reader.names(folder) == [b"mine"]
        for relative in ("secret", "../flash/out", "out/../secret"):
            with pytest.raises(OSError):
                reader.open_root(root, relative)
        with pytest.raises(OSError):
            reader.open_root(tmp_path / "closed", "flash")
    finally:
        reader.close()
