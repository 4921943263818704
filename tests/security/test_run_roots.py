"""A job owns its out/ and may still run while we look at it, move its strays and remove its root: nothing it
swaps in may lead us elsewhere, and nothing of one project is open to another (threat model, race rows)."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from mover.decide.cleanup import Standing
from mover.errors import EntryMissing, IntegrityError
from mover.runs.roots import FlashRoots, Requester, content_key

RUN = "run-00000000000000000000000001"
NOBODY = Requester(None, None)


@pytest.fixture
def roots(tmp_path: Path) -> FlashRoots:
    made = FlashRoots(tmp_path / "flash", reflink=False, check_identity=lambda: None)
    made.root.mkdir()
    made.begin(RUN, NOBODY)
    return made


@pytest.fixture
def out(roots: FlashRoots) -> Path:
    """A sealed root with one slide; its out/ is the job's."""
    digest = blake3(b"slide").hexdigest()
    content = roots.root / content_key(digest)
    content.parent.mkdir(parents=True)
    content.write_bytes(b"slide")
    roots.share(RUN, [(digest, "data/a/slide.svs")], NOBODY)
    roots.seal(RUN, NOBODY)
    return roots.run_root(RUN) / "out"


def marks(roots: FlashRoots) -> dict[str, str]:
    return {one.path: one.mark for one in standing(roots)}


def standing(roots: FlashRoots) -> list[Standing]:
    return roots.standing(RUN, manifest={"data/a/slide.svs": blake3(b"slide").hexdigest()}, own={})


def test_nobody_else_reads_content_strays_or_a_root_that_is_still_staged(roots: FlashRoots) -> None:
    """The store holds the slides of every project of the tier, and a stray may be anything (D18)."""
    (roots.root / ".mover/content/ab").mkdir()
    (roots.root / ".mover/content/ab/abcd").write_bytes(b"x")
    roots.share(RUN, [("abcd", "data/n/n.svs")], NOBODY)
    for key in (".mover/content", f"runs/{RUN}", f"runs/{RUN}/data", f"runs/{RUN}/data/n"):
        assert stat.S_IMODE((roots.root / key).stat().st_mode) & 0o007 == 0, key
    for key in (".mover", ".mover/strays", "runs"):
        assert stat.S_IMODE((roots.root / key).stat().st_mode) & 0o006 == 0, key


def test_a_folder_left_open_by_an_earlier_version_is_closed(roots: FlashRoots) -> None:
    (roots.root / ".mover/content").chmod(0o755)
    roots.prepare()
    assert stat.S_IMODE((roots.root / ".mover/content").stat().st_mode) == 0o700


def test_a_moved_stray_is_for_the_runs_group_only(roots: FlashRoots, out: Path) -> None:
    (out / "deep").mkdir()
    (out / "deep/secret.txt").write_text("of this project")
    (out / "deep/secret.txt").chmod(0o644)
    key = roots.move_stray(RUN, "out/deep/secret.txt")
    assert (roots.root / key).read_text() == "of this project"
    for folder in (roots.root / key).parents:
        if folder.name == "strays":
            break
        assert stat.S_IMODE(folder.stat().st_mode) & 0o007 == 0


def test_a_folder_swapped_for_a_link_leads_no_move_elsewhere(roots: FlashRoots, out: Path) -> None:
    """Before: os.replace by path moved another run's file, or the content store's, into the strays."""
    victim = roots.root / "runs" / "run-of-somebody-else"
    victim.mkdir()
    (victim / "weights.pt").write_bytes(b"theirs")
    (out / "a").mkdir()
    (out / "a/weights.pt").write_bytes(b"mine")
    assert "out/a/weights.pt" in roots.listing(RUN)
    (out / "a/weights.pt").unlink()
    (out / "a").rmdir()
    (out / "a").symlink_to(victim)
    with pytest.raises(EntryMissing):
        roots.move_stray(RUN, "out/a/weights.pt")
    assert (victim / "weights.pt").read_bytes() == b"theirs"


def test_a_link_as_out_is_neither_listed_nor_entered(roots: FlashRoots, out: Path, tmp_path: Path) -> None:
    """An unprivileged daemon shares its uid with jobs on small sites: then out/ itself can be exchanged."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root")
    roots.run_root(RUN).chmod(0o750)
    out.rmdir()
    out.symlink_to(tmp_path / "etc")
    with pytest.raises(OSError):
        roots.listing(RUN, below="out")
    assert [one.kind for one in standing(roots) if one.path == "out"] == ["symlink"]
    with pytest.raises(OSError):
        roots.withdraw(RUN)
    assert (tmp_path / "etc").stat().st_mode & 0o777 == 0o755


def test_a_stray_of_the_same_name_is_never_written_over(roots: FlashRoots, out: Path) -> None:
    (out / "x").write_text("first")
    first = roots.move_stray(RUN, "out/x")
    (out / "x").write_text("second")
    second = roots.move_stray(RUN, "out/x")
    assert first != second
    assert [(roots.root / key).read_text() for key in (first, second)] == ["first", "second"]
    assert roots.move_stray(RUN, "out/x") in (first, second)  # asked again after a crash


def test_what_appears_after_the_plan_is_not_removed(roots: FlashRoots, out: Path) -> None:
    """Before: one look, then rmtree; a job that still wrote lost what it wrote in between (I5)."""
    (out / "model.pt").write_bytes(b"protected")
    planned = marks(roots)
    roots.unseal(RUN)
    roots.withdraw(RUN)
    (out / "late.txt").write_text("not protected")
    with pytest.raises(IntegrityError):
        roots.remove(RUN, planned)
    assert (out / "late.txt").read_text() == "not protected"


@pytest.mark.parametrize("how", ["append", "same size", "exchange"])
def test_what_changes_after_it_was_judged_is_not_removed(roots: FlashRoots, out: Path, how: str) -> None:
    model = out / "model.pt"
    model.write_bytes(b"protected")
    planned = marks(roots)
    if how == "append":
        with model.open("ab") as file:
            file.write(b"+")
    elif how == "same size":
        times = model.stat()
        model.write_bytes(b"PROTECTED")
        os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        (out / "other").write_bytes(b"protected")
        (out / "other").rename(model)
    roots.unseal(RUN)
    roots.withdraw(RUN)
    with pytest.raises(IntegrityError):
        roots.remove(RUN, planned)
    assert model.exists()


def test_the_root_goes_when_all_is_as_judged(roots: FlashRoots, out: Path) -> None:
    (out / "a/b").mkdir(parents=True)
    (out / "a/b/model.pt").write_bytes(b"protected")
    (out / "link").symlink_to("/etc/passwd")
    planned = marks(roots)
    roots.unseal(RUN)
    roots.withdraw(RUN)
    roots.remove(RUN, planned)
    assert roots.is_gone(RUN)
    roots.withdraw(RUN)
    roots.remove(RUN, planned)  # again, as after a kill


def test_after_withdrawal_nobody_comes_in_by_path(roots: FlashRoots, out: Path) -> None:
    roots.unseal(RUN)
    roots.withdraw(RUN)
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(roots.run_root(RUN).stat().st_mode) == 0o700


def test_pipes_and_depth_do_not_hold_or_break_the_walk(roots: FlashRoots, out: Path) -> None:
    """A FIFO would block an open for ever; each nested folder is an open descriptor."""
    os.mkfifo(out / "pipe")
    here = os.open(out, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = {one.path: one.kind for one in standing(roots)}
    assert found["out/pipe"] == "other"
    deep = [path for path in found if path.startswith("out/d")]
    assert len(deep) == 1 and found[deep[0]] == "other"
    key = roots.move_stray(RUN, deep[0])
    assert (roots.root / key).is_dir()
    roots.move_stray(RUN, "out/pipe")
    planned = marks(roots)
    roots.unseal(RUN)
    roots.withdraw(RUN)
    roots.remove(RUN, planned)
    assert roots.is_gone(RUN)


@pytest.mark.slow
def test_a_job_that_swaps_folders_for_links_for_a_while_moves_nothing_of_others(
    roots: FlashRoots, out: Path
) -> None:
    """The race itself: a thread exchanges out/a for a link to another run's folder as fast as it can."""
    victim = roots.root / "runs" / "run-of-somebody-else"
    victim.mkdir()
    (victim / "f").write_bytes(b"theirs")
    (out / "real").mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in (out / "real", victim):
                os.symlink(target, out / "next")
                os.rename(out / "next", out / "a")
                os.unlink(out / "a")
                if target != victim:
                    os.rename(out / "real", out / "a")
                    (out / "a/f").write_bytes(b"mine")
                    os.rename(out / "a", out / "real")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(3000):
            try:
                roots.move_stray(RUN, "out/a/f")
            except (OSError, EntryMissing):
                continue
    finally:
        stop.set()
        swapper.join()
    assert (victim / "f").read_bytes() == b"theirs"
    strays = roots.root / ".mover/strays" / RUN
    assert all(path.read_bytes() == b"mine" for path in strays.rglob("f*") if path.is_file())
