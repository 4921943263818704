"""The writing pipeline of blobs: hash, compress, seal, collect into packs, put, index.

Callers are many threads; the heavy calls let go of the interpreter lock. Bounds: one open pack per thread
that stores at the same moment, PACKS_IN_FLIGHT finished ones on their way.

Crash story: a pack that was put but not yet named by an index file is an orphan that stock `restic prune`
collects. Index files are written every INDEX_EVERY_PACKS packs and INDEX_EVERY_S seconds, so a repeated snapshot finds
what the killed one had finished and puts it no second time; what was not named yet, `resuming` finds. Blobs count as
known to *other* snapshots only once their index file is durable: a snapshot can never lean on a pack of another one
that failed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from mover.clock import monotonic_s
from mover.repository import compression
from mover.repository.crypto import Buffer, MasterKey, Sealer
from mover.repository.files import RepositoryFiles
from mover.repository.index import Index, encode_index
from mover.repository.packs import PACK_MEMORY_BYTES, BlobType, Pack, PackBuilder, PackedBlob

# id, offset, sealed length, plain length or 0
SealedBlob = tuple[bytes, int, int, int]

UPLOADERS = 4
PACKS_IN_FLIGHT = UPLOADERS
INDEX_EVERY_PACKS = 64
INDEX_EVERY_S = 60.0
# What waits for its index file is in memory twice, and a third time while the file is written.
INDEX_EVERY_BLOBS = 25_000


class BlobWriter:
    """Use as a context manager; `flush` before the snapshot is put, or nothing was promised. `before_put` may raise,
    from any thread, and nothing is put."""

    def __init__(
        self, files: RepositoryFiles, *, key: MasterKey, index: Index, before_put: Callable[[], None] = lambda: None
    ) -> None:
        self._files, self._key, self._index, self._before_put = files, key, index, before_put
        self._guard = threading.Lock()
        self._claimed: dict[BlobType, set[bytes]] = {"data": set(), "tree": set()}
        self._builders: dict[BlobType, dict[int, PackBuilder]] = {"data": {}, "tree": {}}  # by who used it last
        self._memories: list[memoryview] = []  # of packs that were put, for the next ones
        self._of_thread = threading.local()
        self._uploaders = ThreadPoolExecutor(UPLOADERS, thread_name_prefix="pack-put")
        self._slots = threading.Semaphore(PACKS_IN_FLIGHT)
        self._uploads: list[Future[None]] = []
        self._put: list[tuple[str, tuple[PackedBlob, ...]]] = []
        self._put_blobs = 0
        self._indexed_at = monotonic_s()
        self._failure: BaseException | None = None
        self.added_bytes = 0

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._uploaders.shutdown(wait=True, cancel_futures=True)

    def store(self, kind: BlobType, plain: Buffer) -> bytes:
        """The blob's id. The blob may still be on its way; `flush` waits for it."""
        blob_id = hashlib.sha256(plain).digest()
        if self._index.knows(kind, blob_id) or not self._claim(kind, blob_id):
            return blob_id
        packed = compression.squeeze(plain)
        content, plain_length = (plain, 0) if packed is None else (packed, len(plain))
        builder = self._take_builder(kind)
        builder.seal(blob_id, content, plain_length=plain_length, sealer=self._sealer())
        self._put_back(builder)
        return blob_id

    def store_sealed(self, blobs: Sequence[SealedBlob], region: memoryview) -> None:
        """Data blobs that somebody else hashed and sealed under the same key, at their places in `region`."""
        with self._guard:
            claimed, index = self._claimed["data"], self._index
            fresh = []
            for blob in blobs:
                if blob[0] not in claimed and not index.knows("data", blob[0]):
                    claimed.add(blob[0])
                    fresh.append(blob)
        builder = self._take_builder("data")
        for run in _runs(fresh):
            start, end = run[0][1], run[-1][1] + run[-1][2]
            builder.add_run([(blob_id, length, plain) for blob_id, _, length, plain in run], region[start:end])
        self._put_back(builder)

    def adopt(self, packs: Iterable[tuple[str, tuple[PackedBlob, ...]]]) -> None:
        """Name packs that stand on the tier already: their blobs are known from here on."""
        for pack_id, blobs in packs:
            self._note_put(pack_id, blobs)
        self._write_index()

    def fail(self, failure: BaseException) -> None:
        """The snapshot is lost: whoever still reads for it stops at the next window."""
        self._failure = self._failure or failure

    def assert_healthy(self) -> None:
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Everything stored so far is durable and named by durable index files when this returns."""
        for kind in ("data", "tree"):
            self._finish_open_packs(kind)
        self._await_uploads()
        self._write_index()

    def _claim(self, kind: BlobType, blob_id: bytes) -> bool:
        with self._guard:
            if blob_id in self._claimed[kind]:
                return False
            self._claimed[kind].add(blob_id)
            return True

    def _sealer(self) -> Sealer:
        found: Sealer | None = getattr(self._of_thread, "sealer", None)
        if found is None:
            found = self._of_thread.sealer = Sealer(self._key)
        return found

    def _take_builder(self, kind: BlobType) -> PackBuilder:
        """The one that this thread used last, else anybody's: neighbours lie in one pack, and there are as many open
        packs as threads that really store at once, no more."""
        with self._guard:
            open_packs, own = self._builders[kind], threading.get_ident()
            if open_packs:
                return open_packs.pop(own) if own in open_packs else open_packs.popitem()[1]
            memory = self._memories.pop() if self._memories else None
        return PackBuilder(kind, memory)

    def _put_back(self, builder: PackBuilder) -> None:
        if builder.full:
            self._send(builder)
        else:
            with self._guard:
                self._builders[builder.kind][threading.get_ident()] = builder

    def _finish_open_packs(self, kind: BlobType) -> None:
        with self._guard:
            builders, self._builders[kind] = self._builders[kind], {}
        last: PackBuilder | None = None
        for builder in builders.values():
            if last is None or last.full:
                last, full = builder, last
                if full is not None:
                    self._send(full)
            else:
                last.absorb(builder)
        if last is not None:
            self._send(last)

    def _send(self, builder: PackBuilder) -> None:
        pack = builder.finish(self._key)
        self._slots.acquire()
        if self._failure is not None:
            self._slots.release()
            raise self._failure
        upload = self._uploaders.submit(self._upload, pack, builder.memory)
        with self._guard:
            self._uploads = [each for each in self._uploads if not each.done()] + [upload]

    def _upload(self, pack: Pack, memory: memoryview) -> None:
        try:
            self._before_put()
            self._files.put("data", pack.pack_id, pack.parts, size_bytes=pack.size_bytes)
            with self._guard:
                self.added_bytes += pack.size_bytes
            self._note_put(pack.pack_id, pack.blobs)
        except BaseException as failure:
            self.fail(failure)
            raise
        finally:
            self._give_back(memory)
            self._slots.release()

    def _give_back(self, memory: memoryview) -> None:
        with self._guard:
            if len(memory) == PACK_MEMORY_BYTES:
                self._memories.append(memory)

    def _note_put(self, pack_id: str, blobs: tuple[PackedBlob, ...]) -> None:
        with self._guard:
            self._put.append((pack_id, blobs))
            self._put_blobs += len(blobs)
            waited = monotonic_s() - self._indexed_at
            due = len(self._put) >= INDEX_EVERY_PACKS or waited > INDEX_EVERY_S
            due = due or self._put_blobs >= INDEX_EVERY_BLOBS
        if due:
            self._write_index()

    def _await_uploads(self) -> None:
        with self._guard:
            uploads = list(self._uploads)
        for upload in uploads:
            upload.result()
        self.assert_healthy()

    def _write_index(self) -> None:
        """Index file first, memory after: a blob is known only when an index file names it."""
        with self._guard:
            packs, self._put, self._put_blobs = self._put, [], 0
            self._indexed_at = monotonic_s()
        if not packs:
            return
        self._before_put()
        file_id = self._files.save_document("index", encode_index(packs), key=self._key)
        self._index.mark_loaded(file_id)
        for pack_id, blobs in packs:
            self._index.add(pack_id, blobs)
        with self._guard:
            for _, blobs in packs:
                for blob in blobs:
                    self._claimed[blob.type].discard(blob.blob_id)


def _runs(blobs: Sequence[SealedBlob]) -> Iterator[Sequence[SealedBlob]]:
    """Stretches without a gap between: mostly all of them."""
    first = 0
    for place in range(1, len(blobs) + 1):
        before = blobs[place - 1]
        if place == len(blobs) or blobs[place][1] != before[1] + before[2]:
            yield blobs[first:place]
            first = place
