"""Parts of a large move, and the journal that lets a killed one go on.

A part is a multiple of 16 MiB of the output. Once its bytes are durable at the target (and, on posix tiers, read
back), its segment digests are put into the journal. After a crash the journal is only a claim: on posix tiers the
parts' bytes are read cold from the target and must equal it; on object tiers, where parts of an unfinished upload
cannot be read, the store's own list of etags and the source's bytes must equal it, and the finished object is
read back whole. What does not equal is written again.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.errors import DigestMismatch, ShortRead
from mover.model.recipe import SEGMENT_BYTES, Recipe
from mover.model.tiers import Fingerprint
from mover.tiers.staging import MultipartAttempt
from mover.transfer.digest import Hasher
from mover.transfer.lanes import Lanes, Turn, Work
from mover.transfer.large import Digesting, Filler, Follower, Piece, dense_pieces, fill_and_digest
from mover.transfer.pace import Pace
from mover.transfer.verifier import recipe_digest

PART_BYTES = 256 << 20
PARTS_FROM_BYTES = 1 << 30
UPLOAD_LANES = 6
UPLOAD_BYTES = 96 << 20  # of one upload's parts in memory
UPLOADS_BYTES = 160 << 20  # of all uploads of a process; beyond it each still has one part


class Part(Struct, frozen=True):
    """`number` counts from 1. `segments` are the BLAKE3 of each 16 MiB of what was written."""

    number: int
    offset: int
    length: int
    segments: tuple[str, ...]
    etag: str = ""


class PartJournal(Protocol):
    """Kept in the catalog by its owner. An attempt's id names one move of one source to one key."""

    def where(self, attempt_id: str) -> str:
        """The text given to `begin`, or "" when the attempt is new or was ended."""

    def parts(self, attempt_id: str) -> list[Part]:
        """The finished parts, by number; [] when new."""

    def begin(self, attempt_id: str, *, where: str) -> None:
        """Start, or start anew: earlier parts are forgotten. `where` (below 1,000 characters, no identifier in
        it) is the engine's: how to find what was written, and the source and recipe it was written from."""

    def finished(self, attempt_id: str, part: Part) -> None:
        """Durable before it returns. A number that is there already is replaced."""

    def end(self, attempt_id: str) -> None:
        """Forget the attempt: it was published or given up."""


class Place(Struct, frozen=True, array_like=True):
    """What `where` says: the name of what was written, and what it was written from."""

    name: str
    source: Fingerprint
    recipe: str


class Record:
    """The journal of one attempt, as the engine uses it. Without a journal it remembers nothing."""

    def __init__(self, journal: PartJournal, attempt_id: str, *, source: Fingerprint, recipe: Recipe) -> None:
        self._journal, self._id = journal, attempt_id
        self._source, self._recipe = source, recipe_digest(recipe)
        self.parts: list[Part] = []

    def left(self) -> tuple[str, bool]:
        """The name of what an earlier try left, or "", and whether it was made from this source and recipe."""
        text = self._journal.where(self._id)
        if not text:
            return "", False
        place = msgspec.json.decode(text, type=Place)
        return place.name, (place.source, place.recipe) == (self._source, self._recipe)

    def resume(self) -> None:
        self.parts = sorted(self._journal.parts(self._id), key=lambda part: part.number)

    def begin(self, name: str) -> None:
        self.parts = []
        self._journal.begin(self._id, where=msgspec.json.encode(Place(name, self._source, self._recipe)).decode())

    def finished(self, part: Part) -> None:
        self._journal.finished(self._id, part)

    def end(self) -> None:
        self._journal.end(self._id)


def believed(parts: list[Part], descriptor: int, *, pace: Pace) -> tuple[Hasher, int]:
    """The digest of what stands at the target up to the first part that is missing or not as the journal says,
    read from the device; and how many bytes that is."""
    hasher, at = Hasher(), 0
    for part in parts:
        if part.offset != at:
            break
        trial = hasher.copy()
        try:
            with Follower(descriptor, at + part.length, trial, pace=pace, start=at) as follower:
                follower.landed(at, part.length)
                follower.finish()
        except ShortRead:
            break
        if trial.segments(at // SEGMENT_BYTES, -(-(at + part.length) // SEGMENT_BYTES)) != part.segments:
            break
        hasher, at = trial, at + part.length
    return hasher, at


class Checkpoints:
    """Journals each part of a file once it was read back equal and is durable."""

    def __init__(
        self, record: Record, descriptor: int, size: int, *, part_bytes: int, written: Hasher, found: Hasher | None
    ) -> None:
        self._record, self._descriptor, self._size, self._part_bytes = record, descriptor, size, part_bytes
        self._written, self._found = written, found

    def reached(self, at: int) -> None:
        """Called in order. The source was digested before its bytes were written, so its segments are there."""
        if at % self._part_bytes and at != self._size:
            return
        offset = (at - 1) // self._part_bytes * self._part_bytes
        first, last = offset // SEGMENT_BYTES, -(-at // SEGMENT_BYTES)
        segments = self._written.segments(first, last)
        if self._found is not None and self._found.segments(first, last) != segments:
            raise DigestMismatch("the bytes read back are not the bytes of the source")
        os.fdatasync(self._descriptor)
        self._record.finished(Part(offset // self._part_bytes + 1, offset, at - offset, segments))


# --- an upload in parts -----------------------------------------------------------------------------------


class Room:
    """Memory for parts, shared by all uploads of a process: lanes are given out while there is room, and one to
    every upload, so that none waits for another's end."""

    def __init__(self, bytes_: int = UPLOADS_BYTES) -> None:
        self._free = bytes_
        self._lock = threading.Lock()

    @contextmanager
    def lanes(self, part_bytes: int) -> Iterator[int]:
        with self._lock:
            wanted = min(UPLOAD_LANES, UPLOAD_BYTES // part_bytes, self._free // part_bytes)
            count = max(1, wanted)
            self._free -= count * part_bytes
        try:
            yield count
        finally:
            with self._lock:
                self._free += count * part_bytes


class Upload:
    """Sends a recipe's output to a multipart attempt from several threads, each part once."""

    def __init__(
        self,
        attempt: MultipartAttempt,
        filler: Filler,
        size: int,
        *,
        pace: Pace,
        room: Room,
        record: Record | None,
        segments: bool = False,
    ) -> None:
        self._attempt, self._filler, self._size, self._pace, self._room = attempt, filler, size, pace, room
        self._record, self._wants_segments = record, segments or record is not None
        self._part_bytes = attempt.part_bytes
        self._sent: dict[int, str] = {}
        self._segments: dict[int, tuple[str, ...]] = {}
        self._known: dict[int, Part] = {}
        self.resumed_bytes = 0

    def open(self, resume: str) -> None:
        """Begin, or go on where the journal and the store agree."""
        name = self._attempt.begin()
        if self._record is None:
            return
        if name != resume:
            self._record.begin(name)
            return
        held = self._attempt.parts()
        self._known = {
            part.number: part
            for part in self._record.parts
            if part.offset == (part.number - 1) * self._part_bytes
            and held.get(part.number) == (part.etag, part.length)
        }

    def send(self, digesting: Digesting) -> None:
        """All parts that the store does not hold; then they are made one object. Their source is read again in
        any case: its bytes are what the digest is of, and what a part found again is held against."""
        pieces = dense_pieces(self._size, step=self._part_bytes)
        turns = 2 if digesting.source else 1
        with self._room.lanes(self._part_bytes) as count:
            Lanes(pieces, lambda: self._lane(digesting), count=count, name="part", turns=turns).run()
        self._attempt.complete(sorted(self._sent.items()))

    def segments(self) -> tuple[str, ...]:
        return tuple(segment for _, part in sorted(self._segments.items()) for segment in part)

    def _lane(self, digesting: Digesting) -> Work[Piece]:
        buffer = memoryview(mmap.mmap(-1, min(self._part_bytes, max(1, self._size))))

        def work(piece: Piece, turns: list[Turn]) -> None:
            view = buffer[: piece.length]
            fill_and_digest(self._filler, piece.at, view, digesting, turns)
            self._put(piece.at // self._part_bytes + 1, piece.at, view)

        return work

    def _put(self, number: int, at: int, view: memoryview) -> None:
        segments: tuple[str, ...] = ()
        if self._wants_segments:
            starts = range(0, len(view), SEGMENT_BYTES)
            segments = tuple(blake3(view[start : start + SEGMENT_BYTES]).hexdigest() for start in starts)
            self._segments[number] = segments
        known = self._known.get(number)
        if known is not None and known.segments == segments:
            self._sent[number] = known.etag
            self.resumed_bytes += known.length  # one lane at a time is enough of a truth for a report
            return
        with self._pace.step(self._pace.target, "write", len(view)):
            etag = self._attempt.put_part(number, view)
        self._sent[number] = etag
        if self._record is not None:
            self._record.finished(Part(number, at, len(view), segments, etag))
