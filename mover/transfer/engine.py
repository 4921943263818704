"""Run recipes: move bytes, digest them on the way, make them durable, read them back cold, publish.

The order is decided by `mover.decide.move`; this module carries it out between real tiers. Between two file
systems the kernel copies while a second thread digests the source; to object tiers a reader thread feeds a
bounded queue that the upload empties. The digest is always of the source's bytes: digesting what was written
would believe its own mistakes.

Everything here blocks and belongs in a worker thread. A crash at any point leaves a temporary name (posix) or
an object without a sidecar (object), never anything under a final name that was not read back.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol

from msgspec import Struct

from mover import metrics
from mover.clock import monotonic_s
from mover.decide import move as protocol
from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    MoverError,
    RequestInvalid,
    ShortRead,
    TierError,
)
from mover.model.recipe import STEP_BYTES, Copy, Recipe
from mover.model.source import ByteSource
from mover.model.tiers import Digest
from mover.tiers import beneath
from mover.tiers.port import ReadTier, WriteTier
from mover.tiers.staging import Attempt, OpenEntry
from mover.transfer import digest as digests
from mover.transfer.digest import Chunk, Hasher
from mover.transfer.verifier import Clearance, refuse_crossing

PIECE_BYTES = 8 << 20
PIECES_WAITING = 4
STOP_CHECK_S = 0.2
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class Moved(Struct, frozen=True):
    """A finished move: the digest is of the source's bytes and of what the tier gave back cold."""

    digest: Digest
    seconds: float


class Transfer:
    """Runs recipes. Holds nothing but its bounds, so one serves all threads."""

    def __init__(self, *, pieces_waiting: int = PIECES_WAITING) -> None:
        self._pieces_waiting = pieces_waiting

    def run_recipe(
        self,
        recipe: Recipe,
        *,
        source: OpenEntry,
        source_tier: ReadTier,
        target: WriteTier,
        key: str,
        clearance: Clearance | None = None,
        expected: str = "",
    ) -> Moved:
        """Make the recipe's output at `key` of `target`, durable and read back; or raise and leave nothing.

        From an identified to a deidentified tier a `clearance` over this recipe and this open source is
        demanded (ZoneCrossing). `expected` is a BLAKE3 known beforehand: other bytes raise DigestMismatch.
        On object tiers `key` must be one no other attempt uses, and the caller puts the sidecar next.
        """
        before = source.fingerprint()
        if {source_tier.zone, source.zone} != {"deidentified"} and target.zone == "deidentified":
            refuse_crossing(recipe, clearance, fingerprint=before, where=target.name)
        if recipe.source_bytes != before.size_bytes or source.size_bytes != before.size_bytes:
            raise ChangedWhileReading("the source is not of the size the recipe was made for", where=source_tier.name)
        begin = getattr(target, "attempt", None)  # isinstance would ask every trait, which may cost a probe
        if begin is None:
            raise RequestInvalid("the engine writes to tiers that can stage an attempt", where=target.name)
        began_s = monotonic_s()
        attempt: Attempt = begin(key, size_bytes=recipe.size_bytes)
        running = _Running(recipe, source, before, attempt, self._pieces_waiting, where=target.name)
        try:
            running.to_publication(expected)
        except BaseException as error:
            attempt.abandon()
            if isinstance(error, MoverError):
                error.where = error.where or target.name
            raise
        metrics.BYTES_READ.labels(source_tier.name).inc(recipe.copied_bytes)
        metrics.BYTES_WRITTEN.labels(target.name).inc(recipe.size_bytes)
        metrics.BYTES_VERIFIED.labels(target.name).inc(recipe.size_bytes)
        return Moved(running.found, monotonic_s() - began_s)

    def digest(self, source: ByteSource, *, segments: bool = False) -> Digest:
        """Of a whole open source, read once."""
        return digests.digest_source(source, segments=segments)

    def digest_recipe(self, recipe: Recipe, source: ByteSource) -> Digest:
        """Of what the recipe would write."""
        return digests.digest_recipe(recipe, source)

    def digest_stream(self, chunks: Iterable[Chunk]) -> Digest:
        return digests.digest_stream(chunks)


class _Running:
    """One recipe on its way. The protocol says what comes next; each instruction has a method here."""

    def __init__(
        self,
        recipe: Recipe,
        source: OpenEntry,
        before: object,
        attempt: Attempt,
        pieces_waiting: int,
        *,
        where: str,
    ) -> None:
        self._recipe, self._source, self._before, self._attempt = recipe, source, before, attempt
        self._pieces_waiting, self._where = pieces_waiting, where
        self.found = Digest("", 0)

    def to_publication(self, expected: str) -> None:
        """From a committed intent (the caller's shard row) to the final name; recording is the caller's."""
        carry_out: dict[str, Callable[[], protocol.Event]] = {
            "write": self._write,
            "sync": self._sync,
            "reread": self._reread,
            "publish": self._publish,
        }
        move = protocol.Move(epoch=0, expected=expected)
        move, instruction = protocol.step(move, protocol.Intended())
        while instruction in carry_out:
            move, instruction = protocol.step(move, carry_out[instruction]())
        if move.state != "published":
            raise self._failure(move.reason)

    def _write(self) -> protocol.Event:
        fileno = getattr(self._attempt, "fileno", None)
        if digests.descriptor_of(self._source) is not None and fileno is not None:
            written = _copy_in_kernel(self._recipe, self._source, fileno())
        else:
            written = self._write_stream()
        return protocol.Written(written.blake3, source_unchanged=self._source.fingerprint() == self._before)

    def _write_stream(self) -> Digest:
        hasher = Hasher(segments=False)
        with Pump(self._recipe, self._source, hasher, waiting=self._pieces_waiting) as pump:
            self._attempt.write(pump)
            pump.finish()
        return hasher.digest()

    def _sync(self) -> protocol.Event:
        self._attempt.seal()
        return protocol.Synced()

    def _reread(self) -> protocol.Event:
        self.found = digests.digest_stream(self._attempt.stream_cold())
        return protocol.Reread(self.found.blake3)

    def _publish(self) -> protocol.Event:
        self._attempt.publish()
        return protocol.Published()

    def _failure(self, reason: str) -> MoverError:
        if reason == "changed-while-reading":
            return ChangedWhileReading("the source changed while it was read", where=self._where)
        return DigestMismatch("the bytes read back are not the bytes of the source", where=self._where)


# --- posix to posix: the kernel copies, a second thread digests ----------------------------------------


def _copy_in_kernel(recipe: Recipe, source: ByteSource, target: int) -> Digest:
    """Copy and digest at once. Whichever fails first stops the other; the copy's error comes first."""
    descriptor = digests.descriptor_of(source)
    assert descriptor is not None
    stop = threading.Event()
    hasher = Hasher(segments=False)
    failures: list[BaseException] = []

    def digest() -> None:
        try:
            digests.feed(recipe, source, hasher.update, stopped=stop.is_set)
        except BaseException as error:  # noqa: BLE001 - raised again by the owner of this thread
            failures.append(error)
            stop.set()

    digesting = threading.Thread(target=digest, name="digest", daemon=True)
    digesting.start()
    try:
        _place_segments(recipe, descriptor, target, stopped=stop.is_set)
    except BaseException:
        stop.set()
        raise
    finally:
        digesting.join()
    if failures:
        raise _source_error(failures[0])
    return hasher.digest()


def _place_segments(recipe: Recipe, source: int, target: int, *, stopped: Callable[[], bool]) -> None:
    if recipe.is_plain_copy and recipe.source_bytes and _reflinked(source, target):
        return
    copy: CopyRange = copy_file_range
    for placed in recipe.placed():
        if isinstance(placed.segment, Copy):
            copy = _copy_segment(copy, source, placed.segment, target, placed.at, stopped=stopped)
        else:
            _write_at(target, placed.segment.data, placed.at)


def _reflinked(source: int, target: int) -> bool:
    """Share the blocks where both live on one file system that can; the digests are taken all the same."""
    if os.fstat(source).st_dev != os.fstat(target).st_dev:
        return False
    try:
        beneath.reflink(source, target)
    except OSError:
        return False
    return True


class CopyRange(Protocol):
    def __call__(self, source: int, target: int, count: int, source_at: int, target_at: int) -> int: ...


def _copy_segment(
    copy: CopyRange, source: int, segment: Copy, target: int, at: int, *, stopped: Callable[[], bool]
) -> CopyRange:
    """In steps, each handed to the disk at once: early write-back is the strongest lever there is."""
    done, started = 0, 0
    while done < segment.length and not stopped():
        try:
            count = copy(source, target, min(STEP_BYTES, segment.length - done), segment.offset + done, at + done)
        except OSError as error:
            if copy is copy_in_user_space or error.errno not in _NO_KERNEL_COPY:
                raise _target_error(error) from error
            copy = copy_in_user_space
            continue
        if count == 0:
            raise ChangedWhileReading("the source ended before its size")
        done += count
        if done - started >= STEP_BYTES:
            beneath.start_writeback(target, at + started, done - started)
            started = done
    return copy


def copy_file_range(source: int, target: int, count: int, source_at: int, target_at: int) -> int:
    return os.copy_file_range(source, target, count, source_at, target_at)


def copy_in_user_space(source: int, target: int, count: int, source_at: int, target_at: int) -> int:
    """For pairs of file systems between which the kernel does not copy."""
    data = os.pread(source, min(count, PIECE_BYTES), source_at)
    _write_at(target, data, target_at)
    return len(data)


def _write_at(target: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        try:
            count = os.pwrite(target, rest, at)
        except OSError as error:
            raise _target_error(error) from error
        rest, at = rest[count:], at + count


def _target_error(error: OSError) -> MoverError:
    return beneath.translated(error, "copying failed", tier="")


def _source_error(error: BaseException) -> BaseException:
    if isinstance(error, ShortRead):
        return ChangedWhileReading("the source ended before its size")
    if isinstance(error, OSError):
        return beneath.translated(error, "reading the source failed", tier="")
    return error


# --- to an object tier: a reader thread and a bounded queue ---------------------------------------------


class Pump:
    """An iterator over a recipe's output, filled ahead by a thread, at most `waiting` pieces in memory.

    The digest is complete once `finish` returned. Leaving the block stops the thread wherever it is.
    """

    def __init__(self, recipe: Recipe, source: ByteSource, hasher: Hasher, *, waiting: int) -> None:
        self._recipe, self._source, self._hasher = recipe, source, hasher
        self._pieces: queue.Queue[bytes | None] = queue.Queue(waiting)
        self._stop = threading.Event()
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="pump", daemon=True)

    def __enter__(self) -> Pump:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        if self._failure is not None:
            raise _source_error(self._failure)
        self._ended = True

    def finish(self) -> None:
        """Everything was taken: a writer that ended early would leave a digest of other bytes."""
        if not self._ended:
            raise TierError("the tier ended the upload before all bytes were taken")

    def _fill(self) -> None:
        try:
            for piece in _gathered(_owned_pieces(self._recipe, self._source)):
                self._hasher.update(piece)
                if not self._offer(piece):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the pieces are taken
            self._failure = error
        self._offer(None)

    def _offer(self, piece: bytes | None) -> bool:
        while not self._stop.is_set():
            try:
                self._pieces.put(piece, timeout=STOP_CHECK_S)
                return True
            except queue.Full:
                continue
        return False


def _owned_pieces(recipe: Recipe, source: ByteSource) -> Iterator[bytes]:
    """Fresh bytes, never a view of a reused buffer: an upload holds several parts at once."""
    descriptor = digests.descriptor_of(source)
    for segment in recipe.segments:
        if not isinstance(segment, Copy):
            yield segment.data
            continue
        at, end = segment.offset, segment.offset + segment.length
        while at < end:
            count = min(PIECE_BYTES, end - at)
            piece = source.read(at, count) if descriptor is None else os.pread(descriptor, count, at)
            if not piece:
                raise ShortRead("the source ended before its size")
            yield piece
            at += len(piece)


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Small pieces joined: a recipe of many short segments must not become as many hand-overs."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(held) if len(held) > 1 else piece
            held, size = [], 0
    if held:
        yield b"".join(held)
