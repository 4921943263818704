"""The words of the snapshot repository: what goes in, and what comes back."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, overload

from msgspec import Struct

from mover.repository.reading import Requester

# Called with the running totals of files and bytes, from any of the working threads, one call at a time.
# What it raises stops the work: a snapshot leaves no snapshot file then, a restore no target.
Progress = Callable[[int, int], None]

_PACKED = struct.Struct("<QqI32s")  # size, seconds and nanoseconds, digest


class MemoryFile(Struct, frozen=True):
    """A file that exists only in the snapshot, such as a manifest."""

    data: bytes
    mode: int = 0o444


class Disk(Struct, frozen=True):
    """A real folder or regular file: `relative` below `root`, opened without following links at any step,
    with the requester's rights (None: the daemon's own). `judged`: where they cannot be taken on, they may be read off
    each file instead."""

    root: Path
    relative: str = ""
    requester: Requester | None = None
    judged: bool = False


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


class ProtectedFiles(Sequence[ProtectedFile]):
    """The files of a snapshot in the order of their paths' bytes, kept packed and unpacked as they are asked for: as
    values a million of them would take most of what a snapshot may hold in memory."""

    def __init__(self, packed: list[bytes]) -> None:
        """Sorts the very list it is given and keeps it: of a million records there is no room for a second list."""
        packed.sort()
        self._packed = packed

    @staticmethod
    def pack(path: bytes, *, size_bytes: int, blake3: str, mtime_ns: int) -> bytes:
        """The zero byte, which no path holds, keeps the order of the records that of the paths."""
        return path + b"\0" + _PACKED.pack(size_bytes, *divmod(mtime_ns, 10**9), bytes.fromhex(blake3))

    @overload
    def __getitem__(self, place: int) -> ProtectedFile: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[ProtectedFile]: ...

    def __getitem__(self, place: int | slice) -> ProtectedFile | Sequence[ProtectedFile]:
        if isinstance(place, slice):
            return ProtectedFiles(self._packed[place])
        packed = self._packed[place]
        end = len(packed) - _PACKED.size
        size_bytes, seconds, nanoseconds, digest = _PACKED.unpack_from(packed, end)
        mtime_ns = seconds * 10**9 + nanoseconds
        return ProtectedFile(os.fsdecode(packed[: end - 1]), size_bytes, digest.hex(), mtime_ns)

    def __len__(self) -> int:
        return len(self._packed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProtectedFiles) and self._packed == other._packed

    __hash__ = None  # type: ignore[assignment]  # as of a list


class SnapshotResult(Struct, frozen=True):
    """`torn` changed during each of the attempts, `unreadable` could not be opened: both make the snapshot
    incomplete. `skipped` are FIFOs, sockets and devices, which hold no content."""

    snapshot_id: str
    tree_id: str
    files: int
    bytes: int
    added_bytes: int
    entries: ProtectedFiles
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
    original: str | None = None  # the snapshot it was copied, tagged or rewritten from


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
    `spared` blobs came from another repository. Every byte of every file counted here was verified."""

    target: Path
    files: int
    folders: int
    symlinks: int
    bytes: int
    warnings: list[str]
    damaged: list[str]
    left: list[str] = []
    aside: str = ""
    spared: int = 0

    @property
    def complete(self) -> bool:
        return not self.damaged and not self.left


class Hit(Struct, frozen=True):
    """One snapshot that damage hits, and which of its paths: files that are not whole, folders that cannot be listed.
    What the protected tree's owner may see, and nobody else."""

    snapshot_id: str
    paths: tuple[str, ...]


class Damage(Struct, frozen=True):
    """One object of the repository that is lost or wrong, and what of which snapshots it takes with it. No hits: no
    snapshot needs it. Of very many paths only the first are named: not `all_named` then."""

    object: str
    what: str
    hits: tuple[Hit, ...] = ()
    all_named: bool = True

    @property
    def snapshots(self) -> tuple[str, ...]:
        return tuple(hit.snapshot_id for hit in self.hits)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for hit in self.hits for path in hit.paths))


class CheckResult(Struct, frozen=True):
    """`errors` name repository objects, never paths of the protected tree: those stand in `damage`. `packs` were
    looked at, of `packs_there`; `strays` are packs that no index file names, left by killed writers."""

    snapshots: int
    trees: int
    blobs: int
    packs: int
    bytes_read: int
    errors: list[str]
    damage: list[Damage] = []
    packs_there: int = 0
    strays: int = 0
    seed: str = ""  # of a sampled check: the same seed reads the same packs

    @property
    def ok(self) -> bool:
        return not self.errors


class KeyFacts(Struct, frozen=True):
    """A key file as anybody may read it. `current`: this process opened the repository with it."""

    key_id: str
    hostname: str
    username: str
    created: str
    current: bool


class PruneStep(Struct, frozen=True):
    """How many packs have one verdict for one reason; `free_bytes` of them no snapshot needs."""

    action: str
    reason: str
    packs: int
    size_bytes: int
    free_bytes: int


class PruneResult(Struct, frozen=True):
    """`steps` is the plan as the prune found it, the rest is what it did. `damaged` blobs could not be copied out of a
    wasteful pack, which therefore stays; `denied` packs are locked on their tier and stay marked. Not `finished`: a
    plan only, or somebody's lock stood in the way, and the next prune goes on from here."""

    steps: tuple[PruneStep, ...]
    marked: int
    unmarked: int
    swept: int
    freed_bytes: int
    repacked: int
    copied_blobs: int
    added_bytes: int
    rewritten_index_files: int
    damaged: list[str]
    denied: list[str]
    finished: bool


class CopyResult(Struct, frozen=True):
    """`snapshot_id` is the copy's own id in the other repository. Nothing was added when it was there `already`."""

    snapshot_id: str
    already: bool
    blobs: int
    added_bytes: int


class RebuildResult(Struct, frozen=True):
    """`named` packs no index file had named, `dropped` were named and are gone or are not what they were said to be,
    `unreadable` index files were replaced by what the packs' own headers say."""

    named: int
    dropped: int
    unreadable: int
    damaged: list[str]  # packs whose header cannot be read either


class RepairResult(Struct, frozen=True):
    """`salvaged` blobs were still whole here, `fetched` came from the other repository; `left` is what neither has.
    `snapshots` that were lost here came back under new ids (old id: new id)."""

    salvaged: int
    fetched: int
    packs_replaced: int
    snapshots: dict[str, str]
    left: list[Damage]

    @property
    def complete(self) -> bool:
        return not self.left
