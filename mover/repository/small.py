"""Small files by the batch, in processes of their own.

A small file costs more in the interpreter than in ciphers and digests, and an interpreter is one core. So from
HELP_FROM_FILES on, open descriptors go to helpers (`small_child`), which read, digest, compress and seal as this
process would; sealed blobs come back in memory that both see, facts over the socket. What is known already is decided
here: only blobs that are new go into a pack. A helper that dies ends the snapshot, as a thread that fails does.

Bounds: HELPERS processes, one batch (writer.BATCH files) each, REGION_BYTES of shared memory each.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

import msgspec

from mover.repository.blobs import BlobWriter
from mover.repository.crypto import MasterKey
from mover.repository.cutting import READERS, FileReader, Stored, Tally
from mover.repository.helpers import HelperProcess
from mover.repository.small_child import COUNT, LARGE, REGION_BYTES, Sealed

# Starting a helper costs as much as this many files.
HELP_FROM_FILES = 4000
HELPERS = READERS  # each is asked by one reading thread at a time


class SmallFiles:
    """`read_all` may run in several threads."""

    def __init__(self, files: FileReader, blobs: BlobWriter, tally: Tally, *, key: MasterKey) -> None:
        self._files, self._blobs, self._tally, self._key = files, blobs, tally, key
        self._seen = 0
        self._guard = threading.Lock()
        self._helpers: list[_Helper] = []
        self._free: SimpleQueue[_Helper] = SimpleQueue()

    def close(self) -> None:
        for helper in self._helpers:
            helper.close()

    def read_all(self, fds: list[int]) -> list[Stored | OSError]:
        """Closes every descriptor."""
        self._seen += len(fds)
        if self._seen < HELP_FROM_FILES:
            return self._files.read_all(fds)
        left = fds
        helper: _Helper | None = None
        try:
            helper = self._take()
            sealed = helper.read(fds)
            grown = [fd for fd, one in zip(fds, sealed, strict=True) if one.error == LARGE]
            left = list(set(fds).difference(grown))
            outcomes = self._outcomes(sealed, grown)
            self._tally.count(size_bytes=sum(one.size_bytes for one in sealed))
            self._blobs.store_sealed([blob for one in sealed for blob in one.blobs], helper.region)
        finally:
            if helper is not None:
                self._free.put(helper)
            _close_all(left)
        return outcomes

    def _outcomes(self, sealed: list[Sealed], grown: list[int]) -> list[Stored | OSError]:
        """What has grown beyond what is small meanwhile is read here, all at once so that every one is closed."""
        read = iter(self._files.read_all(grown))
        return [next(read) if one.error == LARGE else _outcome(one) for one in sealed]

    def _take(self) -> _Helper:
        with self._guard:
            if len(self._helpers) < HELPERS and self._free.empty():
                self._helpers.append(_Helper(self._key))
                return self._helpers[-1]
        return self._free.get()


class _Helper:
    """One process that reads by descriptors."""

    def __init__(self, key: MasterKey) -> None:
        self._process = HelperProcess("small_child", REGION_BYTES, key)
        self.region = self._process.region
        self._decoder = msgspec.msgpack.Decoder(list[Sealed])

    def read(self, fds: list[int]) -> list[Sealed]:
        self._process.send(COUNT.pack(len(fds)), fds)
        return self._decoder.decode(self._process.answer())

    def close(self) -> None:
        self._process.close()


def _outcome(one: Sealed) -> Stored | OSError:
    return OSError(one.error, os.strerror(one.error)) if one.error else one.stored


def _close_all(fds: list[int]) -> None:
    """Neighbours in one call. A call for each would let go of the interpreter lock for each, and the walker, who asks
    the system for as much, would wait for it every time: measured, half of its time."""
    first = 0
    fds = sorted(fds)
    for place in range(1, len(fds) + 1):
        if place == len(fds) or fds[place] != fds[place - 1] + 1:
            os.closerange(fds[first], fds[place - 1] + 1)
            first = place
