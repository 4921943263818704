"""The folder that policies stand in: how it looks, and one file of it replaced so that each moment has a whole one.

People edit here, too. So a file is replaced only while it is what was edited, and a text is saved as it was typed.
"""

from __future__ import annotations

import os
from pathlib import Path

from mover.errors import Conflict, RequestInvalid
from mover.policy import FILE_LIMIT_BYTES, PROFILES, PolicyBook, default_folder, digest_of, load_policies
from mover.wholefile import sync_folder, write_over

# of a file that was not there before: people of the group may read it
MODE = 0o640
Look = tuple[tuple[str, int, int, int], ...]


class Folder:
    """Blocking, all of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look(self) -> Look:
        """Equal as long as nobody changed anything."""
        found = [item for folder in (self.path, self.path / PROFILES) if folder.is_dir() for item in os.scandir(folder)]
        facts = [(item.path, item.stat()) for item in found if not item.is_dir()]
        return tuple(sorted((name, one.st_mtime_ns, one.st_size, one.st_ino) for name, one in facts))

    def load(self, *, instead: tuple[Path, str | None] | None = None) -> PolicyBook:
        return load_policies(self.path, instead=dict([instead]) if instead else None)

    def place(self, name: str, kind: str, known: str | None) -> Path:
        """Where this policy stands, or will. `name` is a policy's, so that it leads nowhere else."""
        if known is not None:
            return Path(known)
        return (self.path / PROFILES if kind == "deid" else self.path) / f"{name}.yaml"

    def text(self, place: Path) -> str | None:
        """None where nothing stands."""
        try:
            with open(place, "rb") as file:
                return file.read(FILE_LIMIT_BYTES + 1).decode("utf-8-sig", "replace")
        except FileNotFoundError:
            return None

    def digest(self, place: Path) -> str | None:
        text = self.text(place)
        return None if text is None else digest_of(text)

    def why_not(self, place: Path) -> str:
        """Why this file cannot be changed here, or nothing."""
        if self.path.resolve() == default_folder().resolve():
            return "these policies came with the software, and its next version replaces them"
        if place.is_symlink():
            return "the file is a link: what it leads to is changed where it stands"
        if place.parent.is_dir() and not os.access(place.parent, os.W_OK | os.X_OK):
            return "the daemon may not write into the folder of policies"
        return ""

    def replace(self, place: Path, text: str | None, *, base: str | None) -> None:
        """The file is `text`, or gone, if it was `base`; raises Conflict otherwise, and OSError where it cannot be.
        Killed at any moment, either the one or the other stands there whole."""
        if self.digest(place) != base:
            raise Conflict("the file was changed meanwhile", where=place.name)
        if text is None:
            place.unlink()
            sync_folder(place.parent)
        else:
            place.parent.mkdir(mode=0o750, exist_ok=True)
            self._renamed(place, text.encode())

    def _renamed(self, place: Path, data: bytes) -> None:
        if len(data) > FILE_LIMIT_BYTES:
            raise RequestInvalid(f"a policy is at most {FILE_LIMIT_BYTES} bytes", where="$.text")
        mode = place.stat().st_mode & 0o777 if place.exists() else MODE
        write_over(place, data, mode=mode)
