"""Run recipes: move bytes, digest them on the way, make them durable, read them back cold, publish.

The order is decided by `mover.decide.move`; this module carries it out between real tiers. Files are written by
`large` (kernel, lanes or shared blocks; read back while they are written), objects in parts by `parts` or, where
an attempt takes no parts, by a reader thread that feeds a bounded queue which the upload empties. The digest is
always of the source's bytes: digesting what was written would believe its own mistakes.

Everything here blocks and belongs in a worker thread. A crash at any point leaves a temporary name (posix) or
an object without a sidecar (object), never anything under a final name that was not read back.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import cast

from msgspec import Struct

from mover import metrics
from mover.clock import monotonic_s
from mover.decide import move as protocol
from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    EntryMissing,
    IntegrityError,
    MoverError,
    RequestInvalid,
    ShortRead,
    Stopping,
    TierError,
    TierUnavailable,
)
from mover.model.proving import Prover
from mover.model.recipe import Copy, Recipe
from mover.model.source import ByteSource
from mover.model.tiers import Digest, Fingerprint
from mover.tiers import beneath
from mover.tiers.guard import guarded
from mover.tiers.port import ReadTier, WriteTier
from mover.tiers.staging import Attempt, MultipartAttempt, OpenEntry
from mover.transfer import digest as digests
from mover.transfer import large, parts
from mover.transfer.budgets import UNLIMITED, Budgets
from mover.transfer.digest import Chunk, Hasher
from mover.transfer.lanes import LanesStopped
from mover.transfer.large import Digesting, Filler, Follower, Landing
from mover.transfer.pace import Pace, Paid, never
from mover.transfer.parts import Checkpoints, PartJournal, Record, Upload
from mover.transfer.verifier import Clearance, refuse_crossing

PIECE_BYTES = 8 << 20
PIECES_WAITING = 4
STOP_CHECK_S = 0.2


class Moved(Struct, frozen=True):
    """A finished move: `digest` is of the source's bytes and, when `verified`, of what the tier gave back cold.

    `source_digest` is of the whole source, when it was asked for. `shared`: the blocks are the source's own;
    with `trusted_since` their digest was verified then, under the fingerprint the source still has, and nothing
    was read now (so `verified` is False). `resumed_bytes` were found from an earlier attempt, and believed.
    """

    digest: Digest
    seconds: float
    verified: bool = True
    source_digest: Digest | None = None
    shared: bool = False
    trusted_since: str = ""
    resumed_bytes: int = 0


class Asked(Struct, frozen=True):
    """What a caller wants of one move beside its two ends."""

    expected: str = ""
    readback: bool = True
    segments: bool = False
    source_digest: bool = False
    trusted_since: str = ""
    sparse: bool = True
    proving: Prover | None = None


class Transfer:
    """Runs recipes. Holds nothing but its bounds, so one serves all threads."""

    def __init__(
        self,
        *,
        pieces_waiting: int = PIECES_WAITING,
        lanes: int = large.LANES,
        parts_from_bytes: int = parts.PARTS_FROM_BYTES,
        part_bytes: int = parts.PART_BYTES,
        budgets: Budgets = UNLIMITED,
    ) -> None:
        """`budgets` hold for every recipe whose caller names none."""
        self._pieces_waiting, self._lanes, self._budgets = pieces_waiting, lanes, budgets
        self._parts_from_bytes, self._part_bytes = parts_from_bytes, part_bytes
        self._room = parts.Room()

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
        readback: bool = True,
        segments: bool = False,
        source_digest: bool = False,
        journal: PartJournal | None = None,
        attempt_id: str = "",
        budgets: Budgets | None = None,
        trusted_since: str = "",
        seen: Fingerprint | None = None,
        sparse: bool = True,
        stopped: Callable[[], bool] = never,
        proving: Prover | None = None,
        files: int = 1,
    ) -> Moved:
        """Make the recipe's output at `key` of `target`, durable and read back; or raise and leave nothing.

        From an identified to a deidentified tier a `clearance` over this recipe and this open source is
        demanded (ZoneCrossing). `expected` is a BLAKE3 known beforehand: other bytes raise DigestMismatch.
        `seen` is the fingerprint the source is expected to have still (ChangedWhileReading). With
        `trusted_since`, `expected` was verified then under `seen`, and shared blocks inherit it.
        On object tiers `key` must be one no other attempt uses, and the caller puts the sidecar next. `proving` sees
        what a file tier gave back cold (DigestMismatch while a range of it is wrong). The source reads `files`.

        With a `journal`, a large move that was killed, was `stopped` (Stopping) or lost its tier goes on when it
        is run again with the same `attempt_id`; only one process may run an attempt at a time. The caller then
        owes either that second run or a sweep.
        """
        before = source.fingerprint()
        if {source_tier.zone, source.zone} != {"deidentified"} and target.zone == "deidentified":
            refuse_crossing(recipe, clearance, fingerprint=before, where=target.name)
        if recipe.source_bytes != before.size_bytes or source.size_bytes != before.size_bytes:
            raise ChangedWhileReading("the source is not of the size the recipe was made for", where=source_tier.name)
        if seen is not None and seen != before:
            raise ChangedWhileReading("the source is not what was seen when it was planned", where=source_tier.name)
        if trusted_since and not (expected and seen):
            raise RequestInvalid("a digest is trusted under the fingerprint it was verified with, and needs both")
        asked = Asked(expected, readback, segments, source_digest, trusted_since, sparse, proving)

        def move(given_up: Callable[[], bool]) -> Moved:
            pace = Pace(
                source_tier.name, target.name, budgets=budgets or self._budgets,
                stopped=lambda: stopped() or given_up(),
            )  # fmt: skip
            pace.entry(files)
            record = None
            if journal is not None and attempt_id and recipe.size_bytes >= self._parts_from_bytes:
                record = Record(journal, attempt_id, source=before, recipe=recipe)
            return self._carry_out(recipe, source, before, target, key, asked, pace, record)

        # on descriptors, beside the lanes of a tier that may hang: let go, and stopped, as a whole
        return guarded(move, source_tier, target)

    def _carry_out(
        self,
        recipe: Recipe,
        source: OpenEntry,
        before: Fingerprint,
        target: WriteTier,
        key: str,
        asked: Asked,
        pace: Pace,
        record: Record | None,
    ) -> Moved:
        began_s = monotonic_s()
        try:
            attempt, resume = _begin(target, key, recipe.size_bytes, record)
            running = _Running(self, recipe, source, before, attempt, asked, pace, record, resume)
            running.to_publication()
        except MoverError as error:
            error.where = error.where or target.name
            raise
        moved = running.moved(monotonic_s() - began_s)
        if not moved.trusted_since:
            metrics.BYTES_READ.labels(pace.source).inc(recipe.copied_bytes)
            metrics.BYTES_WRITTEN.labels(pace.target).inc(recipe.size_bytes)
        if moved.verified:
            metrics.BYTES_VERIFIED.labels(pace.target).inc(recipe.size_bytes)
        return moved

    def digest(self, source: ByteSource, *, segments: bool = False, tier: str = "") -> Digest:
        """Of a whole open source, read once; under the budget of `tier`, where one is named."""
        hasher = Hasher(segments=segments)
        with Paid(hasher.update, tier, self._budgets) as take:
            for chunk in digests.pieces(source, 0, source.size_bytes):
                take(chunk)
        return hasher.digest()

    def digest_recipe(self, recipe: Recipe, source: ByteSource, *, tier: str = "") -> Digest:
        """Of what the recipe would write; under the budget of `tier`, where one is named."""
        hasher = Hasher(segments=False)
        with Paid(hasher.update, tier, self._budgets) as take:
            digests.feed(recipe, source, take)
        return hasher.digest()

    def digest_stream(self, chunks: Iterable[Chunk]) -> Digest:
        return digests.digest_stream(chunks)


def _begin(target: WriteTier, key: str, size: int, record: Record | None) -> tuple[Attempt, str]:
    """A new attempt, or an earlier one found again; and the name of the earlier one, or ""."""
    begin = getattr(target, "attempt", None)  # isinstance would ask every trait, which may cost a probe
    if begin is None:
        raise RequestInvalid("the engine writes to tiers that can stage an attempt", where=target.name)
    name, same = record.left() if record is not None else ("", False)
    if record is not None and name:
        try:
            attempt = begin(key, size_bytes=size, resume=name)
        except EntryMissing:
            pass  # swept, or the upload ended by the bucket's rule
        except EntryExists:
            record.end()
            raise
        else:
            if not _claimed(attempt):
                _close(attempt)  # swept when it is old
            elif same:
                record.resume()
                return attempt, name
            else:
                attempt.abandon()  # made from another source or by another recipe
    attempt = begin(key, size_bytes=size)
    if record is not None:
        _claimed(attempt)
    return attempt, ""


def _claimed(attempt: Attempt) -> bool:
    """Whether nobody else has this temporary file open to go on with it. A worker that lost its lease and only sleeps
    would write into what was read back and published meanwhile; the lock goes with the last of its descriptors. Where
    a file system knows no locks there is none to find."""
    fileno = getattr(attempt, "fileno", None)
    if fileno is None:
        return True
    try:
        fcntl.flock(fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _close(attempt: Attempt) -> None:
    """Keep what was written, for the next run or for whoever still writes it."""
    leave = getattr(attempt, "leave", None)
    if leave is not None:
        leave()


class _Running:
    """One recipe on its way. The protocol says what comes next; each instruction has a method here."""

    def __init__(
        self,
        transfer: Transfer,
        recipe: Recipe,
        source: OpenEntry,
        before: Fingerprint,
        attempt: Attempt,
        asked: Asked,
        pace: Pace,
        record: Record | None,
        resume: str,
    ) -> None:
        self._transfer, self._recipe, self._source, self._before = transfer, recipe, source, before
        self._attempt, self._asked, self._pace, self._record, self._resume = attempt, asked, pace, record, resume
        self._written = Digest("", 0)
        self._source_digest: Digest | None = None
        self._found: Digest | None = None  # read back already, while it was written
        self._verified = self._shared = self._trusted = False
        self._resumed = 0

    def to_publication(self) -> None:
        """From a committed intent (the caller's shard row) to the final name; recording is the caller's."""
        try:
            with self._pace.memory(self._buffer_bytes()):
                self._run_protocol()
        except BaseException as error:
            if self._record is not None and _goes_on(error):
                self._leave()
            else:
                abandon(self._attempt, error)
                self._forget()
            raise
        self._forget()

    def _buffer_bytes(self) -> int:
        """How much of this move stands in memory at once, at most: whole parts, or pieces."""
        if hasattr(self._attempt, "put_part"):
            most = max(parts.UPLOAD_BYTES, self._transfer._part_bytes)
        else:
            most = (self._transfer._pieces_waiting + 1) * PIECE_BYTES
        return min(self._recipe.size_bytes, most)

    def moved(self, seconds: float) -> Moved:
        return Moved(
            self._written,
            seconds,
            verified=self._verified,
            source_digest=self._source_digest,
            shared=self._shared,
            trusted_since=self._asked.trusted_since if self._trusted else "",
            resumed_bytes=self._resumed,
        )

    def _run_protocol(self) -> None:
        carry_out: dict[str, Callable[[], protocol.Event]] = {
            "write": self._write,
            "sync": self._sync,
            "reread": self._reread,
            "publish": self._publish,
        }
        move = protocol.Move(epoch=0, expected=self._asked.expected)
        move, instruction = protocol.step(move, protocol.Intended())
        while instruction in carry_out:
            move, instruction = protocol.step(move, carry_out[instruction]())
        if move.state != "published":
            raise self._failure(move.reason)

    def _leave(self) -> None:
        _close(self._attempt)

    def _forget(self) -> None:
        if self._record is not None:
            self._record.end()

    # --- writing ----------------------------------------------------------------------------------------

    def _write(self) -> protocol.Event:
        fileno = getattr(self._attempt, "fileno", None)
        if fileno is not None:
            self._written = self._write_file(fileno())
        elif hasattr(self._attempt, "put_part"):
            self._written = self._write_parts(cast(MultipartAttempt, self._attempt))
        else:
            self._written = self._write_stream()
        return protocol.Written(self._written.blake3, source_unchanged=self._source.fingerprint() == self._before)

    def _write_file(self, target: int) -> Digest:
        asked, recipe = self._asked, self._recipe
        source = digests.descriptor_of(self._source)
        whole = recipe.is_plain_copy and recipe.size_bytes > 0 and not self._resume
        if source is not None and whole and large.reflinked(source, target):
            return self._share(source)
        start, result = 0, Hasher(segments=asked.segments or self._record is not None)
        found = Hasher(segments=self._record is not None, prover=asked.proving) if asked.readback else None
        if self._record is not None:
            if self._resume:
                result, start = parts.believed(self._record.parts, target, pace=self._pace)
                found = result.copy() if found is not None else None
                self._resumed = start
            else:
                self._record.begin(getattr(self._attempt, "temporary", ""))
        filler = Filler(recipe, self._source, pace=self._pace)
        with ExitStack() as stack:
            digesting, apart = self._digesting(filler, result, stack, begun=start > 0)
            _FileWriter(self._transfer._lanes, recipe, filler, source, target, self._pace).write(
                digesting,
                start=start,
                found=found,
                checkpoints=self._checkpoints(target, result, found),
                sparse=asked.sparse,
                by_kernel=self._by_kernel(source, target),
            )
            self._source_digest = apart()
        if found is not None:
            self._found = found.digest()
        return result.digest()

    def _digesting(
        self, filler: Filler, result: Hasher, stack: ExitStack, *, begun: bool = False
    ) -> tuple[Digesting, Callable[[], Digest | None]]:
        """Hashers for one pass, and where the source's digest comes from: the same bytes where the recipe takes
        them in their order, a second reader of the same pages where it does not."""
        if not self._asked.source_digest:
            return Digesting(result), lambda: None
        if self._recipe.is_plain_copy:
            return Digesting(result), lambda: result.digest()
        if filler.in_order and not begun:
            of_source = Hasher(segments=self._asked.segments)

            def rest() -> Digest:
                filler.digest_rest(of_source)
                return of_source.digest()

            return Digesting(result, of_source), rest
        apart = _Apart(self._source, segments=self._asked.segments)
        stack.enter_context(apart)
        return Digesting(result), apart.digest

    def _checkpoints(self, target: int, result: Hasher, found: Hasher | None) -> Checkpoints | None:
        if self._record is None:
            return None
        return Checkpoints(
            self._record,
            target,
            self._recipe.size_bytes,
            part_bytes=self._transfer._part_bytes,
            written=result,
            found=found,
        )

    def _by_kernel(self, source: int | None, target: int) -> bool:
        """Where the kernel's copy is the faster one: from a cold source to a cache that holds it all, or a matter of
        the file system itself (shared blocks, a copy within one file server)."""
        if source is None or self._record is not None or (self._asked.sparse and large.is_sparse(source)):
            return False
        if large.copies_within(self._recipe, source, target):
            return True
        size = self._recipe.size_bytes
        return not self._asked.readback and size <= large.KERNEL_BYTES and not large.is_cached(source, size)

    def _share(self, source: int) -> Digest:
        """The blocks are the source's. A digest that is trusted is inherited; else they are read once, from the
        device when that is wanted, and what was read is what both names hold."""
        self._shared = True
        if self._asked.trusted_since:
            self._trusted = True
            return Digest(self._asked.expected, self._recipe.size_bytes)
        hasher = Hasher(segments=self._asked.segments)
        size = self._recipe.size_bytes
        if self._asked.readback:
            with Follower(source, size, hasher, pace=self._pace) as follower:
                follower.landed(0, size)
                follower.finish()
            self._found = hasher.digest()
        else:
            filler = Filler(self._recipe, self._source, pace=self._pace)
            large.digest_along(filler, size, Digesting(hasher), stopped=never)
        if self._asked.source_digest:
            self._source_digest = hasher.digest()
        return hasher.digest()

    def _write_parts(self, attempt: MultipartAttempt) -> Digest:
        asked, recipe = self._asked, self._recipe
        filler = Filler(recipe, self._source, pace=self._pace)
        result = Hasher(segments=False)
        upload = Upload(
            attempt,
            filler,
            recipe.size_bytes,
            pace=self._pace,
            room=self._transfer._room,
            record=self._record,
            segments=asked.segments,
        )
        with ExitStack() as stack, _source_errors():
            upload.open(self._resume)
            digesting, apart = self._digesting(filler, result, stack)
            upload.send(digesting)
            self._source_digest = apart()
        self._resumed = upload.resumed_bytes
        return Digest(result.digest().blake3, recipe.size_bytes, upload.segments() if asked.segments else ())

    def _write_stream(self) -> Digest:
        hasher = Hasher(segments=self._asked.segments)
        with ExitStack() as stack:
            _, apart = self._digesting(Filler(self._recipe, self._source, pace=self._pace), hasher, stack, begun=True)
            waiting = self._transfer._pieces_waiting
            with Pump(self._recipe, self._source, hasher, waiting=waiting, pace=self._pace) as pump:
                self._attempt.write(pump)
                pump.finish()
            self._source_digest = apart()
        return hasher.digest()

    # --- and then ---------------------------------------------------------------------------------------

    def _sync(self) -> protocol.Event:
        self._attempt.seal()
        return protocol.Synced()

    def _reread(self) -> protocol.Event:
        """What was read back while it was written is believed only now, after the sync; what was not is read
        now. Without read-back, and where blocks are shared and trusted, the move says that it is not verified."""
        # an upload whose answer was lost may have found somebody else's object there: only its bytes can tell
        unproved = bool(getattr(self._attempt, "unproved", False))
        if self._trusted or not (self._asked.readback or unproved):
            return protocol.Reread(self._written.blake3)
        if self._found is None:
            self._found = digests.digest_stream(self._paced(self._attempt.stream_cold()), segments=False)
        if self._asked.proving is not None and self._asked.proving.wrong():
            raise DigestMismatch("files in what was read back are not those that were to be there")
        self._verified = True
        return protocol.Reread(self._found.blake3)

    def _paced(self, blocks: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        coming = iter(blocks)
        while True:
            with self._pace.step(self._pace.target, "read", PIECE_BYTES):
                block = next(coming, None)
            if block is None:
                return
            yield block

    def _publish(self) -> protocol.Event:
        self._attempt.publish()
        return protocol.Published()

    def _failure(self, reason: str) -> MoverError:
        where = self._pace.target
        if reason == "changed-while-reading":
            return ChangedWhileReading("the source changed while it was read", where=where)
        return DigestMismatch("the bytes read back are not the bytes of the source", where=where)


def abandon(attempt: Attempt, error: BaseException) -> None:
    """After a failure. What stands whole under a final name already, as an object does once it was put, is removed
    only when its bytes are wrong: a worker that lost its lease is stopped here too, and the one that has the lease
    now may have taken the object for what it wanted (`present`)."""
    stand = getattr(attempt, "stand", None)
    if stand is not None and not isinstance(error, IntegrityError):
        stand()
    attempt.abandon()


def _goes_on(error: BaseException) -> bool:
    """Whether what was written may be found again: the world was in the way, not the bytes."""
    return isinstance(error, Stopping | TierUnavailable | KeyboardInterrupt | SystemExit)


# --- a file -----------------------------------------------------------------------------------------------


class _FileWriter:
    """One file by one of the ways, with a follower behind it where it is read back or journalled."""

    def __init__(
        self, lanes: int, recipe: Recipe, filler: Filler, source: int | None, target: int, pace: Pace
    ) -> None:
        self._lanes, self._recipe, self._filler = lanes, recipe, filler
        self._source, self._target, self._pace = source, target, pace
        self._size = recipe.size_bytes
        self._stop: Callable[[BaseException], None] = lambda _: None

    def write(
        self,
        digesting: Digesting,
        *,
        start: int,
        found: Hasher | None,
        checkpoints: Checkpoints | None,
        sparse: bool,
        by_kernel: bool,
    ) -> None:
        follower = None
        if found is not None or checkpoints is not None:
            follower = Follower(
                self._target,
                self._size,
                found if found is not None else Hasher(segments=False),
                pace=self._pace,
                start=start,
                read=found is not None,
                reached=checkpoints.reached if checkpoints is not None else None,
                failed=lambda error: self._stop(error),
            )
        with _source_errors(), ExitStack() as stack:
            if follower is not None:
                stack.enter_context(follower)
            if by_kernel:
                self._by_kernel(digesting, follower)
            else:
                self._in_lanes(digesting, follower, start=start, sparse=sparse)
            if follower is not None:
                follower.finish()

    def _in_lanes(self, digesting: Digesting, follower: Follower | None, *, start: int, sparse: bool) -> None:
        step = large.PIECE_BYTES if self._source is not None else large.OBJECT_PIECE_BYTES
        holes = sparse and self._source is not None and self._recipe.is_plain_copy and large.is_sparse(self._source)
        if holes:
            assert self._source is not None
            pieces = large.sparse_pieces(self._source, self._size, start=start, step=step)
        else:
            pieces = large.dense_pieces(self._size, start=start, step=step)
        landing = Landing(self._target, self._size, sparse=holes)

        def made(lanes: large.Lanes[large.Piece]) -> None:
            self._stop = lanes.stop

        try:
            large.write_in_lanes(
                self._filler,
                landing,
                pieces,
                digesting,
                step=step,
                pace=self._pace,
                count=max(1, min(self._lanes, -(-(self._size - start) // step))),
                follower=follower,
                lanes_made=made,
            )
        except LanesStopped:
            assert follower is not None
            follower.finish()
            raise
        finally:
            landing.close()

    def _by_kernel(self, digesting: Digesting, follower: Follower | None) -> None:
        """Copy and digest at once. Whichever fails first stops the others; the copy's error comes first."""
        assert self._source is not None
        stop = threading.Event()
        failures: list[BaseException] = []

        def end(error: BaseException) -> None:
            failures.append(error)
            stop.set()

        def digest() -> None:
            try:
                large.digest_along(self._filler, self._size, digesting, stopped=stop.is_set)
            except BaseException as error:  # noqa: BLE001 - raised again by the owner of this thread
                end(error)

        self._stop = end
        digesting_thread = threading.Thread(target=digest, name="digest", daemon=True)
        digesting_thread.start()
        try:
            landed = follower.landed if follower is not None else None
            large.place_segments(
                self._recipe, self._source, self._target, pace=self._pace, stopped=stop.is_set, landed=landed
            )
        except BaseException:
            stop.set()
            raise
        finally:
            digesting_thread.join()
        if failures:
            raise failures[0]


class _Apart:
    """The source's own digest by a second reader, for recipes that move bytes about."""

    def __init__(self, source: ByteSource, *, segments: bool) -> None:
        self._source, self._hasher = source, Hasher(segments=segments)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="digest-source", daemon=True)

    def __enter__(self) -> _Apart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def digest(self) -> Digest:
        self._thread.join()
        if self._failure is not None:
            raise _source_error(self._failure)
        return self._hasher.digest()

    def _run(self) -> None:
        try:
            for chunk in digests.pieces(self._source, 0, self._source.size_bytes):
                self._hasher.update(chunk)
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by `digest`
            self._failure = error


class _source_errors:
    """Errors of reading the source in our words, whichever thread they came from."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            translated = _source_error(error)
            if translated is not error:
                raise translated from error


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

    def __init__(self, recipe: Recipe, source: ByteSource, hasher: Hasher, *, waiting: int, pace: Pace) -> None:
        self._recipe, self._source, self._hasher, self._pace = recipe, source, hasher, pace
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
            with self._pace.step(self._pace.target, "write", len(piece)):
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
            for piece in _gathered(_owned_pieces(self._recipe, self._source, self._pace)):
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


def _owned_pieces(recipe: Recipe, source: ByteSource, pace: Pace) -> Iterator[bytes]:
    """Fresh bytes, never a view of a reused buffer: an upload holds several parts at once."""
    descriptor = digests.descriptor_of(source)
    for segment in recipe.segments:
        if not isinstance(segment, Copy):
            yield segment.data
            continue
        at, end = segment.offset, segment.offset + segment.length
        while at < end:
            count = min(PIECE_BYTES, end - at)
            with pace.step(pace.source, "read", count):
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
