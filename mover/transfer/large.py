"""One large file to a posix tier: the fastest way that was found to work for this pair, digested and read back.

Three ways, tried and not assumed:

    share    one file system that can: the blocks are reflinked, and only a digest is taken (or none, where it
             was verified under this very fingerprint before)
    kernel   copy_file_range in 32 MiB steps, each handed to the disk at once, while a second thread digests the
             same pages. For cold files that the page cache can hold and nobody reads back, because one reader in
             order is what a device likes best; and within one file server
    lanes    threads that each read a piece, digest it in turn, and write it past the cache (O_DIRECT). It takes
             half the processor time, leaves the cache to others, and its target needs no dropping before the
             read-back. Also where the source has no descriptor: ranges of an object go straight to the file

The `Follower` reads back what was written, from the device, while the next pieces are written.

The source is read by descriptor into buffers and never mapped. Mapping was measured (performance.md): within 1 %
of a 1 MiB pread for the digest thread, which is not worth a process that dies of SIGBUS when somebody truncates
his file.
"""

from __future__ import annotations

import bisect
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterator

from msgspec import Struct

from mover.errors import ChangedWhileReading, MoverError, ShortRead
from mover.model.recipe import STEP_BYTES, Copy, Placed, Recipe
from mover.model.source import ByteSource
from mover.tiers import beneath
from mover.tiers.beneath import open_direct
from mover.transfer.digest import READ_AHEAD_BYTES, Hasher, descriptor_of
from mover.transfer.lanes import Lanes, LanesStopped, Turn
from mover.transfer.pace import Pace

PIECE_BYTES = 1 << 20
OBJECT_PIECE_BYTES = 8 << 20
LANES = 6
VOID_BYTES = 64 << 20  # a hole is skipped in pieces of this size
CACHE_PROBES = 16
RUNS_KEPT = 256  # a piece with more islands of data than this is written whole
FOLLOW_BUFFERS = 4
FOLLOW_LAG_BYTES = 32 << 20
ALIGNMENT = 4096
ZEROS = bytes(1 << 20)
# above this the page cache throttles whoever writes through it; below, the kernel's copy has less to wait for
KERNEL_BYTES = 2 << 30

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYNC_WAIT = 1 | 2 | 4  # SYNC_FILE_RANGE: wait, write, wait
_FICLONERANGE = 0x4020940D
_NFS_MAGIC = 0x6969
_REFUSED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


CopyRange = Callable[[int, int, int, int, int], int]


class Piece(Struct, frozen=True):
    """A range of the output. `runs` are the places of it that hold data, (at, length); None: all of it."""

    at: int
    length: int
    runs: tuple[tuple[int, int], ...] | None = None


def dense_pieces(size: int, *, start: int = 0, step: int = PIECE_BYTES) -> Iterator[Piece]:
    for at in range(start, size, step):
        yield Piece(at, min(step, size - at))


def sparse_pieces(descriptor: int, size: int, *, start: int = 0, step: int = PIECE_BYTES) -> Iterator[Piece]:
    """Along the holes of the file itself, as its file system reports them."""
    at = start
    while at < size:
        data = _next_data(descriptor, at, size)
        if data // step * step > at:
            length = min(data // step * step - at, VOID_BYTES) if data < size else min(size - at, VOID_BYTES)
            yield Piece(at, length, ())
        else:
            length = min(step, size - at)
            yield Piece(at, length, _runs(descriptor, at, length))
        at += length


def _next_data(descriptor: int, at: int, size: int) -> int:
    try:
        return min(size, os.lseek(descriptor, at, os.SEEK_DATA))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size  # a hole up to the end
        return at  # this file system does not say: all is data


def _runs(descriptor: int, at: int, length: int) -> tuple[tuple[int, int], ...] | None:
    found: list[tuple[int, int]] = []
    end = at + length
    while at < end and len(found) <= RUNS_KEPT:
        data = _next_data(descriptor, at, end)
        if data >= end:
            break
        try:
            hole = min(end, os.lseek(descriptor, data, os.SEEK_HOLE))
        except OSError:
            return None
        found.append((data, hole - data))
        at = hole
    return None if len(found) > RUNS_KEPT else tuple(found)


def is_sparse(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_blocks * 512 + ALIGNMENT < status.st_size


# --- reading the source ---------------------------------------------------------------------------------


class Filler:
    """Fills buffers with ranges of a recipe's output, from any thread."""

    def __init__(self, recipe: Recipe, source: ByteSource, *, pace: Pace) -> None:
        self._source, self._pace = source, pace
        self._placed = list(recipe.placed())
        self._starts = [placed.at for placed in self._placed]
        self._descriptor = descriptor_of(source)
        self._ahead = 0
        self._read_into = getattr(source, "read_into", None)  # an object's range straight into our buffer
        self._source_bytes = recipe.source_bytes
        copies = [segment for segment in recipe.segments if isinstance(segment, Copy)]
        # the recipe takes what it takes in the source's own order, nothing twice: one reading serves both digests
        self.in_order = all(one.offset + one.length <= two.offset for one, two in itertools.pairwise(copies))

    def fill(self, at: int, view: memoryview) -> None:
        for placed, inner, part in self._parts(at, view):
            if isinstance(placed.segment, Copy):
                self.read(placed.segment.offset + inner, part)
            else:
                part[:] = placed.segment.data[inner : inner + len(part)]

    def digest_source(self, at: int, view: memoryview, hasher: Hasher) -> None:
        """The source's bytes of a filled range, in their turn; what the recipe left out before them is read now."""
        for placed, inner, part in self._parts(at, view):
            if isinstance(placed.segment, Copy):
                self._digest_up_to(placed.segment.offset + inner, hasher)
                hasher.update(part)

    def digest_rest(self, hasher: Hasher) -> None:
        """What the recipe leaves out at the source's end."""
        self._digest_up_to(self._source_bytes, hasher)

    def _digest_up_to(self, offset: int, hasher: Hasher) -> None:
        while hasher.size_bytes < offset:
            view = memoryview(bytearray(min(PIECE_BYTES, offset - hasher.size_bytes)))
            self.read(hasher.size_bytes, view)
            hasher.update(view)

    def read(self, offset: int, view: memoryview) -> None:
        """A range of the source itself."""
        while view:
            part = view[:OBJECT_PIECE_BYTES]
            with self._pace.step(self._pace.source, "read", len(part)):
                if self._descriptor is not None:
                    self._read_ahead(self._descriptor, offset)
                    read_fully(self._descriptor, offset, part)
                elif self._read_into is not None:
                    self._read_into(offset, part)
                else:
                    part[:] = self._source.read(offset, len(part))
            view, offset = view[len(part) :], offset + len(part)

    def _read_ahead(self, descriptor: int, offset: int) -> None:
        """Several lanes look random to the kernel, which then reads nothing ahead; twice in a race is harmless."""
        if offset >= self._ahead:
            self._ahead = offset + READ_AHEAD_BYTES // 2
            os.posix_fadvise(descriptor, offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    def _parts(self, at: int, view: memoryview) -> Iterator[tuple[Placed, int, memoryview]]:
        """(segment, offset within it, piece of the view) for the range at `at`."""
        index, done = bisect.bisect_right(self._starts, at) - 1, 0
        while done < len(view):
            placed = self._placed[index]
            inner = at + done - placed.at
            count = min(len(view) - done, placed.segment.length - inner)
            if count > 0:
                yield placed, inner, view[done : done + count]
            done, index = done + max(0, count), index + 1


def is_cached(descriptor: int, size: int) -> bool:
    """Whether most of the file is in the page cache, asked at a few places; where the system does not say, no."""
    probe = [bytearray(1)]
    found = 0
    for number in range(CACHE_PROBES):
        try:
            found += os.preadv(descriptor, probe, number * size // CACHE_PROBES, os.RWF_NOWAIT)
        except OSError:
            continue
    return found * 2 > CACHE_PROBES


def read_fully(descriptor: int, offset: int, view: memoryview) -> None:
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise ShortRead("the source ended before its size")
        view, offset = view[count:], offset + count


# --- writing the target ---------------------------------------------------------------------------------


class Landing:
    """A temporary file that pieces are written into at any place, past the cache where the file system lets us."""

    def __init__(self, descriptor: int, size: int, *, sparse: bool) -> None:
        self.descriptor = descriptor
        self._allocate(size, sparse=sparse)
        self._direct = open_direct(descriptor, os.O_WRONLY)
        self._started = 0

    @property
    def past_cache(self) -> bool:
        return self._direct >= 0

    def _allocate(self, size: int, *, sparse: bool) -> None:
        """All at once where it can be: fewer extents, parallel writes, and a full disk is known before the copy."""
        if not sparse and size:
            if _LIBC.fallocate(self.descriptor, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)) == 0:
                return
            number = ctypes.get_errno()
            if number not in _REFUSED:
                raise target_error(OSError(number, os.strerror(number)))
        try:
            os.ftruncate(self.descriptor, size)
        except OSError as error:
            raise target_error(error) from error

    def write(self, at: int, view: memoryview) -> None:
        try:
            whole = len(view) // ALIGNMENT * ALIGNMENT if at % ALIGNMENT == 0 and self._direct >= 0 else 0
            done = self._write_direct(at, view[:whole]) if whole else 0
            write_fully(self.descriptor, at + done, view[done:])
        except OSError as error:
            raise target_error(error) from error
        if self._direct < 0:
            beneath.start_writeback(self.descriptor, at, len(view))

    def _write_direct(self, at: int, view: memoryview) -> int:
        """How many bytes; fewer when this file system takes the flag and then refuses, or stops unaligned."""
        done = 0
        while done < len(view) and done % ALIGNMENT == 0:
            try:
                done += os.pwrite(self._direct, view[done:], at + done)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                break
        return done

    def close(self) -> None:
        if self._direct >= 0:
            direct, self._direct = self._direct, -1
            os.close(direct)


def write_fully(descriptor: int, at: int, view: memoryview) -> None:
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count


def target_error(error: OSError) -> MoverError:
    return beneath.translated(error, "copying failed", tier="")


# --- reading back ---------------------------------------------------------------------------------------


class Follower:
    """Reads back what landed, in order, from the device and not from a cache, while more is written.

    `landed` may be told in any order. `reached` is called in order with each position up to which the bytes were
    read and digested, so that parts can be journalled. With `read=False` it only follows, without reading.
    """

    def __init__(
        self,
        descriptor: int,
        size: int,
        hasher: Hasher,
        *,
        pace: Pace,
        start: int = 0,
        read: bool = True,
        reached: Callable[[int], None] | None = None,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._descriptor, self._size, self._hasher, self._pace = descriptor, size, hasher, pace
        self._start, self._read, self._reached, self._failed = start, read, reached, failed
        self._watermark, self._islands = start, dict[int, int]()
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: BaseException | None = None
        self._full: queue.SimpleQueue[memoryview | int | BaseException | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[mmap.mmap | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=run, name=name, daemon=True)
                         for run, name in ((self._fetch, "follow"), (self._digest, "follow-digest"))]  # fmt: skip

    def __enter__(self) -> Follower:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._free.put(None)
        for thread in self._threads:
            thread.join()

    def landed(self, at: int, length: int) -> None:
        with self._changed:
            self._islands[at] = length
            before = self._watermark
            while self._watermark in self._islands:
                self._watermark += self._islands.pop(self._watermark)
            if self._watermark > before:
                self._changed.notify_all()

    def finish(self) -> None:
        """Everything landed: wait until it was read back. Raises what went wrong there."""
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _fetch(self) -> None:
        direct = open_direct(self._descriptor, os.O_RDONLY) if self._read else -1
        try:
            if self._read:
                for _ in range(FOLLOW_BUFFERS):
                    self._free.put(mmap.mmap(-1, PIECE_BYTES))
            at = self._start
            while at < self._size:
                until = self._ready(at)
                if until <= at:
                    return
                if self._read:
                    settle(self._descriptor, at, until - at)
                at = self._fetch_range(direct, at, until)
            self._full.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`
            self._full.put(error)
        finally:
            if direct >= 0:
                os.close(direct)

    def _ready(self, at: int) -> int:
        """Up to where may be read now, in whole pieces; waits for at least the lag, or the end."""
        with self._changed:
            while not self._stopping and self._watermark < min(self._size, at + FOLLOW_LAG_BYTES):
                self._changed.wait()
            if self._stopping and self._watermark < self._size:
                self._full.put(LanesStopped())
                return at
            return self._size if self._watermark == self._size else self._watermark // PIECE_BYTES * PIECE_BYTES

    def _fetch_range(self, direct: int, at: int, until: int) -> int:
        while at < until:
            if not self._read:
                at = min(until, at + PIECE_BYTES)
                self._full.put(at)
                continue
            buffer = self._free.get()
            if buffer is None:
                raise LanesStopped
            with self._pace.step(self._pace.target, "read", PIECE_BYTES):
                count = read_cold(self._descriptor, direct, at, memoryview(buffer), until)
            self._full.put(memoryview(buffer)[:count])
            at += count
        return at

    def _digest(self) -> None:
        at = self._start
        try:
            while (came := self._full.get()) is not None:
                if isinstance(came, BaseException):
                    raise came
                if isinstance(came, memoryview):
                    self._hasher.update(came)
                    at += len(came)
                    self._free.put(came.obj)  # type: ignore[arg-type]
                else:
                    at = came
                if self._reached is not None:
                    self._reached(at)
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`
            self._failure = error
            self._free.put(None)
            if self._failed is not None:
                self._failed(error)


def settle(descriptor: int, at: int, length: int) -> None:
    """Write a range out, wait for the disk, and forget what the cache knows of it. A no-op past the cache."""
    range_ = ctypes.c_longlong(at), ctypes.c_longlong(length)
    if _LIBC.sync_file_range(descriptor, *range_, ctypes.c_uint(_SYNC_WAIT)) != 0:
        number = ctypes.get_errno()
        if number not in _REFUSED and number != errno.ESPIPE:
            raise target_error(OSError(number, os.strerror(number)))
        os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, at, length, os.POSIX_FADV_DONTNEED)


def read_cold(descriptor: int, direct: int, at: int, view: memoryview, until: int) -> int:
    """Bytes of a settled range, past the cache where that works. Never beyond `until`, never none."""
    count = 0
    if direct >= 0 and at % ALIGNMENT == 0:
        try:
            count = os.preadv(direct, [view], at)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise beneath.translated(error, "reading back failed", tier="") from error
    if count == 0:
        try:
            count = os.preadv(descriptor, [view], at)
        except OSError as error:
            raise beneath.translated(error, "reading back failed", tier="") from error
    if count == 0:
        raise ShortRead("the file at the target ended before its size")
    return min(count, until - at)


# --- the ways -------------------------------------------------------------------------------------------


class Digesting(Struct, frozen=True):
    """Hashers of one move: of the result always, of the source where it is another and was asked for."""

    result: Hasher
    source: Hasher | None = None


def write_in_lanes(
    filler: Filler,
    landing: Landing,
    pieces: Iterator[Piece],
    digesting: Digesting,
    *,
    step: int,
    pace: Pace,
    count: int,
    follower: Follower | None,
    lanes_made: Callable[[Lanes[Piece]], None],
) -> None:
    """Every piece read, digested in order, and written; the follower is told of each."""

    def begin() -> Callable[[Piece, list[Turn]], None]:
        buffer = memoryview(mmap.mmap(-1, step))

        def work(piece: Piece, turns: list[Turn]) -> None:
            if piece.runs == ():
                pace.check()
                with turns[-1]:
                    update_zeros(digesting.result, piece.length)
            else:
                view = buffer[: piece.length]
                fill_and_digest(filler, piece.at, view, digesting, turns)
                for at, length in piece.runs if piece.runs is not None else ((piece.at, piece.length),):
                    with pace.step(pace.target, "write", length):
                        landing.write(at, view[at - piece.at : at - piece.at + length])
            if follower is not None:
                follower.landed(piece.at, piece.length)

        return work

    lanes: Lanes[Piece] = Lanes(pieces, begin, count=count, name="lane", turns=2 if digesting.source else 1)
    lanes_made(lanes)
    lanes.run()


def fill_and_digest(filler: Filler, at: int, view: memoryview, digesting: Digesting, turns: list[Turn]) -> None:
    filler.fill(at, view)
    if digesting.source is not None:
        with turns[0]:
            filler.digest_source(at, view, digesting.source)
    with turns[-1]:
        digesting.result.update(view)


def update_zeros(hasher: Hasher, count: int) -> None:
    while count:
        part = min(count, len(ZEROS))
        hasher.update(ZEROS if part == len(ZEROS) else memoryview(ZEROS)[:part])
        count -= part


def digest_along(
    filler: Filler, size: int, digesting: Digesting, *, stopped: Callable[[], bool]
) -> None:
    """What the kernel copies meanwhile: the same pages, read once more into one reused buffer."""
    view = memoryview(bytearray(min(PIECE_BYTES, max(1, size))))
    for piece in dense_pieces(size):
        if stopped():
            return
        part = view[: piece.length]
        filler.fill(piece.at, part)
        if digesting.source is not None:
            filler.digest_source(piece.at, part, digesting.source)
        digesting.result.update(part)


def place_segments(
    recipe: Recipe,
    source: int,
    target: int,
    *,
    pace: Pace,
    stopped: Callable[[], bool],
    landed: Callable[[int, int], None] | None,
) -> None:
    """The kernel copies what the recipe copies; literals are written."""
    copy: CopyRange = copy_file_range
    for placed in recipe.placed():
        if stopped():
            return
        if isinstance(placed.segment, Copy):
            copy = _copy_segment(
                copy, source, placed.segment, target, placed.at, pace=pace, stopped=stopped, landed=landed
            )
        else:
            try:
                with pace.step(pace.target, "write", placed.segment.length):
                    write_fully(target, placed.at, memoryview(placed.segment.data))
            except OSError as error:
                raise target_error(error) from error
            if landed is not None and placed.segment.length:
                landed(placed.at, placed.segment.length)


def _copy_segment(
    copy: CopyRange,
    source: int,
    segment: Copy,
    target: int,
    at: int,
    *,
    pace: Pace,
    stopped: Callable[[], bool],
    landed: Callable[[int, int], None] | None,
) -> CopyRange:
    """In steps, each handed to the disk at once: early write-back is the strongest lever there is."""
    done = 0
    while done < segment.length and not stopped():
        wanted = step_length(segment.offset + done, at + done, segment.length - done)
        try:
            with pace.step(pace.target, "write", wanted):
                count = copy(source, target, wanted, segment.offset + done, at + done)
        except OSError as error:
            if copy is copy_in_user_space or error.errno not in NO_KERNEL_COPY:
                raise target_error(error) from error
            copy = copy_in_user_space
            continue
        if count == 0:
            raise ChangedWhileReading("the source ended before its size")
        beneath.start_writeback(target, at + done, count)
        if landed is not None:
            landed(at + done, count)
        done += count
    return copy


def step_length(offset: int, at: int, left: int) -> int:
    """Up to 32 MiB, cut so that blocks that lie alike in source and target can be shared by the file system."""
    if offset % ALIGNMENT and offset % ALIGNMENT == at % ALIGNMENT:
        return min(left, ALIGNMENT - offset % ALIGNMENT)
    if offset % ALIGNMENT == 0 and left > ALIGNMENT:
        return min(STEP_BYTES, left // ALIGNMENT * ALIGNMENT)
    return min(STEP_BYTES, left)


def copy_file_range(source: int, target: int, count: int, source_at: int, target_at: int) -> int:
    return os.copy_file_range(source, target, count, source_at, target_at)


def copy_in_user_space(source: int, target: int, count: int, source_at: int, target_at: int) -> int:
    """For pairs of file systems between which the kernel does not copy."""
    data = os.pread(source, min(count, OBJECT_PIECE_BYTES), source_at)
    write_fully(target, target_at, memoryview(data))
    return len(data)


def copies_within(recipe: Recipe, source: int, target: int) -> bool:
    """Whether copying is a matter of the file system itself: it shares blocks (tried on the first block that the
    recipe copies, where that block belongs), or it is one mount of one file server, which may copy by itself."""
    if os.fstat(source).st_dev != os.fstat(target).st_dev:
        return False
    if _file_system(target) == _NFS_MAGIC:
        return True
    for placed in recipe.placed():
        segment = placed.segment
        aligned = placed.at % ALIGNMENT == 0 and segment.length >= ALIGNMENT
        if aligned and isinstance(segment, Copy) and segment.offset % ALIGNMENT == 0:
            return _clones(source, segment.offset, target, placed.at)
    return False


def _clones(source: int, offset: int, target: int, at: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("<qQQQ", source, offset, ALIGNMENT, at))
    except OSError:
        return False
    return True


def _file_system(descriptor: int) -> int:
    answer = (ctypes.c_long * 32)()
    return answer[0] if _LIBC.fstatfs(descriptor, answer) == 0 else 0


def reflinked(source: int, target: int) -> bool:
    """Share the blocks where both live on one file system that can."""
    if os.fstat(source).st_dev != os.fstat(target).st_dev:
        return False
    try:
        beneath.reflink(source, target)
    except OSError:
        return False
    return True
