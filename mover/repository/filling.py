"""Files out of blobs: what every restore does with the bytes.

Files are filled from their beginning to their end, several lanes at once. The blobs of a step are read from wherever
they lie, neighbours of one pack in one go; each is authenticated, unpacked and hashed before it is written. They are
gathered in an aligned buffer and written past the page cache where the file system can: measured, that costs a tenth
of the time in the kernel, and the device works while another lane decrypts. Of what is not aligned only the ends of a
lane are left: such bytes go through the page cache, and waiting for them and for the direct writes of the same file in
turns had cost more than all the rest (a writer with several threads leaves a file's neighbours in several packs).

A file that stood there already (a restore that was killed) is read first: what hashes to its blob is not fetched
again. Where the catalog knows a file's digest, the whole file must have it, whatever its blobs say.

Bounds: BATCHES_AT_ONCE + 1 times BATCH_FILES open files, LANES_WAITING lanes of each; for each of WORKERS
threads reads of RUN_BYTES (plus one blob) and one buffer of STRETCH_BYTES; PENDING_BYTES of content that waits for its
turn to be digested.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from blake3 import blake3
from msgspec import Struct

from mover.errors import EntryMissing, IntegrityError, RepositoryDamaged
from mover.repository.index import Location
from mover.repository.packs import pack_memory
from mover.repository.reader import BlobReader
from mover.repository.tree import Node
from mover.tiers.beneath import start_writeback

# more threads than cores: those who wait for a device take no core
WORKERS = max(4, min(2 * (os.cpu_count() or 2), 16))
BATCH_FILES = 128
# One is opened while these are filled.
BATCHES_AT_ONCE = 2
BATCH_BYTES = 4 << 30
LANE_BYTES = 32 << 20
LANES_WAITING = WORKERS + 2
RUN_BYTES = 8 << 20
# Bytes between two wanted blobs that are cheaper to read along than to skip.
RUN_GAP_BYTES = 128 << 10
ALIGN = 4096
STRETCH_BYTES = 8 << 20
# Below this the page cache is the shorter way.
DIRECT_BYTES = 1 << 20
# Stretches worth sending to the device at once, so that it works while we decrypt the next.
WRITEBACK_BYTES = 256 << 10
PENDING_BYTES = 128 << 20
# In blobs that shrank at least so much, holes of this size are looked for.
SPARSE_SHRINK = 16
HOLE_BYTES = 64 << 10

Counted = Callable[[int], None]


class OpenFile:
    """A file being restored. `stands`: it was there before us, and what is right in it stays. `digest` is what its
    whole content must have, when that is known."""

    def __init__(self, path: bytes, node: Node, folder: int, *, digest: Digest | None) -> None:
        self.path, self.node = path, node
        self.fd, self.stands = _open(path, folder)
        self.direct = _open_direct(path, folder) if node.size >= DIRECT_BYTES else -1
        os.ftruncate(self.fd, node.size)  # holes stay holes: blobs of zeros are not written
        self.damaged = False
        self.digest = digest

    def close(self) -> None:
        """Before it counts: some file systems report a lost write only here."""
        fds, self.fd, self.direct = [fd for fd in (self.direct, self.fd) if fd >= 0], -1, -1
        for fd in fds:
            os.close(fd)


class Digest:
    """BLAKE3 of a file whose parts come in almost the order they have. What comes too early waits; what finds no
    room to wait is read back at the end."""

    def __init__(self, expected: str, places: threading.Semaphore) -> None:
        """`places` are shared by the files of a restore: one for each MiB that may wait."""
        self._expected, self._places, self._hasher, self._at = expected, places, blake3(), 0
        self._early: dict[int, tuple[bytes, int]] = {}
        self._guard = threading.Lock()

    def offer(self, offset: int, plain: bytes | memoryview) -> None:
        with self._guard:
            if offset == self._at:
                self._take(plain)
                while (waiting := self._early.pop(self._at, None)) is not None:
                    self._give_back(waiting[1])
                    self._take(waiting[0])
            elif offset > self._at and offset not in self._early and (places := self._room(plain)):
                self._early[offset] = (bytes(plain), places)

    def holds(self, fd: int, size_bytes: int) -> bool:
        """Is the whole file what it must be? Reads what did not come in its order."""
        for _, places in self._early.values():
            self._give_back(places)
        self._early.clear()
        while self._at < size_bytes:
            plain = os.pread(fd, min(RUN_BYTES, size_bytes - self._at), self._at)
            if not plain:
                return False
            self._take(plain)
        return bool(self._hasher.hexdigest() == self._expected)

    def _take(self, plain: bytes | memoryview) -> None:
        self._hasher.update(plain)
        self._at += len(plain)

    def _room(self, plain: bytes | memoryview) -> int:
        """Places of a MiB, all of those it needs or none."""
        wanted, got = (len(plain) >> 20) + 1, 0
        while got < wanted and self._places.acquire(blocking=False):
            got += 1
        if got < wanted:
            self._give_back(got)
            return 0
        return got

    def _give_back(self, places: int) -> None:
        for _ in range(places):
            self._places.release()


class Piece(Struct, frozen=True):
    """One blob and everywhere it goes."""

    blob_id: bytes
    place: Location
    targets: list[tuple[OpenFile, int]]


class Filler:
    """Fills files that are open; `counted` hears of every stretch of bytes that stands."""

    def __init__(self, blobs: BlobReader, pool: ThreadPoolExecutor, counted: Counted) -> None:
        self._blobs, self._pool, self._counted = blobs, pool, counted
        self._local = threading.local()
        self._failure: BaseException | None = None

    def fill(self, opened: Sequence[OpenFile]) -> None:
        """All of them; those with a lost blob are marked damaged. For several threads: what fails one fails all."""
        places = threading.Semaphore(LANES_WAITING)
        futures = []
        for lane in _lanes(self._pieces(opened)):
            places.acquire()
            future = self._pool.submit(self._write_lane, lane)
            future.add_done_callback(lambda _: places.release())
            futures.append(future)
            if self._failure is not None:
                break
        for future in futures:
            future.result()
        if self._failure is not None:
            raise self._failure
        checked = [file for file in opened if file.digest is not None and not file.damaged]
        for file, right in zip(checked, self._pool.map(_has_its_digest, checked), strict=True):
            file.damaged = not right

    def fail(self, failure: BaseException) -> None:
        """The others need not go on: every caller hears of this one."""
        self._failure = self._failure or failure

    def _pieces(self, opened: Sequence[OpenFile]) -> list[Piece]:
        """Every distinct blob once, however many files share it, in the order in which files need them."""
        pieces: dict[bytes, Piece] = {}
        for file in opened:
            for blob_id, place, offset in self._missing(file):
                pieces.setdefault(blob_id, Piece(blob_id, place, [])).targets.append((file, offset))
        return list(pieces.values())

    def _missing(self, file: OpenFile) -> list[tuple[bytes, Location, int]]:
        wanted, offset = [], 0
        try:
            for blob_id in file.node.content or ():
                place = self._blobs.locate("data", blob_id)
                wanted.append((blob_id, place, offset))
                offset += place.size_bytes
        except RepositoryDamaged:
            file.damaged = True
        file.damaged = file.damaged or offset != file.node.size
        if not file.stands or not wanted:
            return wanted
        right = self._pool.map(lambda one: _stands(file.fd, *one), wanted)
        missing = [one for one, stands in zip(wanted, right, strict=True) if not stands]
        self._counted(sum(one[1].size_bytes for one in wanted) - sum(one[1].size_bytes for one in missing))
        return missing

    def _write_lane(self, lane: list[Piece]) -> None:
        stretch = self._stretch()
        try:
            for step in _steps(lane):
                if self._failure is not None:
                    break
                self._write(step, stretch)
            stretch.flush()
        except BaseException as failure:
            self.fail(failure)
            with suppress(OSError):
                stretch.flush()  # what was fetched stands for the next attempt
            raise

    def _write(self, step: list[Piece], stretch: _Stretch) -> None:
        sealed = self._read(step)
        for piece in step:
            part = sealed.get(piece.blob_id)
            try:
                if part is None:
                    raise RepositoryDamaged("a blob is not where the index says")
                self._open(piece, part, stretch)
            except RepositoryDamaged:
                _damage(piece)
                continue
            self._counted(piece.place.size_bytes * len(piece.targets))

    def _read(self, step: list[Piece]) -> dict[bytes, memoryview]:
        """The sealed blobs of a step but those of a pack that is lost or cut short."""
        found: dict[bytes, memoryview] = {}
        for run in _runs(sorted(step, key=lambda piece: (piece.place.pack_id, piece.place.offset))):
            start, end = run[0].place.offset, run[-1].place.offset + run[-1].place.length
            with suppress(EntryMissing, IntegrityError):
                sealed = memoryview(self._blobs.read_run(run[0].place.pack_id, start, end - start))
                for piece in run:
                    at = piece.place.offset - start
                    found[piece.blob_id] = sealed[at : at + piece.place.length]
        return found

    def _open(self, piece: Piece, sealed: memoryview, stretch: _Stretch) -> None:
        """What is stored as it is and goes to one place is decrypted where it is written from."""
        place, where = piece.place, f"data/{piece.place.pack_id}"
        if place.plain_length or len(piece.targets) > 1 or place.size_bytes > STRETCH_BYTES:
            _place(
                self._blobs.open(piece.blob_id, sealed, plain_length=place.plain_length, where=where), piece, stretch
            )
            return
        [(file, offset)] = piece.targets
        room = stretch.room(file, offset, place.size_bytes)
        try:
            self._blobs.open_into(piece.blob_id, sealed, room, where=where)
        except RepositoryDamaged:
            stretch.give_back(place.size_bytes)
            raise
        if file.digest is not None:
            file.digest.offer(offset, room)
        if _only_zeros(room) and _may_stay_hole(file, offset, len(room)):
            stretch.give_back(place.size_bytes)

    def _stretch(self) -> _Stretch:
        found: _Stretch | None = getattr(self._local, "stretch", None)
        if found is None:
            found = self._local.stretch = _Stretch()
        found.drop()
        return found


class _Stretch:
    """Neighbouring bytes of one file on their way to the device, at the same place in an aligned buffer as in the
    file's blocks. A page that is not full yet waits for the next bytes."""

    def __init__(self) -> None:
        self._buffer = pack_memory(STRETCH_BYTES + 2 * ALIGN)
        self._file: OpenFile | None = None
        self._base = self._lead = self._fill = 0  # where the buffer lies in the file; from where to where it is full

    def drop(self) -> None:
        """Forget what a lane that failed has left."""
        self._file = None

    def add(self, file: OpenFile, offset: int, plain: bytes) -> None:
        self.room(file, offset, len(plain))[:] = plain

    def room(self, file: OpenFile, offset: int, length: int) -> memoryview:
        """Where this stretch of the file is to be written to."""
        if self._file is not file or offset != self._base + self._fill:
            self.flush()
            self._lead = self._fill = offset % ALIGN
            self._base, self._file = offset - self._lead, file
        elif self._fill + length > len(self._buffer):
            self._drain(file)
        self._fill += length
        return self._buffer[self._fill - length : self._fill]

    def give_back(self, length: int) -> None:
        """The room that was taken last is not used after all."""
        self._fill -= length

    def flush(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._write(file, self._fill)

    def _drain(self, file: OpenFile) -> None:
        whole = self._fill // ALIGN * ALIGN
        self._write(file, whole)
        rest = self._fill - whole
        self._buffer[:rest] = self._buffer[whole : self._fill]
        self._base, self._lead, self._fill = self._base + whole, 0, rest

    def _write(self, file: OpenFile, end: int) -> None:
        begin, whole = -(-self._lead // ALIGN) * ALIGN, end // ALIGN * ALIGN
        if file.direct < 0 or whole - begin < DIRECT_BYTES:
            write_all(file.fd, self._buffer[self._lead : end], self._base + self._lead)
            if end - self._lead >= WRITEBACK_BYTES:
                start_writeback(file.fd, self._base + self._lead, end - self._lead)
            return
        write_all(file.fd, self._buffer[self._lead : begin], self._base + self._lead)
        done = write_direct(file.direct, self._buffer[begin:whole], self._base + begin)
        write_all(file.fd, self._buffer[begin + done : end], self._base + begin + done)


def _open(path: bytes, folder: int) -> tuple[int, bool]:
    """For reading and writing, and whether it was there. A mode that a restore before us had set must not keep us
    out; the folder is private, so nobody else's file can stand at the name."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), False
    except FileExistsError:
        os.chmod(path, 0o600, dir_fd=folder)
        return os.open(path, flags, dir_fd=folder), True


def _open_direct(path: bytes, folder: int) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return -1  # a file system without it: everything goes through the page cache


def _stands(fd: int, blob_id: bytes, place: Location, offset: int) -> bool:
    """Does this blob stand in the file already? A hole was never written; to hash its zeros would be for nothing."""
    if _is_hole(fd, offset, place.size_bytes):
        return False
    return hashlib.sha256(os.pread(fd, place.size_bytes, offset)).digest() == blob_id


def _is_hole(fd: int, offset: int, length: int) -> bool:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + length
    except OSError as failure:
        if failure.errno == errno.ENXIO:  # no data from here to the end
            return True
        raise


def _has_its_digest(file: OpenFile) -> bool:
    return file.digest is None or file.digest.holds(file.fd, file.node.size)


def _place(plain: bytes, piece: Piece, stretch: _Stretch) -> None:
    zeros = _only_zeros(plain)
    for file, offset in piece.targets:
        if file.digest is not None:
            file.digest.offer(offset, plain)
        if zeros and _may_stay_hole(file, offset, len(plain)):
            continue
        if piece.place.length * SPARSE_SHRINK < piece.place.plain_length:
            _write_sparse(file, offset, plain)
        elif len(plain) <= STRETCH_BYTES:
            stretch.add(file, offset, plain)
        else:
            write_all(file.fd, plain, offset)


def _write_sparse(file: OpenFile, offset: int, plain: bytes) -> None:
    """A blob that shrank so much may be mostly zeros: those are left out, block by block of the file."""
    view, at = memoryview(plain), 0
    while at < len(plain):
        end = min(len(plain), at + HOLE_BYTES - (offset + at) % HOLE_BYTES)
        part = plain[at:end]
        if not (_only_zeros(part) and _may_stay_hole(file, offset + at, len(part))):
            write_all(file.fd, view[at:end], offset + at)
        at = end


def _may_stay_hole(file: OpenFile, offset: int, length: int) -> bool:
    return not file.stands or _is_hole(file.fd, offset, length)


def _damage(piece: Piece) -> None:
    for file, _ in piece.targets:
        file.damaged = True


def _lanes(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """What one thread writes from beginning to end: a long file, or many short ones."""
    lane: list[Piece] = []
    size = 0
    for piece in pieces:
        file = piece.targets[0][0]
        if lane and (size >= LANE_BYTES or (file.direct >= 0 and file is not lane[-1].targets[0][0])):
            yield lane
            lane, size = [], 0
        lane.append(piece)
        size += piece.place.size_bytes
    if lane:
        yield lane


def _steps(lane: list[Piece]) -> Iterator[list[Piece]]:
    """What is read before any of it is written."""
    step: list[Piece] = []
    size = 0
    for piece in lane:
        step.append(piece)
        size += piece.place.length
        if size >= RUN_BYTES:
            yield step
            step, size = [], 0
    if step:
        yield step


def _runs(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Neighbours in one pack are read in one go."""
    run: list[Piece] = []
    for piece in pieces:
        if run and not _joins(run, piece.place):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _joins(run: list[Piece], place: Location) -> bool:
    last = run[-1].place
    gap = place.offset - (last.offset + last.length)
    return place.pack_id == last.pack_id and 0 <= gap <= RUN_GAP_BYTES


def _only_zeros(plain: bytes | memoryview) -> bool:
    return not any(plain[:64]) and plain == bytes(len(plain))


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def write_direct(fd: int, view: memoryview, offset: int) -> int:
    """How much went past the page cache, in whole blocks; the rest goes through it."""
    done = 0
    while done < len(view):
        try:
            written = os.pwrite(fd, view[done:], offset + done)
        except OSError as failure:
            if failure.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # another alignment, or none at all
                raise
            return done
        done += written // ALIGN * ALIGN
        if written % ALIGN or not written:
            return done
    return done
