"""Reading one file into blobs: windows, cut points, digests, and the test that it held still.

The cut is the writer's choice: FastCDC between restic's own limits, so blobs look alike to every client.
Bounds: WINDOWS buffers of WINDOW_BYTES.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from queue import LifoQueue
from typing import Literal, Protocol

from blake3 import blake3
from msgspec import Struct
from pyfastcdc import FastCDC

from mover.repository.crypto import Buffer
from mover.repository.facts import Progress
from mover.repository.nodes import node_of
from mover.repository.packs import pack_memory
from mover.repository.reading import Found, found_of
from mover.repository.tree import Xattr, encode_facts

CUT_MIN_BYTES, CUT_MEAN_BYTES, CUT_MAX_BYTES = 512 << 10, 1 << 20, 8 << 20
WINDOW_BYTES = 2 * CUT_MAX_BYTES
# Neighbours that one thread seals into one pack, so that whoever restores reads them in one go.
GROUP_BYTES = 4 << 20
READERS = 2
WINDOWS = READERS + 2
SEALERS = max(2, min(os.cpu_count() or 2, 16))
ATTEMPTS = 3
_ZEROS = bytes(CUT_MAX_BYTES)


class Shelf(Protocol):
    """Where blobs go."""

    def store(self, kind: Literal["data"], plain: Buffer) -> bytes: ...

    def assert_healthy(self) -> None:
        """Raises when nobody will want what is read from here on."""


class Stored(Struct, frozen=True):
    """A file as it was read. `facts` are its node but for the name, from its open descriptor; `size_bytes` is what
    was stored."""

    facts: bytes
    size_bytes: int
    blake3: str
    mtime_ns: int
    torn: bool


def stored(
    found: Found, content: tuple[bytes, ...], size: int, digest: str, xattrs: tuple[Xattr, ...] = (), torn: bool = False
) -> Stored:
    facts = encode_facts(node_of(found, "file", size=size, content=content, xattrs=xattrs))
    return Stored(facts, size, digest, found.mtime_ns, torn)


class Tally:
    """Running totals and the list of what is in the snapshot."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._guard = threading.Lock()
        self.files = self.bytes = 0
        self.entries: list[bytes] = []  # packed: see ProtectedFiles
        self.torn: list[str] = []
        self.unreadable: list[str] = []
        self.skipped: list[str] = []

    def count(self, *, files: int = 0, size_bytes: int = 0) -> None:
        with self._guard:
            self.files += files
            self.bytes += size_bytes
            if self._progress is not None:
                self._progress(self.files, self.bytes)


class FileReader:
    """Reads, cuts and stores files. `read` may run in several threads."""

    def __init__(self, blobs: Shelf, tally: Tally, *, seed: int) -> None:
        self._blobs, self._tally = blobs, tally
        self._seed = seed
        self._sealers = ThreadPoolExecutor(SEALERS, thread_name_prefix="seal")
        self._guard = threading.Lock()
        self._zero_blob: Future[list[bytes]] | None = None
        self._windows: LifoQueue[memoryview | None] = LifoQueue()
        for _ in range(WINDOWS):
            self._windows.put(None)  # a place; its buffer is made when first needed

    def close(self) -> None:
        self._sealers.shutdown(wait=True, cancel_futures=True)

    def read_all(self, fds: list[int]) -> list[Stored | OSError]:
        """Closes every descriptor. An OSError is the source's device failing under one file; failures of
        the tier are no OSErrors and end the snapshot."""
        outcomes: list[Stored | OSError] = []
        left = deque(fds)
        try:
            while left:
                try:
                    outcomes.append(self.read(left.popleft()))
                except OSError as failure:
                    outcomes.append(failure)
        finally:
            for fd in left:
                os.close(fd)
        return outcomes

    def read(self, fd: int) -> Stored:
        """Closes `fd`. A file that changes while it is read is read again from the same descriptor; what the
        last attempt read is kept and called torn."""
        try:
            for attempt in range(1, ATTEMPTS + 1):
                before = found_of(b"", os.fstat(fd))
                xattrs = read_xattrs(fd)
                content, size, digest = self._read_once(fd, before.size_bytes)
                steady = _same_moment(before, os.fstat(fd)) and size == before.size_bytes
                if steady or attempt == ATTEMPTS:
                    return stored(before, content, size, digest, xattrs, torn=not steady)
                self._tally.count(size_bytes=-size)
            raise AssertionError("the last attempt returns")
        finally:
            os.close(fd)

    def _read_once(self, fd: int, size: int) -> tuple[tuple[bytes, ...], int, str]:
        """At most the `size` bytes the file had at the start: a file that grows for ever must end."""
        if size <= CUT_MIN_BYTES:
            return self._read_small(fd, size)
        digest = blake3()
        offset = 0
        content: list[bytes] = []
        pending: deque[Future[list[bytes]]] = deque()
        hole = _Hole(fd, size)
        while offset < size:
            self._blobs.assert_healthy()
            if hole.length_at(offset) >= CUT_MAX_BYTES:
                taken, futures = CUT_MAX_BYTES, [self._zeros()]
                digest.update(_ZEROS)
            else:
                taken, futures = self._read_window(fd, offset, hole.start_after(offset), digest)
            pending += futures
            if taken == 0:
                break  # it shrank; the fingerprint will tell
            offset += taken
            self._tally.count(size_bytes=taken)
            while pending and pending[0].done():
                content += pending.popleft().result()
        for future in pending:
            content += future.result()
        return tuple(content), offset, digest.hexdigest()

    def _zeros(self) -> Future[list[bytes]]:
        """A hole is cut like zeros, which is where FastCDC would cut them, and neither read nor hashed again."""
        with self._guard:
            if self._zero_blob is None:
                self._zero_blob = self._sealers.submit(self._store, [memoryview(_ZEROS)])
            return self._zero_blob

    def _read_small(self, fd: int, size: int) -> tuple[tuple[bytes, ...], int, str]:
        """One chunk: handing it to another thread would cost more than it hides."""
        data = os.pread(fd, size, 0) if size else b""
        content = (self._blobs.store("data", data),) if data else ()
        self._tally.count(size_bytes=len(data))
        return content, len(data), blake3(data).hexdigest()

    def _read_window(self, fd: int, offset: int, size: int, digest: blake3) -> tuple[int, list[Future[list[bytes]]]]:
        """Cut one window and hand out its chunks. Unless the data ends here the last cut is unproven (it may
        only be where the window ends), so the next window starts there and reads those bytes again."""
        buffer = self._windows.get() or pack_memory(WINDOW_BYTES)
        filled = _fill(fd, buffer, offset, min(WINDOW_BYTES, size - offset))
        view = buffer[:filled]
        lengths = self._cut(view)
        if offset + filled < size and filled == WINDOW_BYTES:
            lengths.pop()
        taken = sum(lengths)
        digest.update(view[:taken])
        return taken, self._hand_out(buffer, lengths)

    def _cut(self, view: memoryview) -> list[int]:
        if not len(view):
            return []
        cutter = FastCDC(CUT_MEAN_BYTES, min_size=CUT_MIN_BYTES, max_size=CUT_MAX_BYTES, seed=self._seed)
        return [chunk.length for chunk in cutter.cut_buf(view)]

    def _hand_out(self, buffer: memoryview, lengths: list[int]) -> list[Future[list[bytes]]]:
        """The buffer goes back to the pool with its last group, whatever becomes of the chunks."""
        groups = _groups(buffer, lengths)
        if not groups:
            self._windows.put(buffer)
            return []
        left = [len(groups)]
        guard = threading.Lock()

        def one_less(_: object) -> None:
            with guard:
                left[0] -= 1
                last = left[0] == 0
            if last:
                self._windows.put(buffer)

        futures = []
        for group in groups:
            future = self._sealers.submit(self._store, group)
            future.add_done_callback(one_less)
            futures.append(future)
        return futures

    def _store(self, group: list[memoryview]) -> list[bytes]:
        return [self._blobs.store("data", chunk) for chunk in group]


def _groups(buffer: memoryview, lengths: list[int]) -> list[list[memoryview]]:
    groups: list[list[memoryview]] = []
    start, size = 0, GROUP_BYTES
    for length in lengths:
        if size >= GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(buffer[start : start + length])
        start, size = start + length, size + length
    return groups


class _Hole:
    """The holes of a file, asked for as the reading comes to them. What turns into data meanwhile changes the file's
    times, and it is read again."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size = fd, size
        self._start, self._end = 0, 0
        self._next = 0 if os.fstat(fd).st_blocks * 512 < size else size

    def length_at(self, offset: int) -> int:
        """How far the hole at `offset` reaches; 0 where there is data."""
        if offset >= self._next:
            self._find(offset)
        return self._end - offset if self._start <= offset < self._end else 0

    def start_after(self, offset: int) -> int:
        """Where the data at `offset` ends as far as blobs go: before a hole worth skipping, or with the file."""
        worth = self._start > offset and self._end - self._start >= CUT_MAX_BYTES
        return self._start if worth else self._size

    def _find(self, offset: int) -> None:
        """The first hole that ends behind `offset`. A file system that knows no holes names the end of the file."""
        self._start = os.lseek(self._fd, offset, os.SEEK_HOLE) if offset < self._size else self._size
        try:
            self._end = os.lseek(self._fd, self._start, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            self._end = self._size
        self._next = self._end = min(self._end, self._size)


def _fill(fd: int, buffer: memoryview, offset: int, length: int) -> int:
    filled = 0
    while filled < length:
        got = os.preadv(fd, [buffer[filled:length]], offset + filled)
        if got == 0:
            break
        filled += got
    return filled


def _same_moment(one: Found, other: os.stat_result) -> bool:
    return (one.size_bytes, one.mtime_ns, one.ctime_ns) == (other.st_size, other.st_mtime_ns, other.st_ctime_ns)


def read_xattrs(fd: int) -> tuple[Xattr, ...]:
    """All but `trusted.`, which only root may see, and names that JSON cannot carry."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return ()  # a file system without them
    found = []
    for name in sorted(names):
        if name.startswith("trusted.") or not name.isprintable():
            continue
        try:
            found.append(Xattr(name, os.getxattr(fd, name)))
        except OSError:
            continue  # removed since it was listed, or not ours to see
    return tuple(found)
