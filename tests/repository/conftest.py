"""A real tier in a folder, cheap keys, and stock restic as the oracle."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mover.repository import crypto, locks
from mover.repository.facts import Disk, Folder, SnapshotResult
from mover.repository.repository import Repository, create_repository
from mover.tiers import identity
from mover.tiers.posix import PosixTier
from tests.support import checked
from tests.support.checked import damaged_on_purpose, every_repository_is_checked

__all__ = ["damaged_on_purpose", "every_repository_is_checked"]

PASSWORD = b"correct horse"

Restic = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scrypt cost is stored in each key file, so a cheap one is as valid; waiting proves nothing here."""
    monkeypatch.setattr(crypto, "SCRYPT_N", 1024)
    monkeypatch.setattr(crypto, "SCRYPT_P", 1)
    monkeypatch.setattr(locks, "SETTLE_S", 0.005)


def make_tier(root: Path) -> PosixTier:
    root.mkdir(exist_ok=True)
    identity.establish(root, name="protect", zone="deidentified")
    return PosixTier("protect", "deidentified", root, role="protect")


@pytest.fixture
def tier(tmp_path: Path) -> PosixTier:
    return make_tier(tmp_path / "tier")


@pytest.fixture
def repository(tier: PosixTier) -> Repository:
    return create_repository(tier, PASSWORD, prefix="repo")


@pytest.fixture
def restic(tmp_path: Path) -> Restic:
    """Stock restic on the fixture's repository; fails the test when restic does."""
    if shutil.which("restic") is None:
        pytest.skip("needs Debian package: restic")
    environment = {
        **os.environ,
        "RESTIC_PASSWORD": PASSWORD.decode(),
        "RESTIC_REPOSITORY": str(tmp_path / "tier" / "repo"),
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run(*words: str, ok: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "cache").mkdir(exist_ok=True)
        done = subprocess.run(
            ["restic", *words], env={**environment, **more}, capture_output=True, text=True, timeout=120
        )
        assert not ok or done.returncode == 0, done.stderr
        if words[0] == "check" and "--read-data" in words and done.returncode == 0:
            checked.note(more.get("RESTIC_REPOSITORY", environment["RESTIC_REPOSITORY"]))
        return done

    return run


def take(repository: Repository, what: Path | Folder, **more: object) -> SnapshotResult:
    """A snapshot of a source, or of one folder as /artifacts, with everything else at its plainest."""
    words: dict[str, object] = {
        "hostname": "node1",
        "username": "trainer",
        "tags": ["run=r1"],
        "time": datetime.now(UTC),
        "paths": ["/artifacts"],
    }
    source = what if isinstance(what, Folder) else Folder({"artifacts": Disk(what)})
    return repository.snapshot(source, **{**words, **more})  # type: ignore[arg-type]


def listing(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """What must survive: type and mode, size, time, link target, content and xattrs, by raw relative path."""
    found: dict[bytes, tuple[object, ...]] = {}
    base = os.fsencode(folder)
    for at, folders, files in os.walk(base):
        for name in folders + files:
            path = os.path.join(at, name)
            facts = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else b""
            plain = os.path.isfile(path) and not link
            content = Path(os.fsdecode(path)).read_bytes() if plain else b""
            xattrs = () if link else tuple((n, os.getxattr(path, n)) for n in sorted(os.listxattr(path)))
            size = facts.st_size if plain else 0
            when = 0 if link else facts.st_mtime_ns
            key = os.path.relpath(path, base)
            found[key] = (facts.st_mode, size, when, facts.st_uid, link, content, xattrs)
    return found
