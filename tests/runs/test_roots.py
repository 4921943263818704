"""Run roots on a real file system: what may be removed is removed (tests/security holds what may not)."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mover.errors import ChangedWhileReading, TierDenied, TierFull, TierHung
from mover.runs import roots as module
from mover.runs.roots import FlashRoots, Requester, content_key
from mover.tiers.guard import Guard

PASSING = ".nfs000000000012ab5600000003"


def sealed(tmp_path: Path, *, nfs: bool = False) -> FlashRoots:
    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None, nfs=nfs)
    roots.begin("run-x", Requester(None, None))
    roots.write("run-x", "records.parquet", b"rows")
    (roots.run_root("run-x") / "data").mkdir()
    roots.seal("run-x", Requester(None, None))
    return roots


def marks(roots: FlashRoots) -> dict[str, str]:
    return {s.path: s.mark for s in roots.standing("run-x", manifest={}, own={})}


def test_a_file_with_two_names_is_removed_under_both(tmp_path: Path):
    """Removing the first name moves the inode's change time; that must not look like a change."""
    roots = sealed(tmp_path)
    out = roots.run_root("run-x") / "out"
    (out / "one").write_bytes(b"weights")
    os.link(out / "one", out / "two")
    judged = marks(roots)
    roots.unseal("run-x")
    roots.remove("run-x", judged)
    assert roots.is_gone("run-x")


def test_many_shards_may_begin_one_run_at_once(tmp_path: Path):
    """Found by kills: two shards of a run looked, saw no root, and the second to make it failed the run."""
    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(50):
            list(pool.map(lambda _, run=f"run-{turn}": roots.begin(run, Requester(None, None)), range(8)))
            assert roots.run_root(f"run-{turn}").is_dir()


def test_a_full_tier_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has several flash tiers must learn which one to make room on; nothing half-written stays."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None, name="flash-2")
    roots.begin("run-x", Requester(None, None))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TierFull) as raised:
        roots.write("run-x", "RUN.json", b"{}")
    assert raised.value.where == "flash-2" and list(roots.run_root("run-x").iterdir()) == []


def test_only_what_was_set_aside_is_purged(tmp_path: Path) -> None:
    """The key comes from a row; a row that is wrong must not remove a run, content or the tier's identity."""
    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None)
    roots.begin("run-x", Requester(None, None))
    for key in ("runs/run-x", ".mover/content/ab", ".mover/strays/..", ".mover/strays/", ".mover", "run-x"):
        with pytest.raises(ValueError, match="set aside"):
            roots.purge(key)
    roots.purge(".mover/strays/run-gone")
    assert (tmp_path / "runs/run-x").is_dir() and (tmp_path / ".mover/content").is_dir()


# --- NFS (tests/nfs has the real one) ----------------------------------------------------------------------------


def test_a_passing_name_is_neither_listed_nor_judged_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a removed file that somebody still holds: no artifact, no stray. The folder waits for it, in a bound."""
    roots = sealed(tmp_path, nfs=True)
    out = roots.run_root("run-x") / "out"
    (out / "weights").write_bytes(b"weights")
    (out / PASSING).write_bytes(b"held")
    assert roots.listing("run-x", below="out") == {"out/weights": 7}
    judged = marks(roots)
    assert "out/weights" in judged and f"out/{PASSING}" not in judged
    roots.unseal("run-x")
    waits: list[float] = []
    monkeypatch.setattr(module, "pause", waits.append)
    with pytest.raises(ChangedWhileReading, match="files open"):
        roots.remove("run-x", judged)
    assert waits == [module.PASSING_WAIT_S] * (module.PASSING_TRIES - 1)
    monkeypatch.setattr(module, "pause", lambda _: (out / PASSING).unlink())
    roots.remove("run-x", marks(roots))
    assert roots.is_gone("run-x")


def test_a_passing_name_whose_holder_died_is_a_stray_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that lost power never removes it; without this its root would stay for ever."""
    roots = sealed(tmp_path, nfs=True)
    (roots.run_root("run-x") / "out" / PASSING).write_bytes(b"held")
    monkeypatch.setattr(module, "PASSING_LONGEST_S", -1.0)
    assert f"out/{PASSING}" in marks(roots)


def test_elsewhere_such_a_name_is_a_file(tmp_path: Path) -> None:
    """A job may call its artifact what it likes: on a local file system nothing makes passing names."""
    roots = sealed(tmp_path)
    (roots.run_root("run-x") / "out" / PASSING).write_bytes(b"artifact")
    assert f"out/{PASSING}" in roots.listing("run-x", below="out")


def test_where_owners_cannot_be_given_a_root_is_made_only_for_who_can_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """root_squash: root is nobody in particular. Who is of the export's group works there and is told what is amiss;
    nothing is staged for anybody else."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    monkeypatch.setattr(os, "fchown", refused)
    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None)
    for _ in range(2):  # the second finds the root that the first was refused, or that a crash left
        with pytest.raises(TierDenied, match="CAP_CHOWN"):
            roots.begin("run-y", Requester(64_001, 64_001))
    member = Requester(64_001, tmp_path.stat().st_gid)
    roots.begin("run-x", member)
    (roots.run_root("run-x") / "data").mkdir()
    roots.seal("run-x", member)
    assert "out/ belongs to user" in (roots.shortcoming("run-x", member) or "")
    assert roots.run_root("run-x").stat().st_mode & 0o777 == 0o550
    roots.withdraw("run-x")
    assert roots.run_root("run-x").stat().st_mode & 0o777 == 0o700


def test_a_service_whose_umask_is_closed_still_opens_a_run_to_its_group(tmp_path: Path) -> None:
    """The unit's is 0077: entries could not be read as they came, nor a run's strays by its group."""
    before = os.umask(0o077)
    try:
        roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None)
        roots.begin("run-x", Requester(None, None))
        digest = "00" * 32
        content = tmp_path / content_key(digest)
        content.parent.mkdir(parents=True)
        content.write_bytes(b"slide")
        roots.share("run-x", [(digest, "data/a/slide.svs")], Requester(None, None))
        (roots.run_root("run-x") / "odd").write_bytes(b"odd")
        kept = tmp_path / roots.move_stray("run-x", "odd")
    finally:
        os.umask(before)
    for folder in (roots.run_root("run-x"), roots.run_root("run-x") / "data/a", kept.parent):
        assert folder.stat().st_mode & 0o777 == 0o750


def test_work_on_a_root_whose_tier_hangs_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that waits for a silent server holds a worker's slot, and four of them the whole node."""
    answer = threading.Event()
    guard = Guard("flash", probe=lambda: answer.wait(10), unanswered_s=0.1)
    roots = FlashRoots(tmp_path, reflink=False, check_identity=lambda: None, guard=guard)
    roots.begin("run-x", Requester(None, None))
    monkeypatch.setattr(os, "statvfs", lambda _: answer.wait(10))
    with pytest.raises(TierHung):
        roots.space()
    answer.set()
