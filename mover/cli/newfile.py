"""Files that a command writes for an administrator: whole or not at all, and never over another one.

A full disk, a kill or a power cut leaves no file or the whole one: half of a secret would be kept for ever by the next
call, half of the settings would be left as it is. Modes are set, whatever the umask of a hardened machine takes away.
"""

from __future__ import annotations

import contextlib
import os
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


def own_mode(path: Path, mode: int) -> None:
    """Of a file or folder where somebody else may lay links: what the name leads to is never meant."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(handle, mode)
    finally:
        os.close(handle)
