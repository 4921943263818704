"""What looks at folders: everything once, nothing followed, and what was not seen has a name."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mover.walk import reader as module
from mover.walk.bench import walk_posix
from mover.walk.reader import Job, Reader, Seen, Task

ODD = [
    b"plain", b"caf\xe9", b"new\nline", b"tab\tand space ", b"-rf", b"*", b"\xff\xfe\x80", b"a" * 255,
    "löffel".encode(),
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir(mode=0o755)
    return made


def reader(root: Path, **more: object) -> Reader:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    told = {"hide": True, "cross_mounts": False, **more}
    return Reader(Job(scan=b"scan", root=descriptor, sealed=True, **told))  # type: ignore[arg-type]


def look(root: Path, *folders: bytes, **more: object) -> list[Seen]:
    one = reader(root, **more)
    return [seen for some in one.read([Task(folder) for folder in folders or (b"",)]) for seen in some]


def everything(root: Path, **more: object) -> dict[bytes, Seen]:
    """Below the root, folder by folder, as a walk would ask."""
    one, left, found = reader(root, **more), [b""], {}
    while left:
        for some in one.read([Task(left.pop())]):
            for seen in some:
                assert seen.folder not in found
                found[seen.folder] = seen
                left += seen.folders
    return found


def keys(seen: Seen) -> set[bytes]:
    return {seen.folder + b"/" + name if seen.folder else name for name in seen.names}


def test_every_name_of_every_folder_is_seen_once_whatever_its_bytes(root: Path) -> None:
    """A name that is no text is a file like any other; a walk that loses it loses a patient's slide."""
    for folder in (b".", b"one", b"one/caf\xe9", b"one/caf\xe9/deep", b"empty"):
        os.makedirs(os.path.join(bytes(root), folder), exist_ok=True)
    for folder in (b".", b"one", b"one/caf\xe9/deep"):
        for name in ODD[3:] if folder == b"one" else ODD:
            (root / os.fsdecode(folder) / os.fsdecode(name + b".x" if len(name) < 250 else name)).write_bytes(name)
    os.mkfifo(root / "pipe")
    os.symlink("one", root / "link")
    found = everything(root)
    wanted = {
        os.fsencode(os.path.relpath(os.path.join(at, name), root))
        for at, folders, names in os.walk(root)
        for name in [*names, *(folder for folder in folders if os.path.islink(os.path.join(at, folder)))]
    }
    assert set().union(*map(keys, found.values())) == wanted
    assert sum(seen.entries for seen in found.values()) == len(wanted)
    assert set(found) == {b"", b"one", b"one/caf\xe9", b"one/caf\xe9/deep", b"empty"}
    assert not any(seen.findings for seen in found.values())


def test_states_are_the_kernels_own(root: Path) -> None:
    """Size, times, inode and kind are read out of a raw buffer: a wrong offset would be wrong for everything."""
    (root / "file").write_bytes(b"x" * 70_000)
    os.utime(root / "file", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root, ns=(1, 1))
    (root / "sparse").touch()
    os.truncate(root / "sparse", 1 << 40)
    one = reader(root)
    part = one._ask(Task(b""), one._job.root, 0, True, [b"file", b"sparse"])
    columns = module._columns(one._states[:2]).tolist()
    for name, row in zip(part.names, columns, strict=True):
        status = os.stat(root / os.fsdecode(name))
        mode = stat.S_IFMT(status.st_mode) >> 12
        assert row == [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns, mode]


def test_a_link_is_seen_and_never_followed(root: Path, tmp_path: Path) -> None:
    """A link out of the root would bring another tier's names, or the whole machine's, into the catalog."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    os.symlink(outside, root / "way")
    [seen] = look(root)
    assert (seen.names, seen.folders) == ([b"way"], [])
    # and a folder that became a link since it was found
    [seen] = look(root, b"way")
    assert (seen.names, [f.code for f in seen.findings]) == ([], ["folder-replaced"])
    assert seen.digest == b""


def test_a_folder_that_may_not_be_read_is_a_finding(root: Path) -> None:
    """Silently fewer entries would be marked gone by whoever trusts the walk (I7)."""
    for name, mode in (("shut", 0o000), ("unsearchable", 0o444), ("open", 0o755)):
        (root / name).mkdir()
        (root / name / "inside").touch()
        (root / name).chmod(mode)
    one = reader(root)
    with as_nobody():
        found = [seen for some in one.read([Task(b"shut"), Task(b"unsearchable"), Task(b"open")]) for seen in some]
    codes = {seen.folder: [f.code for f in seen.findings] for seen in found}
    assert codes == {b"shut": ["denied"], b"unsearchable": ["denied"], b"open": []}
    assert {seen.folder: seen.names for seen in found if seen.names} == {b"open": [b"inside"]}


class as_nobody:
    """Where the tests run as root, who may read everything."""

    def __enter__(self) -> None:
        self._root = os.geteuid() == 0
        if self._root:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self._root:
            os.seteuid(0)


def test_a_folder_that_vanished_is_a_finding(root: Path) -> None:
    [seen] = look(root, b"was/here")
    assert ([f.code for f in seen.findings], seen.digest, seen.last) == (["folder-vanished"], b"", True)


def test_a_name_that_vanished_before_it_was_asked_is_counted_and_not_kept(root: Path) -> None:
    """That is daily life on a tier in use, and no reason to doubt the rest of the folder."""
    for name in ("a", "c"):
        (root / name).write_text(name)
    one = reader(root)
    part = one._ask(Task(b""), one._job.root, 0, True, [b"ghost", b"a", b"ghost2", b"c"])
    assert (part.names, part.vanished, part.findings) == ([b"a", b"c"], 2, [])
    assert module._columns(one._states[:2])[:, 2].tolist() == [os.stat(root / n).st_ino for n in "ac"]


def test_our_own_and_passing_names_are_hidden_but_nothing_else(root: Path) -> None:
    for name in (".nfs000000000012ab5600000003", ".mover-tmp-12", ".hidden", "x"):
        (root / name).touch()
    for folder in (root / ".mover", root / "sub" / ".mover"):
        folder.mkdir(parents=True)
    assert set(look(root)[0].names) == {b".hidden", b"x"}
    assert look(root)[0].folders == [b"sub"]
    assert look(root, b"sub")[0].folders == [b"sub/.mover"]
    assert set(look(root, hide=False)[0].names) == {b".nfs000000000012ab5600000003", b".mover-tmp-12", b".hidden", b"x"}


def test_a_wide_folder_comes_in_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million files in one folder must not stand in memory at once."""
    monkeypatch.setattr(module, "PART", 10)
    for number in range(35):
        (root / f"f{number}").touch()
    for number in range(3):
        (root / f"d{number}").mkdir()
    found = look(root)
    assert [(seen.part, seen.last) for seen in found] == [(0, False), (1, False), (2, False), (3, True)]
    assert len(set().union(*map(keys, found))) == 35 == sum(seen.entries for seen in found)
    assert sorted(folder for seen in found for folder in seen.folders) == [b"d0", b"d1", b"d2"]
    again = [seen for some in reader(root).read([Task(b"", [seen.digest for seen in found])]) for seen in some]
    assert all(seen.same and not seen.names for seen in again)


CHANGES = {
    "a new file": lambda root: (root / "new").touch(),
    "a file is gone": lambda root: (root / "a").unlink(),
    "a file is renamed": lambda root: (root / "a").rename(root / "z"),
    "a file has grown": lambda root: (root / "a").write_bytes(b"xy"),
    "a file was written over, same size and time": lambda root: over(root / "a"),
    "a mode has changed": lambda root: (root / "a").chmod(0o600),
    "a file became a link": lambda root: ((root / "a").unlink(), os.symlink("b", root / "a")),
    "a folder was made": lambda root: (root / "dir2").mkdir(),
    "a folder was replaced": lambda root: replace(root / "dir"),
}


def replace(folder: Path) -> None:
    aside = folder.rename(folder.with_name("aside"))
    folder.mkdir()
    aside.rmdir()


def over(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_in_a_folder_changes_its_digest(root: Path, change: str) -> None:
    """An unchanged digest means that no entry is looked at in the catalog: it must never lie."""
    for name in "ab":
        (root / name).write_bytes(b"x")
    (root / "dir").mkdir()
    before = look(root)[0].digest
    assert look(root)[0].digest == before
    CHANGES[change](root)
    assert look(root)[0].digest != before


def test_what_happens_below_a_folder_does_not_change_its_parent(root: Path) -> None:
    (root / "dir").mkdir()
    before = look(root)[0].digest
    (root / "dir" / "new").touch()
    assert look(root)[0].digest == before


def test_digests_of_identified_tiers_are_keyed(root: Path) -> None:
    """Without the key, who has the catalog cannot try names against a folder's digest."""
    (root / "SMITH, JANE.svs").touch()
    digests = {look(root, key=key)[0].digest for key in (b"", bytes(32), bytes(range(32)))}
    assert len(digests) == 3


@pytest.fixture
def mounted(root: Path) -> Iterator[Path]:
    (root / "mnt").mkdir()
    (root / "file").touch()
    done = subprocess.run(["mount", "-t", "tmpfs", "none", root / "mnt"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting needs rights that this user lacks")
    (root / "mnt" / "other").touch()
    yield root
    subprocess.run(["umount", root / "mnt"], check=True)


def test_a_mount_below_the_root_is_another_place(mounted: Path) -> None:
    """What is mounted there may be another tier, or an hour's walk; it is crossed only when somebody says so."""
    [seen] = look(mounted)
    assert (seen.names, seen.folders) == ([b"file"], [])
    assert [(f.code, f.key) for f in seen.findings] == [("other-mount", b"mnt")]
    [seen] = look(mounted, cross_mounts=True)
    assert (seen.folders, seen.findings) == ([b"mnt"], [])


@pytest.mark.slow
def test_processes_see_what_one_reader_sees(root: Path) -> None:
    for number in range(40):
        folder = root / f"d{number % 7}" / f"e{number}"
        folder.mkdir(parents=True)
        for name in range(number):
            (folder / f"f{name}").touch()
    found: list[Seen] = []
    totals = walk_posix(root, found.append)
    assert totals.entries == sum(range(40)) == sum(seen.entries for seen in found)
    assert totals.folders == 48 == len({seen.folder for seen in found})
    assert {seen.folder: seen.digest for seen in found} == {
        folder: seen.digest for folder, seen in everything(root).items()
    }


def test_a_reading_process_imports_little() -> None:
    """Its start is part of every walk, and what it does not hold it cannot lose."""
    code = "import sys, mover.walk.reader; print(' '.join(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {"psycopg", "aiohttp", "obstore", "asyncio", "pyarrow", "prometheus_client"} & set(told)
