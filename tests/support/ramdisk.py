"""A folder that several test processes share, in memory where there is plenty: a disk makes who syncs wait."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MEMORY = Path("/dev/shm")
# what a whole run leaves there is a quarter of it; in a container it is often 64 MB
FREE_BYTES = 8 << 30
_PREFIX = "mover-tests-"


@contextmanager
def folder(shared: Path, name: str) -> Iterator[Path]:
    """The same for all who know `shared`, which is on disk; gone when the last of them leaves."""
    with _alone(shared):
        place = _found(shared / name)
        use = _use(place)
        fcntl.flock(use, fcntl.LOCK_SH)
    try:
        yield place
    finally:
        with _alone(shared):
            use.close()
            if place.is_relative_to(MEMORY):
                _remove_unused(place)


def _found(link: Path) -> Path:
    """Where an earlier process put it, or a new one."""
    if not link.is_dir():
        link.unlink(missing_ok=True)  # it led to what the last one removed
        if _is_plenty():
            for left in MEMORY.glob(f"{_PREFIX}*"):  # by runs that were killed
                _remove_unused(left)
            link.symlink_to(tempfile.mkdtemp(prefix=_PREFIX, dir=MEMORY))
        else:
            link.mkdir()
    return link.resolve()


def _is_plenty() -> bool:
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return False
    available = int(Path("/proc/meminfo").read_text("ascii").partition("MemAvailable:")[2].split()[0]) << 10
    return min(available, shutil.disk_usage(MEMORY).free) >= FREE_BYTES


def _remove_unused(place: Path) -> None:
    try:
        with _use(place) as use:
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
    except OSError:
        pass  # somebody uses it, or it is somebody else's


def _use(place: Path) -> IO[bytes]:
    return open(place / "in-use", "ab")


@contextmanager
def _alone(shared: Path) -> Iterator[None]:
    """Also among other runs: what one has just made and does not use yet, another would take for left."""
    lock = os.open(MEMORY if MEMORY.is_dir() else shared, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
