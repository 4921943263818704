"""The other side of `small`: takes open descriptors, answers with facts, leaves sealed blobs in shared memory.

It reads with the code of the snapshot itself (`cutting.FileReader`), so that what changes while it is read is met the
same way; only the shelf where blobs go is another.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import socket
import struct
from typing import Literal

import msgspec
from msgspec import Struct

from mover.repository import compression
from mover.repository.crypto import SEAL_OVERHEAD_BYTES, Buffer, MasterKey, Sealer
from mover.repository.cutting import CUT_MIN_BYTES, FileReader, Stored, Tally

LENGTH = struct.Struct("<I")
COUNT = struct.Struct("<I")
MAX_FDS = 64
REGION_BYTES = 12 << 20
# In place of an errno: the file has grown beyond what is small; whoever asked reads it.
LARGE = -1


BlobPlace = tuple[bytes, int, int, int]  # id, offset in the shared memory, sealed length, plain length or 0


class Sealed(Struct, frozen=True, array_like=True):
    """One file."""

    error: int
    facts: bytes = b""
    size_bytes: int = 0
    blake3: str = ""
    mtime_ns: int = 0
    torn: bool = False
    blobs: tuple[BlobPlace, ...] = ()

    @property
    def stored(self) -> Stored:
        return Stored(self.facts, self.size_bytes, self.blake3, self.mtime_ns, self.torn)


class Shelf:
    """Where a helper's blobs go. One thread only."""

    def __init__(self, region: memoryview, key: MasterKey) -> None:
        self._region, self._sealer = region, Sealer(key)
        self._at = 0
        self._placed: list[BlobPlace] = []

    @property
    def room_bytes(self) -> int:
        return len(self._region) - self._at

    def empty(self) -> None:
        self._at = 0

    def placed(self) -> list[BlobPlace]:
        """All since it was asked last."""
        placed, self._placed = self._placed, []
        return placed

    def taken(self, content_of: int) -> tuple[BlobPlace, ...]:
        """The last blobs stored, so many as the file has; those of an attempt before them are nobody's."""
        placed = self.placed()
        return tuple(placed[len(placed) - content_of :])

    def store(self, kind: Literal["data"], plain: Buffer) -> bytes:
        blob_id = hashlib.sha256(plain).digest()
        packed = compression.squeeze(plain)
        content, plain_length = (plain, 0) if packed is None else (packed, len(plain))
        length = len(content) + SEAL_OVERHEAD_BYTES
        if len(plain) > CUT_MIN_BYTES or self._at + length > len(self._region):
            raise OSError(errno.EFBIG, "not a small file any more")
        self._sealer.seal_into(content, self._region[self._at : self._at + length])
        self._placed.append((blob_id, self._at, length, plain_length))
        self._at += length
        return blob_id

    def assert_healthy(self) -> None:
        """Whoever waits for the answer looks after that."""


def serve(channel_fd: int, region_fd: int) -> None:
    with socket.socket(fileno=channel_fd) as channel, mmap.mmap(region_fd, REGION_BYTES) as region:
        (length,) = LENGTH.unpack(receive(channel, LENGTH.size))
        key = msgspec.msgpack.decode(receive(channel, length), type=MasterKey)
        shelf = Shelf(memoryview(region), key)
        files = FileReader(shelf, Tally(None), seed=0)
        encoder = msgspec.msgpack.Encoder()
        while True:
            request, fds, _, _ = socket.recv_fds(channel, COUNT.size, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            if not request:
                os._exit(0)  # views of the region may still be about: they need no farewell
            shelf.empty()
            answer = encoder.encode([_sealed(files, shelf, fd) for fd in fds])
            channel.sendall(LENGTH.pack(len(answer)) + answer)


def _sealed(files: FileReader, shelf: Shelf, fd: int) -> Sealed:
    try:
        stored: Stored = files.read(fd)
    except OSError as failure:
        shelf.taken(0)
        return Sealed(LARGE if failure.errno == errno.EFBIG else failure.errno or errno.EIO)
    blobs = shelf.taken(1 if stored.size_bytes else 0)
    return Sealed(0, stored.facts, stored.size_bytes, stored.blake3, stored.mtime_ns, stored.torn, blobs)


def receive(channel: socket.socket, length: int) -> bytes:
    """Exactly so many bytes; EOFError when the other side is gone."""
    buffer = bytearray(length)
    view, at = memoryview(buffer), 0
    while at < length:
        came = channel.recv_into(view[at:])
        if not came:
            raise EOFError
        at += came
    return bytes(buffer)
