"""Compare two folders as a person would after a restore: names, kinds, bytes, link targets, modes."""

from __future__ import annotations

import filecmp
import os
import stat
from pathlib import Path


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
