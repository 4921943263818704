"""Blobs carried as they are, sealed and compressed, into new packs: of the same repository (what a prune keeps of a
wasteful pack), or of another (copies, repairs).

Each blob is opened and hashed on the way, so that rot does not travel; nothing is compressed anew, and sealed anew
only for another key. Bounds: RUNS_AHEAD reads of at most RUN_BYTES (plus one blob), one open pack of each type.

Crash story: packs are put first, the index file that names them after; a pack without its index file is a stray
that the next prune marks.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from msgspec import Struct

from mover.errors import EntryMissing, IntegrityError, RepositoryDamaged
from mover.repository import compression
from mover.repository.crypto import Buffer, MasterKey
from mover.repository.files import RepositoryFiles
from mover.repository.index import MAX_FILE_BLOBS, Location, encode_index
from mover.repository.needs import BlobKey
from mover.repository.packs import BlobType, PackBuilder, PackedBlob

WORKERS = max(2, min(os.cpu_count() or 2, 8))
RUNS_AHEAD = 2 * WORKERS
RUN_BYTES = 8 << 20
# Bytes between two wanted blobs that are cheaper to read along than to skip.
RUN_GAP_BYTES = 128 << 10
INDEX_EVERY_PACKS = 64

Wanted = tuple[BlobKey, Location]


class Shelf(Struct, frozen=True):
    """Where blobs lie and the key they are sealed with."""

    files: RepositoryFiles
    key: MasterKey


class PackWriter:
    """Sealed blobs into packs, packs into index files; `finish` or nothing was promised."""

    def __init__(self, target: Shelf) -> None:
        self._target = target
        self._builders: dict[BlobType, PackBuilder] = {"data": PackBuilder("data"), "tree": PackBuilder("tree")}
        self._put: list[tuple[str, tuple[PackedBlob, ...]]] = []
        self.blobs = self.packs = self.size_bytes = 0

    def add(self, blob: BlobKey, sealed: Buffer, *, plain_length: int) -> None:
        kind, blob_id = blob
        builder = self._builders[kind]
        builder.add(blob_id, sealed, plain_length=plain_length)
        self.blobs += 1
        if builder.full:
            self._send(kind)

    def finish(self) -> None:
        for kind in ("data", "tree"):
            if not self._builders[kind].empty:
                self._send(kind)
        self._write_index()

    def _send(self, kind: BlobType) -> None:
        pack = self._builders[kind].finish(self._target.key)
        self._builders[kind] = PackBuilder(kind)
        self._target.files.put("data", pack.pack_id, pack.parts, size_bytes=pack.size_bytes)
        self._put.append((pack.pack_id, pack.blobs))
        self.packs += 1
        self.size_bytes += pack.size_bytes
        if len(self._put) >= INDEX_EVERY_PACKS or sum(len(blobs) for _, blobs in self._put) >= MAX_FILE_BLOBS:
            self._write_index()

    def _write_index(self) -> None:
        if self._put:
            self._target.files.save_document("index", encode_index(self._put), key=self._target.key)
            self._put = []


def carry(source: Shelf, target: Shelf, wanted: Iterable[Wanted]) -> tuple[PackWriter, list[BlobKey]]:
    """What was written: durable and named by index files of the target when this returns. And the blobs that could
    not be read where they were said to be: those were not carried."""
    writer = PackWriter(target)
    damaged: list[BlobKey] = []
    for blob, sealed, plain_length in _resealed(source, target, wanted):
        if sealed is None:
            damaged.append(blob)
        else:
            writer.add(blob, sealed, plain_length=plain_length)
    writer.finish()
    return writer, damaged


def open_payload(key: MasterKey, sealed: Buffer, blob_id: bytes, *, plain_length: int) -> bytes:
    """The blob as it is stored, compressed or not, once its content was found to hash to its id."""
    payload = key.open(sealed)
    plain = compression.unsqueeze(payload, plain_length=plain_length) if plain_length else payload
    if hashlib.sha256(plain).digest() != blob_id:
        raise RepositoryDamaged(f"blob {blob_id.hex()} does not hash to its id")
    return payload


_Resealed = tuple[BlobKey, Buffer | None, int]


def _resealed(source: Shelf, target: Shelf, wanted: Iterable[Wanted]) -> Iterator[_Resealed]:
    in_flight: deque[Future[list[_Resealed]]] = deque()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="carry") as pool:
        for run in _runs(sorted(wanted, key=lambda each: (each[1].pack_id, each[1].offset))):
            in_flight.append(pool.submit(_read_run, source, target, run))
            if len(in_flight) >= RUNS_AHEAD:
                yield from in_flight.popleft().result()
        while in_flight:
            yield from in_flight.popleft().result()


def _read_run(source: Shelf, target: Shelf, run: list[Wanted]) -> list[_Resealed]:
    first, last = run[0][1], run[-1][1]
    try:
        stretch = source.files.read_range(first.pack_id, first.offset, last.offset + last.length - first.offset)
    except (EntryMissing, IntegrityError):
        if len(run) == 1:
            return [(run[0][0], None, 0)]
        return [resealed for each in run for resealed in _read_run(source, target, [each])]  # a pack cut short
    view = memoryview(stretch)
    return [_reseal(source, target, each, view[each[1].offset - first.offset :][: each[1].length]) for each in run]


def _reseal(source: Shelf, target: Shelf, wanted: Wanted, sealed: memoryview) -> _Resealed:
    blob, place = wanted
    try:
        payload = open_payload(source.key, sealed, blob[1], plain_length=place.plain_length)
    except RepositoryDamaged:
        return blob, None, 0
    return blob, bytes(sealed) if source.key == target.key else target.key.seal(payload), place.plain_length


def _runs(wanted: list[Wanted]) -> Iterator[list[Wanted]]:
    run: list[Wanted] = []
    for each in wanted:
        if run and not _joins(run, each[1]):
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def _joins(run: list[Wanted], place: Location) -> bool:
    first, last = run[0][1], run[-1][1]
    gap = place.offset - (last.offset + last.length)
    return (
        place.pack_id == first.pack_id
        and 0 <= gap <= RUN_GAP_BYTES
        and place.offset + place.length - first.offset <= RUN_BYTES
    )
