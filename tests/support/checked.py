"""After every test that left a snapshot repository in its folder, stock restic checks all of it: `check --read-data`.

A test that leaves damage on purpose says so: `@pytest.mark.usefixtures("damaged_on_purpose")`. A repository that was
checked by the test itself, and is as it was then, is not checked twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORDS = ("correct horse", "secret", "other", "new")
State = frozenset[tuple[str, int, int]]

_CHECKED: dict[Path, State] = {}


@pytest.fixture
def damaged_on_purpose() -> None:
    """What this test leaves is broken, and that is what it is about."""


@pytest.fixture(autouse=True)
def every_repository_is_checked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Finds repositories by their config, whoever wrote them, in this process or in one that was killed."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is None or "damaged_on_purpose" in request.fixturenames:
        return
    for repository in repositories_below(folder):
        if _CHECKED.pop(repository, None) != state_of(repository):
            check(repository)


def repositories_below(folder: Path) -> list[Path]:
    """Those that a test's tiers hold; a folder that was merely copied aside has no identity of a tier above it."""
    roots = [one for one in folder.iterdir() if (one / ".mover").exists()]
    configs = [config for root in roots for depth in ("config", "*/config") for config in root.glob(depth)]
    return [config.parent for config in configs if any((config.parent / "snapshots").glob("*"))]


def state_of(repository: Path) -> State:
    """Its files without locks: a reader leaves it as it was."""
    found = set()
    for at, folders, files in os.walk(repository):
        if "locks" in folders:
            folders.remove("locks")
        found |= {(f"{at}/{name}", (facts := os.stat(f"{at}/{name}")).st_size, facts.st_mtime_ns) for name in files}
    return frozenset(found)


def note(repository: str) -> None:
    """A test has checked this one by itself."""
    if Path(repository).is_dir():
        _CHECKED[Path(repository)] = state_of(Path(repository))


def check(repository: Path) -> None:
    if shutil.which("restic") is None:
        return  # the tests that need it say so by skipping
    told = ""
    for password in PASSWORDS:
        environ = {**os.environ, "RESTIC_PASSWORD": password, "RESTIC_REPOSITORY": str(repository)}
        command = ["restic", "--no-cache", "--no-lock", "check", "--read-data"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
        told = done.stdout + done.stderr
        if "wrong password" not in told:
            break
    assert done.returncode == 0 and "no errors were found" in told, told
