"""Mounts must never be left behind, never reach outside their root, and never be a reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mover.demo import places, trees
from mover.errors import MoverError

ROOT = os.geteuid() == 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A root whose name needs escaping in mountinfo, beside a small source."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "slide.svs").write_bytes(b"pixels")
    return tmp_path / "a root"


@pytest.mark.slow
def test_what_can_be_mounted_is_mounted_and_all_of_it_goes_again(base: Path) -> None:
    made = places.prepare(base, source=base.parent / "source")
    try:
        assert (Path(made.source.path) / "slide.svs").read_bytes() == b"pixels"
        for place in (made.flash, made.protect):
            (Path(place.path) / "file").write_bytes(b"x")
            assert place.name in place.sentence
        if made.source.read_only:
            with pytest.raises(OSError, match="Read-only"):
                (Path(made.source.path) / "intruder").touch()
        if made.flash.kind != "folder":
            devices = {os.stat(place.path).st_dev for place in made.all}
            assert len(devices) == 3
    finally:
        undone = places.release(made)
    assert places.mounts_below(base) == []
    assert len(undone) == sum(place.kind != "folder" for place in made.all)
    assert (base.parent / "source" / "slide.svs").exists()


@pytest.mark.slow
def test_a_killed_run_leaves_mounts_that_the_next_one_replaces(base: Path) -> None:
    source = base.parent / "source"
    script = (
        "from pathlib import Path; from mover.demo import places; import os, signal; "
        f"places.prepare(Path({str(base)!r}), source=Path({str(source)!r})); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    try:
        first = places.prepare(base, source=source)
        (Path(first.flash.path) / "kept").touch()
        mounted = len(places.mounts_below(base))
        again = places.prepare(base, source=source, fresh=False)
        assert (Path(again.flash.path) / "kept").exists()
        assert len(places.mounts_below(base)) == mounted
        assert not (Path(places.prepare(base, source=source).flash.path) / "kept").exists()
    finally:
        places.release(base)


def test_without_root_everything_is_a_plain_folder_that_says_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user gets the same demo with fewer walls, not a failure."""
    owner = base.parent.stat().st_uid
    monkeypatch.setattr(places, "_need_root", _refuse)
    made = places.prepare(base, source=base.parent / "source")
    assert owner == os.geteuid()
    assert {place.kind for place in made.all} == {"folder"}
    assert all("mounting needs root" in place.sentence for place in made.all)
    assert made.source.path == str(base.parent / "source")


def _refuse() -> None:
    raise places._Refused("mounting needs root")


@pytest.mark.skipif(not ROOT, reason="needs root to become somebody else")
def test_leftovers_of_another_user_are_met_with_a_hint(base: Path) -> None:
    """A demo once run by root must tell the ordinary user what to remove."""
    base.mkdir(mode=0o700)
    (base / "images").mkdir()
    base.parent.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        verdict = 9
        try:
            os.setuid(65534)
            places.own(base)
            verdict = 0
        except MoverError as error:
            verdict = 7 if "sudo rm -rf" in error.advice else 8
        finally:
            os._exit(verdict)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_an_ordinary_user_can_remove_sealed_run_roots(tmp_path: Path) -> None:
    """A sealed folder refuses unlinking even to its owner: `make clean` and a second demo ended there."""
    sealed = tmp_path / "flash" / "runs" / "run-1" / "data"
    sealed.mkdir(parents=True)
    (sealed / "slide.svs").write_bytes(b"pixels")
    sealed.chmod(0o550)
    if not ROOT:
        trees.remove_tree(tmp_path / "flash")
        assert not (tmp_path / "flash").exists()
        return
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 65534, 65534)
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(tmp_path)  # first: pytest's own folders above are closed to others
            os.setuid(65534)
            trees.remove_tree(Path("flash"))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert not (tmp_path / "flash").exists()


def test_only_mounts_below_the_root_are_ours(base: Path) -> None:
    everywhere = places.mounts_below(Path("/"))
    assert "/proc" in everywhere
    assert places.mounts_below(base) == [] and places.mounts_below(Path("/pro")) == []
