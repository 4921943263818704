"""The words of the snapshot repository: what goes in, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from msgspec import Struct

from mover.repository.reading import Requester

# Called with the running totals of files and bytes, from any of the working threads, one call at a time.
# What it raises stops the work: a snapshot leaves no snapshot file then, a restore no target.
Progress = Callable[[int, int], None]


class MemoryFile(Struct, frozen=True):
    """A file that exists only in the snapshot, such as a manifest."""

    data: bytes
    mode: int = 0o444


class Disk(Struct, frozen=True):
    """A real folder or regular file: `relative` below `root`, opened without following links at any step,
    with the requester's rights (None: the daemon's own)."""

    root: Path
    relative: str = ""
    requester: Requester | None = None


class Folder(Struct, frozen=True):
    """A folder that exists only in the snapshot; it gives a snapshot its layout."""

    members: Mapping[str, MemoryFile | Disk | Folder]
    mode: int = 0o755


Source = Folder


class ProtectedFile(Struct, frozen=True):
    """One file as the snapshot holds it. Bytes of `path` that are not UTF-8 are surrogate escapes."""

    path: str
    size_bytes: int
    blake3: str
    mtime_ns: int


class SnapshotResult(Struct, frozen=True):
    """`torn` changed during each of the attempts, `unreadable` could not be opened: both make the snapshot
    incomplete. `skipped` are FIFOs, sockets and devices, which hold no content."""

    snapshot_id: str
    tree_id: str
    files: int
    bytes: int
    added_bytes: int
    entries: list[ProtectedFile]
    torn: list[str]
    unreadable: list[str]
    skipped: list[str]

    @property
    def complete(self) -> bool:
        return not self.torn and not self.unreadable


class SnapshotFacts(Struct, frozen=True):
    """What a snapshot file says about itself. `time` is information that a client sent, never a ground for
    keeping or forgetting (D12)."""

    snapshot_id: str
    time: datetime
    tree_id: str
    parent: str | None
    paths: tuple[str, ...]
    hostname: str
    username: str
    tags: tuple[str, ...]
    program_version: str


class SnapshotEntry(Struct, frozen=True):
    path: str
    kind: Literal["file", "folder", "symlink", "other"]
    size_bytes: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    target: str = ""


class RestoreResult(Struct, frozen=True):
    """`warnings` name what could not be set (owners, xattrs) or has no content to restore; `damaged` are the
    files left out because a blob of theirs is lost; `left` is what was not restored because something stood there that
    nobody had agreed to replace. What was replaced lies in `aside`, a folder beside the target ("": nothing was).
    Every byte of every file counted here was verified."""

    target: Path
    files: int
    folders: int
    symlinks: int
    bytes: int
    warnings: list[str]
    damaged: list[str]
    left: list[str] = []
    aside: str = ""

    @property
    def complete(self) -> bool:
        return not self.damaged and not self.left


class CheckResult(Struct, frozen=True):
    """`errors` name repository objects, never paths of the protected tree."""

    snapshots: int
    trees: int
    blobs: int
    packs: int
    bytes_read: int
    errors: list[str]

    @property
    def ok(self) -> bool:
        return not self.errors
