"""Blobs that a repository has lost, or cannot give just now, from another one that holds copies of its snapshots.

A copy has other keys and other packs, but the same blobs under the same names: content is what names them. So a restore
goes on blob by blob: what the first gives is verified as ever, and of what it does not give, the other is asked. The
other is opened, and locked against a prune, when it is needed first; a first that does not answer is not asked again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from mover.errors import EntryMissing, IntegrityError, MoverError, RepositoryDamaged, TierError
from mover.repository.crypto import Buffer
from mover.repository.index import Location
from mover.repository.packs import BlobType
from mover.repository.reader import BlobReader

Opening = Callable[[], AbstractContextManager[BlobReader]]


class SparedReader(BlobReader):
    """Safe for many threads. `taken` blobs came from the other repository. Open until `close`."""

    def __init__(self, first: BlobReader, other: Opening) -> None:
        self._first, self._enter = first, other
        self._stack, self._guard = ExitStack(), threading.Lock()
        self._other: BlobReader | None = None
        self._gone: TierError | None = None  # why the first is not asked any more
        self.taken = 0

    def close(self) -> None:
        self._stack.close()

    def load(self, kind: BlobType, blob_id: bytes) -> bytes:
        try:
            self._ask()
            return self._first.load(kind, blob_id)
        except (IntegrityError, TierError) as failure:
            self._note(failure)
            return self._from_other(kind, blob_id, failure)

    def find(self, kind: BlobType, blob_id: bytes) -> Location | None:
        found = self._first.find(kind, blob_id)
        if found is None and (other := self._opened()) is not None:
            found = other.find(kind, blob_id)
        return found

    def read_run(self, pack_id: str, offset: int, length: int) -> bytes:
        """Zeros for what cannot be read: they open as no blob, so that each is asked for by its name."""
        try:
            self._ask()
            return self._first.read_run(pack_id, offset, length)
        except (IntegrityError, TierError) as failure:
            self._note(failure)
            if self._opened() is None:
                raise
            return bytes(length)

    def open(self, blob_id: bytes, sealed: Buffer, *, plain_length: int, where: str) -> bytes:
        try:
            return self._first.open(blob_id, sealed, plain_length=plain_length, where=where)
        except RepositoryDamaged as damage:
            return self._from_other("data", blob_id, damage)

    def open_into(self, blob_id: bytes, sealed: Buffer, room: memoryview, *, where: str) -> None:
        try:
            self._first.open_into(blob_id, sealed, room, where=where)
        except RepositoryDamaged as damage:
            room[:] = self._from_other("data", blob_id, damage)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._gone is not None:
            raise self._gone

    def _note(self, failure: MoverError) -> None:
        """A tier that misses one pack answers; one that is unreachable would be waited for at every blob."""
        if isinstance(failure, TierError) and not isinstance(failure, EntryMissing):
            self._gone = failure

    def _opened(self) -> BlobReader | None:
        """None when the other one cannot be opened either."""
        with self._guard:
            if self._other is None:
                try:
                    self._other = self._stack.enter_context(self._enter())
                except MoverError:
                    return None
            return self._other

    def _from_other(self, kind: BlobType, blob_id: bytes, why: MoverError) -> bytes:
        other = self._opened()
        if other is None:
            raise why
        try:
            plain = other.load(kind, blob_id)
        except (IntegrityError, EntryMissing) as failure:
            raise RepositoryDamaged(f"blob {blob_id.hex()} is whole in neither repository") from failure
        with self._guard:
            self.taken += 1
        return plain
