"""The other side of `gathering`: takes an open folder and names in it, answers with their nodes, leaves sealed blobs in
shared memory.

It keeps what is plain only: a regular file, small, with one link, that can be read and held still. All else is *left*
to whoever asked, who meets it as if there were no helper; nothing is judged here.
"""

from __future__ import annotations

import mmap
import os
import socket
import stat
import struct

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.repository.crypto import MasterKey
from mover.repository.cutting import read_xattrs
from mover.repository.facts import ProtectedFiles
from mover.repository.nodes import node_of
from mover.repository.reading import found_of
from mover.repository.reading_child import FILE_FLAGS
from mover.repository.small_child import LENGTH, BlobPlace, Shelf, receive
from mover.repository.tree import Xattr, encode_facts, with_name

SLOTS = 3
SLOT_BYTES = 4 << 20
# Files that go by the batch: a hand-over each would cost more than reading them. A slot has room for many of these, so
# every answer is about one name at least.
SMALL_BYTES = 128 << 10
REQUEST = struct.Struct("<II")  # slot, length of what follows


class Asked(Struct, frozen=True, array_like=True):
    """`path` is the folder's in the snapshot."""

    path: bytes
    names: list[bytes]


class Gathered(Struct, frozen=True, array_like=True):
    """`nodes` answer the names in their order, as far as the slot had room; an empty one is left to the asker.
    `entries` (see ProtectedFiles) and `blobs` are those of the others."""

    nodes: list[bytes]
    entries: list[bytes]
    blobs: list[BlobPlace]
    size_bytes: int


def serve(channel_fd: int, region_fd: int) -> None:
    with socket.socket(fileno=channel_fd) as channel, mmap.mmap(region_fd, SLOTS * SLOT_BYTES) as region:
        (length,) = LENGTH.unpack(receive(channel, LENGTH.size))
        key = msgspec.msgpack.decode(receive(channel, length), type=MasterKey)
        view = memoryview(region)
        shelves = [Shelf(view[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES], key) for slot in range(SLOTS)]
        decoder, encoder = msgspec.msgpack.Decoder(Asked), msgspec.msgpack.Encoder()
        while True:
            request, fds, _, _ = socket.recv_fds(channel, REQUEST.size, 1, socket.MSG_CMSG_CLOEXEC)
            if not request:
                os._exit(0)  # views of the region may still be about: they need no farewell
            slot, length = REQUEST.unpack(request)
            answer = encoder.encode(gathered(decoder.decode(receive(channel, length)), fds[0], shelves[slot]))
            os.close(fds[0])
            channel.sendall(LENGTH.pack(len(answer)) + answer)


def gathered(asked: Asked, folder_fd: int, shelf: Shelf) -> Gathered:
    nodes: list[bytes] = []
    entries: list[bytes] = []
    size_bytes = 0
    shelf.empty()
    for name in asked.names:
        if shelf.room_bytes < 2 * SMALL_BYTES:
            break
        read = _read(name, folder_fd)
        if read is None:
            nodes.append(b"")
            continue
        facts, xattrs, data = read
        size, digest = len(data), blake3(data).hexdigest()
        content = (shelf.store("data", data),) if data else ()
        node = node_of(found_of(b"", facts), "file", size=size, content=content, xattrs=xattrs)
        nodes.append(with_name(name, encode_facts(node)))
        path = asked.path + b"/" + name
        entries.append(ProtectedFiles.pack(path, size_bytes=size, blake3=digest, mtime_ns=facts.st_mtime_ns))
        size_bytes += size
    return Gathered(nodes, entries, shelf.placed(), size_bytes)


def _read(name: bytes, folder_fd: int) -> tuple[os.stat_result, tuple[Xattr, ...], bytes] | None:
    """What lstat saw and what was read from the descriptor afterwards are one file at one moment, or it is left."""
    try:
        before = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        size = before.st_size
        if not stat.S_ISREG(before.st_mode) or before.st_nlink != 1 or size > SMALL_BYTES:
            return None
        fd = os.open(name, FILE_FLAGS, dir_fd=folder_fd)
        try:
            xattrs = read_xattrs(fd)
            data = os.pread(fd, size, 0) if size else b""
            after = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError:
        return None
    return (before, xattrs, data) if len(data) == size and _moment(before) == _moment(after) else None


def _moment(facts: os.stat_result) -> tuple[int, ...]:
    return (
        facts.st_dev,
        facts.st_ino,
        facts.st_mode,
        facts.st_nlink,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
    )
