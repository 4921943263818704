"""A tier in a folder: local file systems, NFS, parallel file systems.

Every call opens the root anew, makes sure it is still the tier that was proved (a root that was unmounted
shows the empty folder below, which is another inode), and resolves keys beneath it without following links.

Writing: a temporary name in the target's own folder -> data synced and close checked -> renamed without
replacing -> every folder name on the way synced. A crash before the rename leaves `.mover-tmp-…`, after it
the whole file. A failed sync is never repeated, because the kernel may drop the dirty pages and then report
success (the caller writes again from the source).
"""

from __future__ import annotations

import errno
import mmap
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from mover.errors import (
    ChangedWhileReading,
    EntryExists,
    MoverError,
    RequestInvalid,
    ShortRead,
    StructureInvalid,
    TierDenied,
    TierError,
    TierUnavailable,
)
from mover.model.tiers import Entry, Fingerprint, TierKind, TierRole, Traits, Zone
from mover.randomness import random_bytes
from mover.tiers import beneath, mounts
from mover.tiers import identity as identities
from mover.tiers.beneath import Parts, Result
from mover.tiers.mounts import Mount
from mover.tiers.port import refuse_kept

Scanned = list[tuple[bytes, os.stat_result]]

TEMPORARY = b".mover-tmp-"
CONTROL_FOLDER = ".mover"
ALIGNMENT = 4096
WRITEBACK_BYTES = 32 << 20
DIRECT_BYTES = 4 << 20
COLD_STEP_BYTES = 4 << 20
COLD_BUFFERS = 3  # one being read, one waiting, one with the caller
MAX_SYNCED_FOLDERS = 4096
MAX_READ_BYTES = 1 << 31
SYNCFS_SAYS_SO = (5, 8)  # syncfs(2): before, it did not tell of bytes that could not be written
# syncfs(2) hands their pages to what lies below and does not ask it to make them durable, as fsync does
SYNCFS_STOPS_SHORT = frozenset(("fuseblk", "ecryptfs"))


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_size, status.st_mtime_ns, f"{status.st_ino:x}:{status.st_ctime_ns:x}")


class OpenFile:
    """A plain file opened once; all questions go to the descriptor, never to the name again.

    Except when the handle behind it went stale (ESTALE, on NFS): then the name is opened anew, and only the very
    same file, by number and change time, is read on.
    """

    def __init__(self, descriptor: int, *, tier: str, zone: Zone, anew: Callable[[], int] | None = None) -> None:
        self._descriptor = descriptor
        self._tier = tier
        self.zone: Zone = zone
        self._anew = anew
        self._opened_as = fingerprint_of(os.fstat(descriptor))
        self._size = self._opened_as.size_bytes

    @property
    def size_bytes(self) -> int:
        return self._size

    def fileno(self) -> int:
        return self._descriptor

    def fingerprint(self) -> Fingerprint:
        return self._reopening(lambda: fingerprint_of(os.fstat(self._descriptor)), "asking failed")

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise StructureInvalid(f"read of {length} bytes at {offset} leaves the {self._size} bytes there are")
        return self._reopening(lambda: _read_exactly(self._descriptor, offset, length, self._tier), "reading failed")

    def reopen(self) -> None:
        """Open the name anew under the same descriptor number, for everybody who holds that number.
        ChangedWhileReading when another file stands there by now."""
        if self._anew is None:
            raise TierUnavailable("the open file's handle went stale", where=self._tier)
        descriptor = self._anew()
        try:
            if fingerprint_of(os.fstat(descriptor)) != self._opened_as:
                raise ChangedWhileReading("another file stands at the name of the one being read", where=self._tier)
            os.dup2(descriptor, self._descriptor, inheritable=False)
        finally:
            os.close(descriptor)

    def _reopening(self, call: Callable[[], Result], what: str) -> Result:
        for tries in range(beneath.STALE_TRIES):
            try:
                if tries:
                    self.reopen()
                return call()
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise beneath.translated(error, what, tier=self._tier) from error
                stale = error
        raise beneath.translated(stale, what, tier=self._tier) from stale


def read_exactly(descriptor: int, offset: int, length: int, *, tier: str) -> bytes:
    try:
        return _read_exactly(descriptor, offset, length, tier)
    except OSError as error:
        raise beneath.translated(error, "reading failed", tier=tier) from error


def _read_exactly(descriptor: int, offset: int, length: int, tier: str) -> bytes:
    parts: Parts = []
    while length:
        part = os.pread(descriptor, min(length, MAX_READ_BYTES), offset)
        if not part:
            raise ShortRead("the file ended before its size", where=tier)
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def cold_blocks(descriptor: int, *, step_bytes: int = COLD_STEP_BYTES) -> Iterator[memoryview]:
    """The content as the device holds it: cache dropped, then O_DIRECT where that works.

    Views of a few aligned buffers that a thread fills ahead, each valid until the next is asked for.
    """
    os.fdatasync(descriptor)  # dirty pages cannot be dropped; a clean file costs nothing here
    beneath.drop_cache(descriptor)
    size = os.fstat(descriptor).st_size
    step = min(max(ALIGNMENT, step_bytes // ALIGNMENT * ALIGNMENT), size // ALIGNMENT * ALIGNMENT + ALIGNMENT)
    buffers = [mmap.mmap(-1, step) for _ in range(COLD_BUFFERS if size > step else 1)]
    free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[memoryview | BaseException | None] = queue.SimpleQueue()
    for buffer in buffers:
        free.put(memoryview(buffer))
    reader = threading.Thread(target=_read_ahead, args=(descriptor, size, free, full), name="cold", daemon=True)
    reader.start()
    try:
        while (block := full.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            yield block
            free.put(memoryview(block.obj))
    finally:
        free.put(None)
        reader.join()
        beneath.drop_cache(descriptor)


def _read_ahead(
    descriptor: int,
    size: int,
    free: queue.SimpleQueue[memoryview | None],
    full: queue.SimpleQueue[memoryview | BaseException | None],
) -> None:
    """Fill free buffers in order until the end, an error, or the reader of them leaves (None)."""
    direct = beneath.open_direct(descriptor, os.O_RDONLY)
    reading = direct if direct >= 0 else descriptor
    try:
        offset = 0
        while offset < size:
            view = free.get()
            if view is None:
                return
            try:
                count = os.preadv(reading, [view], offset)
            except OSError as error:
                if reading == descriptor or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                reading = descriptor  # this file system takes the flag and then refuses the read
                count = os.preadv(reading, [view], offset)
            if count == 0:
                raise ShortRead("the file ended before its size")
            full.put(view[:count])
            offset += count
            if count % ALIGNMENT and offset < size:
                reading = descriptor  # a short direct read left us unaligned
        full.put(None)
    except BaseException as error:  # noqa: BLE001 - raised again by the owner of this thread
        full.put(error)
    finally:
        if direct >= 0:
            os.close(direct)


class PosixTier:
    """The port over a folder. `identity` is an identity text (`identities`); a writable tier without one
    is still held to the name and zone in its identity file, a read-only one to the root first seen."""

    kind: TierKind = "posix"

    def __init__(
        self,
        name: str,
        zone: Zone,
        root: Path | str,
        *,
        role: TierRole = "flash",
        read_only: bool = False,
        identity: str | None = None,
        deletes: bool = True,
    ) -> None:
        self.name, self.zone, self.role, self.read_only, self.deletes = name, zone, role, read_only, deletes
        self.root = Path(root)
        self._identity = identity
        self._proved: tuple[int, int] | None = None
        self._mount = mounts.NOWHERE
        self._synced: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    # --- identity ---------------------------------------------------------------------------------

    def check_identity(self) -> None:
        with self._translating("the root's identity could not be read"):
            beneath.reopening(self._check_identity)

    def _check_identity(self) -> None:
        with self._opened_root(fresh=True):
            return

    @property
    def identity(self) -> str | None:
        """The identity text it was made with: with name, zone, root and role all that makes it once more."""
        return self._identity

    def opened(self) -> AbstractContextManager[int]:
        """The root as a descriptor, proved to be the tier just now: for work on very many files below it."""
        return self._opened_root(fresh=True)

    def sync_names(self, root: int, parts: Parts) -> None:
        """Make the names of the folders on the way to a folder durable, below an opened root."""
        self._sync_names(root, parts)

    @contextmanager
    def _opened_root(self, *, fresh: bool = False) -> Iterator[int]:
        try:
            root = beneath.open_root(str(self.root))
        except OSError as error:
            number = errno.errorcode.get(error.errno or 0, "error")
            raise TierUnavailable(f"the root cannot be opened ({number})", where=self.name) from None
        try:
            status = os.fstat(root)
            seen = (status.st_dev, status.st_ino)
            if fresh or seen != self._proved:
                self._prove(root, seen)
            yield root
        finally:
            os.close(root)

    def _prove(self, root: int, seen: tuple[int, int]) -> None:
        kind, _, value = (self._identity or "").partition(":")
        if kind == "pin":
            if identities.pin_of(root) != self._identity:
                raise TierUnavailable("the root is not the one pinned at registration", where=self.name)
        elif kind == "sentinel":
            self._find_sentinel(root, value)
        elif self.read_only:
            if self._proved not in (None, seen):
                raise TierUnavailable("the root is not the one first seen", where=self.name)
        else:
            found = identities.read_identity(root, tier=self.name)
            if found is None:
                raise TierUnavailable("the root carries no tier identity", where=self.name)
            identities.compare(found, name=self.name, zone=self.zone, identity=self._identity)
        self._mount = mounts.mount_of_device(seen[0])
        self._proved = seen

    def _find_sentinel(self, root: int, key: str) -> None:
        try:
            status = beneath.stat_beneath(root, beneath.key_parts(key))
        except OSError:
            raise TierUnavailable("the sentinel file is not there", where=self.name) from None
        if not stat.S_ISREG(status.st_mode):
            raise TierUnavailable("the sentinel is not a plain file", where=self.name)

    @cached_property
    def traits(self) -> Traits:
        """Probed once in `.mover/`; a read-only tier promises nothing but reading."""
        with self._opened_root() as root:
            if self.read_only:
                return Traits(filesystem=self._mount.filesystem, network=self._mount.network)
            try:
                return _probe(root, self._mount)
            except OSError as error:
                raise beneath.translated(error, "probing failed", tier=self.name) from None

    # --- reading ----------------------------------------------------------------------------------

    def stat(self, key: str) -> Entry:
        parts = beneath.key_parts(key)
        with self._translating("stat failed"):
            return beneath.reopening(lambda: self._stat(key, parts))

    def _stat(self, key: str, parts: Parts) -> Entry:
        with self._opened_root() as root:
            return _entry(key, beneath.stat_beneath(root, parts))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        with self.open(key) as source:
            wanted = source.size_bytes - offset if length is None else length
            if offset < 0 or wanted < 0 or offset + wanted > source.size_bytes:
                raise ShortRead("the entry does not hold the bytes asked for", where=self.name)
            return source.read(offset, wanted)

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        with self.open(key) as source, self._translating("reading failed"):
            if cold:
                for block in cold_blocks(source.fileno(), step_bytes=step_bytes):
                    yield bytes(block)
                return
            for offset in range(0, source.size_bytes, step_bytes):
                yield source.read(offset, min(step_bytes, source.size_bytes - offset))

    @contextmanager
    def open(self, key: str) -> Iterator[OpenFile]:
        parts = beneath.key_parts(key)
        descriptor = self._open_descriptor(parts)
        try:
            yield OpenFile(descriptor, tier=self.name, zone=self.zone, anew=lambda: self._open_descriptor(parts))
        finally:
            os.close(descriptor)

    def _open_descriptor(self, parts: Parts) -> int:
        def once() -> int:
            with self._opened_root() as root:
                return beneath.open_file(root, parts, single_link=self.role == "source")

        with self._translating("opening failed"):
            return beneath.reopening(once)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Iterative, a folder at a time, so that memory is bounded by depth and the widest folder."""
        pending = [beneath.key_parts(prefix) if prefix else []]
        while pending:
            folder = pending.pop()
            for name, status in self._scan(folder):
                parts = [*folder, name]
                if stat.S_ISDIR(status.st_mode):
                    pending.append(parts)
                else:
                    yield _entry(os.fsdecode(b"/".join(parts)), status)

    def _scan(self, folder: Parts) -> Scanned:
        with self._translating("listing failed"):
            return beneath.reopening(lambda: self._scan_once(folder))

    def _scan_once(self, folder: Parts) -> Scanned:
        with self._opened_root() as root:
            descriptor = beneath.open_folder(root, folder)
            try:
                with os.scandir(descriptor) as found:
                    return [
                        (os.fsencode(item.name), item.stat(follow_symlinks=False))
                        for item in found
                        if not self._is_hidden(folder, item.name)
                    ]
            finally:
                os.close(descriptor)

    def _is_hidden(self, folder: Parts, name: str) -> bool:
        """Ours and NFS's passing names. On an identified source everything else shows: nothing there is ours."""
        foreign = self.zone == "identified" and self.read_only
        if name.startswith(".nfs"):
            return (self._mount.nfs or not foreign) and beneath.is_passing(os.fsencode(name))
        if foreign:
            return False
        return name.startswith(TEMPORARY.decode()) or (not folder and name == CONTROL_FOLDER)

    # --- writing ----------------------------------------------------------------------------------

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        attempt = self.attempt(key, size_bytes=size_bytes)
        try:
            attempt.write(chunks)
            attempt.seal()
            attempt.publish()
        except BaseException:
            attempt.abandon()
            raise

    def attempt(self, key: str, *, size_bytes: int | None = None, resume: str = "") -> PosixAttempt:
        """`resume` is the temporary name of an earlier attempt at this key: EntryMissing when it is gone."""
        self._refuse_read_only()
        parts = beneath.key_parts(key)
        if parts[-1].startswith(TEMPORARY):
            raise RequestInvalid("a key with the name of a temporary file", where=self.name)
        with self._translating("writing failed"):
            return beneath.reopening(lambda: self._begin(parts, size_bytes, resume))

    def _begin(self, parts: Parts, size_bytes: int | None, resume: str) -> PosixAttempt:
        with self._opened_root() as root:
            folder = beneath.make_folders(root, parts[:-1])
            try:
                self._sync_names(root, parts[:-1])
                _refuse_taken(folder, parts[-1], tier=self.name)
                return PosixAttempt(folder, parts[-1], tier=self.name, size_bytes=size_bytes, resume=resume)
            except BaseException:
                os.close(folder)
                raise

    def _sync_names(self, root: int, parts: Parts) -> None:
        """Make the names of the folders on the way durable, once per folder: a file in a folder whose own
        name was lost is lost. Forgetting (a restart, a full set) only costs a sync."""
        for depth in range(len(parts)):
            folder = beneath.open_folder(root, parts[: depth + 1])
            try:
                status = os.fstat(folder)
            finally:
                os.close(folder)
            mark = (status.st_dev, status.st_ino)
            if mark in self._synced:
                continue
            parent = beneath.open_folder(root, parts[:depth])
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
            with self._lock:
                if len(self._synced) >= MAX_SYNCED_FOLDERS:
                    self._synced.clear()
                self._synced.add(mark)

    def remove(self, key: str) -> None:
        refuse_kept(self)
        self.tidy(key)

    def tidy(self, key: str) -> None:
        self._refuse_read_only()
        parts = beneath.key_parts(key)
        with self._translating("removing failed"):
            beneath.reopening(lambda: self._remove(parts))

    def _remove(self, parts: Parts) -> None:
        with self._opened_root() as root:
            folder = beneath.open_folder(root, parts[:-1])
            try:
                os.unlink(parts[-1], dir_fd=folder)
                os.fsync(folder)
            finally:
                os.close(folder)

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        """Remove what killed attempts left. The age keeps it off attempts that still run; what those publish or tidy
        while it looks is none of its concern."""
        self._refuse_read_only()
        removed = 0
        top = beneath.key_parts(prefix) if prefix else []
        pending = [top]
        with self._opened_root() as root, self._translating("sweeping failed"):
            while pending:
                parts = pending.pop()
                try:
                    folder = beneath.open_folder(root, parts)
                except FileNotFoundError:
                    if parts is top:
                        raise
                    continue
                try:
                    with os.scandir(folder) as found:
                        for item in found:
                            with suppress(FileNotFoundError):
                                if _is_stale(item, now_s - older_than_s):
                                    _remove_stale(folder, item)
                                    removed += 1
                                elif item.is_dir(follow_symlinks=False):
                                    pending.append([*parts, os.fsencode(item.name)])
                finally:
                    os.close(folder)
        return removed

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise TierDenied("the tier is read-only", where=self.name, hint="Nothing is ever written to a source.")

    @contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise beneath.translated(error, what, tier=self.name) from error
        except MoverError as error:
            error.where = error.where or self.name
            raise


class PosixAttempt:
    """One temporary file and the folder it will be published in. See `staging.Attempt` for the order."""

    def __init__(self, folder: int, name: bytes, *, tier: str, size_bytes: int | None, resume: str = "") -> None:
        self._folder, self._name, self._tier, self._size = folder, name, tier, size_bytes
        self._published = False
        self._spoiled = False
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        if resume:
            self._temporary = _own_temporary(resume, tier=tier)
        else:
            self._temporary = TEMPORARY + random_bytes(12).hex().encode()
            flags |= os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(self._temporary, flags, 0o644, dir_fd=folder)

    @property
    def temporary(self) -> str:
        """The name to give to `resume` after a crash; no identifier, it is random."""
        return self._temporary.decode()

    def fileno(self) -> int:
        """For the kernel's copy; valid until `publish` or `abandon`."""
        return self._descriptor

    def write(self, chunks: Iterable[bytes]) -> None:
        at, started = 0, 0
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                with self._translating("writing failed"):
                    count = self._write_direct(rest) or os.write(self._descriptor, rest)
                rest, at = rest[count:], at + count
            if at - started >= WRITEBACK_BYTES:
                beneath.start_writeback(self._descriptor, started, at - started)
                started = at
        if self._size is not None and at != self._size:
            raise ShortRead(f"{at} bytes came where {self._size} were announced", where=self._tier)

    def _write_direct(self, chunk: memoryview) -> int:
        """How much of a large chunk went past the page cache, where copying it costs more than all else that writing
        does; 0 where chunk, place or file system do not allow it. What is unaligned at its end is left."""
        at, length = os.lseek(self._descriptor, 0, os.SEEK_CUR), len(chunk) // ALIGNMENT * ALIGNMENT
        if length < DIRECT_BYTES or at % ALIGNMENT:
            return 0
        direct = beneath.open_direct(self._descriptor, os.O_WRONLY)
        if direct < 0:
            return 0
        try:
            written = os.pwrite(direct, chunk[:length], at)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return 0  # a buffer that is not aligned, or a file system that takes the flag and then refuses
        finally:
            os.close(direct)
        os.lseek(self._descriptor, at + written, os.SEEK_SET)
        return written

    def seal(self) -> None:
        """Once: the kernel forgets pages it could not write and calls the next sync a success."""
        if self._spoiled:
            raise TierError("the data could not be synced; it is written anew from the source", where=self._tier)
        self._spoiled = True
        with self._translating("syncing failed"):
            os.fsync(self._descriptor)
        self._spoiled = False

    def stream_cold(self) -> Iterator[bytes | memoryview]:
        with self._translating("re-reading failed"):
            yield from cold_blocks(self._descriptor)

    def publish(self) -> None:
        """Close is checked before the name appears: some file systems report a full disk only there."""
        if self._spoiled:
            raise TierError("what could not be synced is never published", where=self._tier)
        with self._translating("publishing failed"):
            seen = os.fstat(self._descriptor)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            beneath.rename_noreplace(self._folder, self._temporary, self._name, seen=seen)
            self._published = True
            os.fsync(self._folder)
        self._close_folder()

    def leave(self) -> None:
        """Close what is open and keep the temporary file, for a later attempt that resumes it."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with suppress(OSError):  # nothing of it is believed before it was read again
                os.close(descriptor)
        self._close_folder()

    def abandon(self) -> None:
        """Also after a failed directory sync: then the whole, synced file keeps its final name."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with suppress(OSError):  # the file is thrown away: its close decides nothing
                os.close(descriptor)
        if self._folder >= 0 and not self._published:
            with suppress(OSError):  # left for the sweep
                os.unlink(self._temporary, dir_fd=self._folder)
        self._close_folder()

    def _close_folder(self) -> None:
        if self._folder >= 0:
            folder, self._folder = self._folder, -1
            os.close(folder)

    @contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise beneath.translated(error, what, tier=self._tier) from error


def _own_temporary(name: str, *, tier: str) -> bytes:
    """Only a name that an attempt gave itself may be opened for writing again."""
    raw = os.fsencode(name)
    if not raw.startswith(TEMPORARY) or b"/" in raw:
        raise RequestInvalid("not the temporary name of an attempt", where=tier)
    return raw


def put_file(root: int, key: str, data: bytes, *, tier: str) -> None:
    """Write one small file durably below an open root, before the root is a tier: its identity."""
    parts = beneath.key_parts(key)
    try:
        folder = beneath.make_folders(root, parts[:-1])
        with suppress(PermissionError):  # somebody else's folder has the mode they gave it
            os.fchmod(folder, stat.S_IMODE(os.fstat(folder).st_mode) | 0o111)
        os.fsync(root)
        attempt = PosixAttempt(folder, parts[-1], tier=tier, size_bytes=len(data))
    except OSError as error:
        raise beneath.translated(error, "writing failed", tier=tier) from error
    try:
        os.fchmod(attempt.fileno(), 0o644)  # whatever our umask: other users' daemons read it too
        attempt.write([data])
        attempt.seal()
        attempt.publish()
    except BaseException:
        attempt.abandon()
        raise


def _entry(key: str, status: os.stat_result) -> Entry:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return Entry(key, "file", fingerprint_of(status))
    if stat.S_ISDIR(mode):
        return Entry(key, "folder", fingerprint_of(status))
    return Entry(key, "symlink" if stat.S_ISLNK(mode) else "other", fingerprint_of(status))


def _refuse_taken(folder: int, name: bytes, *, tier: str) -> None:
    """Early, before gigabytes are copied; the rename refuses for certain."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        raise EntryExists("the name is taken", where=tier)


def _is_stale(item: os.DirEntry[str], before_s: float) -> bool:
    """By the change time, which nobody can set: a file on its way carries the old time of its source already. Of a
    folder that is being filled it is the time of its own making, so the age must exceed the longest group."""
    return item.name.startswith(TEMPORARY.decode()) and item.stat(follow_symlinks=False).st_ctime < before_s


def _remove_stale(folder: int, item: os.DirEntry[str]) -> None:
    if item.is_dir(follow_symlinks=False):
        beneath.remove_tree(folder, os.fsencode(item.name))
    else:
        os.unlink(item.name, dir_fd=folder)


# --- the probe -----------------------------------------------------------------------------------------


def _probe(root: int, mount: Mount) -> Traits:
    """Try each trait for real on two small files in `.mover/`; nothing is assumed from the system's name, except
    what no trial can show: that answers come over a network."""
    folder = beneath.make_folders(root, [CONTROL_FOLDER.encode()])
    names = [b"probe-" + random_bytes(8).hex().encode() + suffix for suffix in (b"-a", b"-b", b"-c", b"-d")]
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    first = second = -1
    try:
        first = os.open(names[0], flags, 0o600, dir_fd=folder)
        second = os.open(names[1], flags, 0o600, dir_fd=folder)
        os.write(first, bytes(2 * ALIGNMENT))
        os.fsync(first)
        hard_link = _works(lambda: os.link(names[0], names[2], src_dir_fd=folder, dst_dir_fd=folder))
        noreplace = _renames_without_replacing(folder, names[0], names[1], names[3])
        return Traits(
            conditional_put=hard_link or noreplace,
            reflink=_works(lambda: beneath.reflink(first, second)),
            hard_link=hard_link,
            rename_noreplace=noreplace,
            o_direct=_works(lambda: _read_directly(first)),
            xattrs=_works(lambda: os.setxattr(first, "user.mover", b"1")),
            filesystem=mount.filesystem,
            network=mount.network,
            syncfs=not mount.network and mount.filesystem not in SYNCFS_STOPS_SHORT and _kernel() >= SYNCFS_SAYS_SO,
        )
    finally:
        for descriptor in (first, second):
            if descriptor >= 0:
                os.close(descriptor)
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        os.close(folder)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(takewhile(str.isdigit, minor)))


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def _renames_without_replacing(folder: int, source: bytes, target: bytes, free: bytes) -> bool:
    """Whether the kernel's own no-replace rename is there (the link fallback is no trait). It has to refuse a taken
    name and take a free one: on NFS the first is answered without asking the file system, which has no such rename."""
    try:
        beneath.rename_noreplace_only(folder, source, target)
    except FileExistsError:
        return _works(lambda: beneath.rename_noreplace_only(folder, source, free))
    except OSError:
        return False
    return False


def _read_directly(descriptor: int) -> None:
    direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, ALIGNMENT) as buffer:
            os.preadv(direct, [buffer], 0)
    finally:
        os.close(direct)
