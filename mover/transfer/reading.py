"""Small source files read whole and proved unchanged, and small target files read back from the device."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from typing import Any

from blake3 import blake3
from msgspec import structs

from mover.errors import ChangedSincePlan, ChangedWhileReading, DigestMismatch, EntryRefused, ShortRead
from mover.model.moving import Item, Options
from mover.model.tiers import Fingerprint
from mover.tiers import beneath
from mover.tiers.posix import ALIGNMENT, fingerprint_of
from mover.transfer.layout import Folders, split_source

BUFFER_FROM_BYTES = 32 << 10  # larger files are read into one kept buffer: fresh memory costs more than the copy
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)

# where it stands: its open folder, its name, its status
Seen = tuple[int, bytes, os.stat_result]


class Reader:
    """Reads whole small files, each proved unchanged from the plan to the last byte. One per thread."""

    def __init__(self, tier: str, options: Options, folders: Folders) -> None:
        self._tier, self._options, self._folders = tier, options, folders
        self._buffer = bytearray()
        keep = options.keep
        self._keeps_open = keep.xattrs or keep.acls
        self._links = keep.hard_links

    def look(self, item: Item) -> Seen:
        """Its status by name, refused when it is not the plain file that was planned. A name is asked before it is
        opened: opening a device may wind a tape."""
        at, name, seen = self._status(item)
        if not stat.S_ISREG(seen.st_mode):
            raise EntryRefused("the entry is not a plain file", where=self._tier)
        if seen.st_nlink > 1 and self._links == "refuse":
            raise EntryRefused("the entry has further names", where=self._tier)
        self._refuse_changed(item.fingerprint, seen)
        return at, name, seen

    def read(self, item: Item, looked: Seen) -> tuple[Any, os.stat_result, str, int]:
        """Its bytes (valid until the next call), status, digest, and its descriptor where that is still needed."""
        tries = self._options.retries_changed
        while True:
            data, after, descriptor = self._read_once(*looked)
            seen = looked[2]
            if _same(seen, after) and len(data) == seen.st_size:
                break
            if descriptor >= 0:
                os.close(descriptor)
            if not tries:
                raise ChangedWhileReading("the source changed while it was read", where=self._tier)
            tries -= 1
            looked = self._status(item)
        digest: str = blake3(data).hexdigest()
        if item.blake3 and item.blake3 != digest:
            if descriptor >= 0:
                os.close(descriptor)
            raise DigestMismatch("the source does not hold the bytes that were announced", where=self._tier)
        return data, seen, digest, descriptor

    def _read_once(self, at: int, name: bytes, seen: os.stat_result) -> tuple[Any, os.stat_result, int]:
        descriptor = -1
        size = seen.st_size
        try:
            descriptor = os.open(name, READ, dir_fd=at)
            # one byte more is asked for than there should be: a file that grew shows itself
            data = os.read(descriptor, size + 1) if size < BUFFER_FROM_BYTES else self._buffered(descriptor, size)
            after = os.fstat(descriptor)
            if self._keeps_open or seen.st_blocks * 512 < size:
                descriptor, kept = -1, descriptor
                return data, after, kept
            return data, after, -1
        except OSError as error:
            raise beneath.translated(error, "reading the source failed", tier=self._tier) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _buffered(self, descriptor: int, size: int) -> memoryview:
        if len(self._buffer) <= size:
            self._buffer = bytearray(size + 1)
        view, done = memoryview(self._buffer), 0
        while done <= size and (count := os.readv(descriptor, [view[done : size + 1]])):
            done += count
            if done == size:
                break  # a file that grew by now has another size and time
        return view[:done]

    def read_link(self, item: Item) -> tuple[bytes, os.stat_result]:
        at, name, seen = self._status(item)
        if not stat.S_ISLNK(seen.st_mode):
            raise ChangedSincePlan("the entry is no symlink any more", where=self._tier)
        self._refuse_changed(item.fingerprint, seen)
        try:
            return os.readlink(name, dir_fd=at), seen
        except OSError as error:
            raise beneath.translated(error, "reading the source failed", tier=self._tier) from error

    def _status(self, item: Item) -> Seen:
        folder, name = split_source(item.source)
        try:
            at = self._folders.open(folder)
            return at, name, os.stat(name, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            raise beneath.translated(error, "asking the source failed", tier=self._tier) from error

    def _refuse_changed(self, planned: Fingerprint, seen: os.stat_result) -> None:
        """As `refuse_other`, without making a value for each file."""
        if (
            planned.size_bytes != seen.st_size
            or planned.mtime_ns != seen.st_mtime_ns
            or (planned.mark and planned.mark != f"{seen.st_ino:x}:{seen.st_ctime_ns:x}")
        ):
            refuse_other(planned, fingerprint_of(seen), where=self._tier)


def refuse_other(planned: Fingerprint, seen: Fingerprint, *, where: str) -> None:
    """A plan made from names alone has no mark; size and time then have to do."""
    if planned != seen and (planned.mark or planned != structs.replace(seen, mark="")):
        raise ChangedSincePlan("the entry is not the one that was planned", where=where)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (
        before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
        and before.st_ino == after.st_ino
        and before.st_size == after.st_size
    )


class ColdReader:
    """Digests of what the device holds: past the page cache where the file system can, else after dropping it.
    One per thread; its buffer is a page of its own, as O_DIRECT demands."""

    BUFFER_BYTES = 1 << 20

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, self.BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._direct = os.O_DIRECT

    def __enter__(self) -> ColdReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.release()
        self._buffer.close()

    def digest(self, name: bytes, size: int, *, folder: int) -> str:
        try:
            return self._digest(name, size, folder=folder)
        except OSError as error:
            if not self._direct or error.errno not in _NO_DIRECT:
                raise
            self._direct = 0
            return self._digest(name, size, folder=folder)

    def _digest(self, name: bytes, size: int, *, folder: int) -> str:
        descriptor = os.open(name, READ | self._direct, dir_fd=folder)
        try:
            if not self._direct:
                os.fdatasync(descriptor)
                beneath.drop_cache(descriptor)
            if size <= self.BUFFER_BYTES:
                return blake3(self._piece(descriptor, 0, size)).hexdigest()
            hasher = blake3()
            for at in range(0, size, self.BUFFER_BYTES):
                hasher.update(self._piece(descriptor, at, min(self.BUFFER_BYTES, size - at)))
            return hasher.hexdigest()
        finally:
            os.close(descriptor)

    def _piece(self, descriptor: int, at: int, length: int) -> memoryview:
        whole = (length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        count = os.preadv(descriptor, [self._view[:whole]], at) if length else 0
        if count < length:
            raise ShortRead("the file ended before its size")
        return self._view[:length]
