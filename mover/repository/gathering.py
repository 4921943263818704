"""Whole folders of small files, in processes of their own.

Even to open a small file is dear in an interpreter whose lock others want. So from HELP_FROM_FILES on the walker opens
folders only: the descriptor and the names of its plain files go to a helper (`gathering_child`), which opens, reads,
digests, compresses, seals and writes the nodes. Sealed blobs come back in memory that both see, nodes over the socket.
What is known already is decided here, and what a helper left (see there) the walker meets itself.

For folders that the daemon may open itself only: a helper has the daemon's rights, and the key.
Bounds: HELPERS processes with SLOTS batches of BATCH names each on their way, SLOT_BYTES of shared memory for each.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from mover.repository.crypto import MasterKey
from mover.repository.gathering_child import REQUEST, SLOT_BYTES, SLOTS, Asked, Gathered
from mover.repository.helpers import HelperProcess

HELPERS = 2
# Starting them costs as much as this many files.
HELP_FROM_FILES = 1000
BATCH = 128

Owner = TypeVar("Owner")


class Batch(Struct, Generic[Owner]):
    """Names of a folder on their way; `folder_fd` is the batch's own descriptor."""

    owner: Owner
    path: bytes
    names: list[bytes]
    folder_fd: int
    helper: HelperProcess
    slot: int

    @property
    def region(self) -> memoryview:
        return self.helper.region[self.slot * SLOT_BYTES : (self.slot + 1) * SLOT_BYTES]


class Gathering(Generic[Owner]):
    """One thread only. `take` in time: `send` wants a free place."""

    def __init__(self, key: MasterKey) -> None:
        self._key = key
        self._helpers: list[HelperProcess] = []
        self._free: deque[tuple[HelperProcess, int]] = deque()
        self._sent: deque[Batch[Owner]] = deque()
        self._decoder = msgspec.msgpack.Decoder(Gathered)

    @property
    def full(self) -> bool:
        return bool(self._helpers) and not self._free

    def send(self, owner: Owner, path: bytes, names: list[bytes], folder_fd: int) -> None:
        if not self._helpers:
            self._start()
        helper, slot = self._free.popleft()
        asked = msgspec.msgpack.encode(Asked(path, names))
        own_fd = fcntl.fcntl(folder_fd, fcntl.F_DUPFD_CLOEXEC, 0)
        self._sent.append(Batch(owner, path, names, own_fd, helper, slot))
        helper.send(REQUEST.pack(slot, len(asked)) + asked, [own_fd])

    @contextmanager
    def taken(self) -> Iterator[tuple[Batch[Owner], Gathered]]:
        """The oldest answer, with the folder open. Its blobs stand in the batch's region until the batch is freed."""
        answer = self._decoder.decode(self._sent[0].helper.answer())
        batch = self._sent.popleft()
        try:
            yield batch, answer
        finally:
            os.close(batch.folder_fd)

    def free(self, batch: Batch[Owner]) -> None:
        self._free.append((batch.helper, batch.slot))

    def close(self) -> None:
        while self._sent:
            os.close(self._sent.popleft().folder_fd)
        for helper in self._helpers:
            helper.close()

    def _start(self) -> None:
        for _ in range(HELPERS):
            self._helpers.append(HelperProcess("gathering_child", SLOTS * SLOT_BYTES, self._key))
        self._free.extend((helper, slot) for slot in range(SLOTS) for helper in self._helpers)
