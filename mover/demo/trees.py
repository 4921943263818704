"""Compare two folders as a person would after a restore (names, kinds, bytes, link targets, modes), and remove one."""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
from pathlib import Path

from mover.errors import SettingsInvalid


def differences(one: Path, other: Path) -> list[str]:
    """What differs, by relative path; empty when the trees are equal."""
    first, second = _entries(one), _entries(other)
    found = [f"only in one of them: {name!r}" for name in sorted(first.keys() ^ second.keys())]
    for name in sorted(first.keys() & second.keys()):
        if first[name] != second[name]:
            found.append(f"kind, mode, size or target differ: {name!r}")
        elif first[name][0] == "file" and not filecmp.cmp(one / name, other / name, shallow=False):
            found.append(f"bytes differ: {name!r}")
    return found


def remove_tree(root: Path) -> None:
    """Gone, sealed run roots below it too: their folders cannot be written, so an ordinary user opens them first.
    What is another user's is met with a hint."""
    if not root.exists():
        return
    try:
        for folder, names, _ in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(root)
    except PermissionError as error:
        raise SettingsInvalid(
            "Leftovers of another user stand where the demo wants to work",
            where=str(root),
            hint=f"Remove them (sudo rm -rf '{root}') or choose another place.",
        ) from error


def _entries(root: Path) -> dict[str, tuple[str, int, int, str]]:
    found = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder) / name
            facts = path.lstat()
            relative = str(path.relative_to(root))
            if stat.S_ISLNK(facts.st_mode):
                found[relative] = ("symlink", 0, 0, os.readlink(path))
            elif stat.S_ISDIR(facts.st_mode):
                found[relative] = ("folder", stat.S_IMODE(facts.st_mode), 0, "")
            else:
                found[relative] = ("file", stat.S_IMODE(facts.st_mode), facts.st_size, "")
    return found
