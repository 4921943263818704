"""Run roots and the content store on a flash tier: blocking file work, for threads.

`.mover/content/<aa>/<blake3>` holds bytes once per tier; `runs/<run id>/data/…` shares them by reflink, or by
hard link where reflinks do not exist. Roots are private to one run, made new and never reused, so nothing of
another run can ever stand in them. Everything below `out/` belongs to a job and is not trusted: it is walked
by directory descriptor and no link in it is followed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3
from msgspec import Struct

from mover.decide.cleanup import Standing
from mover.errors import DigestMismatch, EntryMissing, IntegrityError

FICLONE = 0x40049409
READ_BYTES = 8 << 20
LISTING_MAX = 10_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class Requester(Struct, frozen=True):
    uid: int | None
    gid: int | None


def content_key(digest: str) -> str:
    return f".mover/content/{digest[:2]}/{digest}"


def run_key(run: str) -> str:
    return f"runs/{run}"


class FlashRoots:
    """The run roots of one flash tier.

    `check_identity` raises TierUnavailable when the tier is not mounted: an empty mount point must never look
    like a cleaned root or an empty store (D11). Every handler calls it before it looks or removes.
    """

    def __init__(self, root: Path, *, reflink: bool, check_identity: Callable[[], None]) -> None:
        self.root = root
        self._reflink = reflink
        self.check_identity = check_identity

    def run_root(self, run: str) -> Path:
        return self.root / run_key(run)

    def space(self) -> tuple[int, int]:
        """(capacity, free) in bytes, as the file system says now."""
        facts = os.statvfs(self.root)
        return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize

    # --- the content store ------------------------------------------------------------------------------

    def mark(self, digest: str) -> str:
        """The content file's fingerprint; it moves when anybody touches the inode."""
        try:
            facts = os.lstat(self.root / content_key(digest))
        except FileNotFoundError as error:
            raise EntryMissing("content is not in the store", where=digest) from error
        return f"{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"

    def check_content(self, digest: str) -> None:
        """Re-hash a content file whose fingerprint moved without us; DigestMismatch when it differs."""
        if hash_file(self.root / content_key(digest)) != digest:
            raise DigestMismatch("the content store holds other bytes than its name says", where=digest)

    def evict(self, digest: str) -> None:
        """Give a content file's space back. The caller has made sure that no live run holds the digest."""
        (self.root / content_key(digest)).unlink(missing_ok=True)

    def set_aside(self, digest: str) -> None:
        """Damaged content keeps its bytes as evidence and loses its name."""
        path = self.root / content_key(digest)
        aside = self.root / ".mover" / "damaged"
        aside.mkdir(parents=True, exist_ok=True)
        os.replace(path, aside / digest)

    def place(self, digest: str, run: str, path: str) -> None:
        """Share a content file into a run root. Run again after a crash, it leaves the same result."""
        source = self.root / content_key(digest)
        target = self.run_root(run) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if self._reflink:
            clone(source, target)
        else:
            os.link(source, target)

    # --- the root -----------------------------------------------------------------------------------------

    def write(self, run: str, path: str, data: bytes) -> str:
        """A file that the seal itself writes: temporary name, synced, renamed, re-read; its BLAKE3."""
        target = self.run_root(run) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.partial")
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.replace(temporary, target)
        digest = hash_file(target)
        if digest != blake3(data).hexdigest():
            raise DigestMismatch("a sealed file reads back differently", where=path)
        return digest

    def seal(self, run: str, requester: Requester) -> None:
        """Modes, owners, `out/`, and everything on stable storage. `data/` is read-only for the requester's
        group; with hard links the files' modes are shared by all runs, so the folders guard them."""
        root = self.run_root(run)
        out = root / "out"
        out.mkdir(exist_ok=True)
        give(out, requester.uid, requester.gid)
        out.chmod(0o770)
        for folder, _, files in os.walk(root / "data", topdown=False):
            for name in files:
                self._guard(Path(folder) / name, requester)
            give(Path(folder), None, requester.gid)
            os.chmod(folder, 0o550)
        for name in ("records.parquet", "manifest.jsonl", "RUN.json"):
            if (root / name).exists():
                self._guard(root / name, requester)
        give(root, None, requester.gid)
        root.chmod(0o550)
        sync_filesystem(root)

    def _guard(self, path: Path, requester: Requester) -> None:
        if path.stat().st_nlink == 1:
            give(path, None, requester.gid)
            path.chmod(0o440)
        else:
            path.chmod(0o444)

    def unseal(self, run: str) -> None:
        """Make a root writable for us again, so that staging may resume or cleanup may begin."""
        root = self.run_root(run)
        if not root.exists():
            return
        root.chmod(0o750)
        for folder, _, _ in os.walk(root / "data"):
            os.chmod(folder, 0o750)

    def listing(self, run: str, *, below: str = "") -> dict[str, int]:
        """Path -> size of everything below a part of the root that is not a folder."""
        return {path: facts.st_size for path, facts, _ in self._walk(run, below)}

    def standing(self, run: str, *, manifest: dict[str, str], own: dict[str, str]) -> list[Standing]:
        """Everything in the root, with what cleanup needs to judge it.

        `manifest`: path -> digest of content (compared by shared inode or by bytes); `own`: what the seal
        wrote -> digest. Files elsewhere are hashed: an artifact is removed only when it is byte for byte
        the protected one.
        """
        found = []
        for path, facts, open_at in self._walk(run, ""):
            if stat.S_ISLNK(facts.st_mode):
                found.append(Standing(path, 0, "link:" + os.readlink(self.run_root(run) / path), "symlink"))
            elif not stat.S_ISREG(facts.st_mode):
                found.append(Standing(path, 0, None, "other"))
            else:
                expected = manifest.get(path) or own.get(path)
                digest = None if self._shares(path, facts, manifest) else hash_descriptor(open_at())
                unchanged = expected is not None and digest in (None, expected)
                found.append(Standing(path, facts.st_size, digest, "file", unchanged))
        return found

    def _shares(self, path: str, facts: os.stat_result, manifest: dict[str, str]) -> bool:
        """Is this the content store's own inode, which nobody but us can write?"""
        if path not in manifest or self._reflink:
            return False
        try:
            content = os.lstat(self.root / content_key(manifest[path]))
        except FileNotFoundError:
            return False
        return (content.st_dev, content.st_ino) == (facts.st_dev, facts.st_ino)

    def _walk(self, run: str, below: str) -> Iterator[tuple[str, os.stat_result, Callable[[], int]]]:
        start = self.run_root(run) / below if below else self.run_root(run)
        if not start.exists():
            return
        count = 0
        for folder, _, names, folder_fd in os.fwalk(start, follow_symlinks=False, onerror=_raise):
            relative = os.path.relpath(folder, self.run_root(run))
            links = [e.name for e in os.scandir(folder_fd) if e.is_symlink() and e.name not in names]
            for name in sorted({*names, *links}):
                count += 1
                if count > LISTING_MAX:
                    raise IntegrityError(f"more than {LISTING_MAX} files in one run root", where=run)
                path = name if relative == "." else f"{relative}/{name}"
                facts = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                yield path, facts, _opener(name, folder_fd)

    # --- cleanup --------------------------------------------------------------------------------------------

    def move_stray(self, run: str, path: str) -> str:
        """Move aside to `.mover/strays/<run>/<path>`; the key it has there. Safe to run again."""
        key = f".mover/strays/{run}/{path}"
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self.run_root(run) / path
        if os.path.lexists(source):
            os.replace(source, target)
        elif not os.path.lexists(target):
            raise EntryMissing("a stray vanished while it was moved aside", where=f"{run}/{path}")
        return key

    def remove(self, run: str) -> None:
        """Remove the root and make that durable. The caller has moved every stray out."""
        root = self.run_root(run)
        if root.exists():
            shutil.rmtree(root)
        sync_folder(root.parent)

    def is_gone(self, run: str) -> bool:
        return not os.path.lexists(self.run_root(run))


def hash_file(path: Path) -> str:
    return hash_descriptor(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))


def hash_descriptor(descriptor: int) -> str:
    """BLAKE3 of a whole file, and close it. The page cache is dropped first: a warm read proves nothing."""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        hasher, buffer = blake3(), bytearray(READ_BYTES)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            hasher.update(view[:count])
        return hasher.hexdigest()


def clone(source: Path, target: Path) -> None:
    """Reflink: a new inode that shares the source's extents until one of them is written."""
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o440)
        try:
            fcntl.ioctl(target_fd, FICLONE, source_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def give(path: Path, uid: int | None, gid: int | None) -> None:
    """Hand a file to the requester where we may; an unprivileged daemon keeps what it owns."""
    if os.geteuid() == 0:
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid, follow_symlinks=False)
    elif gid is not None and gid in os.getgroups():
        os.chown(path, -1, gid, follow_symlinks=False)


def sync_filesystem(path: Path) -> None:
    """One syncfs for a whole root instead of one fsync per file (group commit)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opener(name: str, folder_fd: int) -> Callable[[], int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return lambda: os.open(name, flags, dir_fd=folder_fd)


def _raise(error: OSError) -> None:
    raise error
