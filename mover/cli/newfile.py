"""Files that a command writes for an administrator: whole or not at all, and never over another one.

A full disk, a kill or a power cut leaves no file or the whole one: half of a secret would be kept for ever by the next
call, half of the settings would be left as it is. Modes are set, whatever the umask of a hardened machine takes away.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mover.errors import SettingsInvalid
from mover.wholefile import write_new

FOR_ALL = 0o644
SECRET = 0o600


def place(path: Path, text: str, *, mode: int = FOR_ALL) -> None:
    """Raises FileExistsError where the name is taken, SettingsInvalid where nothing can be written."""
    try:
        write_new(path, text.encode(), mode=mode)
    except FileExistsError:
        raise
    except OSError as error:
        raise SettingsInvalid(
            f"the file cannot be written ({error.strerror})", where=str(path),
            hint="Mend that, and call the command again.",
        ) from error  # fmt: skip


def folder(path: Path, *, mode: int = 0o755) -> None:
    """With what lies above it; one that stands keeps its mode."""
    if not path.is_dir():
        folder(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            path.chmod(mode)


def own_mode(path: Path, mode: int, *, group: int) -> None:
    """Of a file or folder where somebody else may lay links: what the name leads to is never meant."""
    with _held(path) as handle:
        found = os.fstat(handle)
        if (found.st_gid, stat.S_IMODE(found.st_mode)) == (group, mode):
            return
        try:
            os.fchown(handle, -1, group)
            os.fchmod(handle, mode)
        except PermissionError as error:
            raise SettingsInvalid(
                "it is another user's", where=str(path), hint=f"chgrp {group} {path} && chmod {mode:o} {path}"
            ) from error


def give(path: Path, owner: os.stat_result) -> None:
    """A file of root's, in a folder of `owner`'s, who may have put a link of either kind there in its place."""
    facts = path.lstat()
    if facts.st_uid != 0 or not stat.S_ISREG(facts.st_mode):
        return
    with _held(path) as handle:
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_uid == 0 and found.st_nlink == 1:
            os.fchown(handle, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
