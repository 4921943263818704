"""Small files that stand whole or not at all: keys, settings, states.

Written beside their name, synced, then named; the folder is synced last. After a kill, a full disk or a power cut there
is the file that was there before, or none, or the new one, and never half of one. Raises OSError as it comes, for the
caller knows what the file is; FileExistsError only where `write_new` finds the name taken.
"""

from __future__ import annotations

import os
from pathlib import Path

from mover.randomness import random_bytes

SECRET = 0o600


def write_new(path: Path, data: bytes, *, mode: int = SECRET) -> None:
    """Never over another file."""
    side = _written_beside(path, data, mode)
    try:
        os.link(side, path)
    finally:
        side.unlink()
    sync_folder(path.parent)


def write_over(path: Path, data: bytes, *, mode: int = SECRET) -> None:
    side = _written_beside(path, data, mode)
    try:
        os.replace(side, path)
    except BaseException:
        side.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """What was named or removed in it stays so."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _written_beside(path: Path, data: bytes, mode: int) -> Path:
    """Its mode is set, whatever the umask takes away, and nobody else can read it from the first byte on."""
    side = path.with_name(f".{path.name[:200]}.{random_bytes(4).hex()}.part")
    handle = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, SECRET)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
    except BaseException:
        side.unlink()
        raise
    return side
