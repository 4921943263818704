"""Packs: sealed blobs, a sealed header, the header's length.

    blob 1 | .. | blob n | sealed header | length of the sealed header (uint32, little-endian)

A pack is named by its own SHA-256. Data and trees never share one. Header entries are 37 bytes, or 41 for a
compressed blob, which also carries its plain length.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal

from msgspec import Struct

from mover.errors import RepositoryDamaged
from mover.repository.crypto import SEAL_OVERHEAD_BYTES, Buffer, MasterKey, Sealer

# restic's own default; a pack is closed by the first blob that reaches it, so it ends below 16 + 8 MiB.
TARGET_PACK_BYTES = 16 << 20
# Of files of a few bytes 400,000 would fit: what is told of each takes more memory than they do.
TARGET_PACK_BLOBS = 25_000
# A pack this large was not written by us or by restic (whose option ends at 128 MiB): refuse to buffer it.
MAX_PACK_BYTES = 256 << 20
MAX_HEADER_BYTES = 16 << 20
# Target, one blob more, and a header.
PACK_MEMORY_BYTES = 26 << 20
DIGEST_STEP_BYTES = 128 << 10

BlobType = Literal["data", "tree"]

_LENGTH = struct.Struct("<I")
_PLAIN = struct.Struct("<BI32s")
_COMPRESSED = struct.Struct("<BII32s")
_TYPE_NUMBER: dict[BlobType, int] = {"data": 0, "tree": 1}
_COMPRESSED_BIT = 2


class PackedBlob(Struct, frozen=True):
    """Where one blob lies in its pack. `plain_length` is 0 when the blob is stored uncompressed."""

    blob_id: bytes
    type: BlobType
    offset: int
    length: int
    plain_length: int


class Pack(Struct, frozen=True):
    """A finished pack, ready to be put; `parts` in order are its bytes."""

    pack_id: str
    parts: tuple[Buffer, ...]
    size_bytes: int
    blobs: tuple[PackedBlob, ...]


class PackBuilder:
    """Collects sealed blobs of one type in one buffer: what is sealed lies where it will be put from. The digest runs
    along while the bytes are still in cache."""

    def __init__(self, kind: BlobType, memory: memoryview | None = None) -> None:
        self.kind = kind
        self.size_bytes = 0
        self.memory = memory if memory is not None else pack_memory()
        self._blobs: list[PackedBlob] = []
        self._digest = hashlib.sha256()
        self._digested = 0

    @property
    def full(self) -> bool:
        return self.size_bytes >= TARGET_PACK_BYTES or len(self._blobs) >= TARGET_PACK_BLOBS

    @property
    def empty(self) -> bool:
        return not self._blobs

    def seal(self, blob_id: bytes, content: Buffer, *, plain_length: int, sealer: Sealer) -> None:
        length = len(content) + SEAL_OVERHEAD_BYTES
        self._blobs.append(PackedBlob(blob_id, self.kind, self.size_bytes, length, plain_length))
        sealer.seal_into(content, self._room(length))
        self._digest_from(DIGEST_STEP_BYTES)

    def add(self, blob_id: bytes, sealed: Buffer, *, plain_length: int) -> None:
        self.add_run([(blob_id, len(sealed), plain_length)], sealed)

    def add_run(self, blobs: Iterable[tuple[bytes, int, int]], sealed: Buffer) -> None:
        """Blobs that lie one behind the other: (id, sealed length, plain length or 0)."""
        offset = self.size_bytes
        for blob_id, length, plain_length in blobs:
            self._blobs.append(PackedBlob(blob_id, self.kind, offset, length, plain_length))
            offset += length
        self._room(len(sealed))[:] = sealed
        self._digest_from(DIGEST_STEP_BYTES)

    def absorb(self, other: PackBuilder) -> None:
        """Take over the blobs of another builder, so that a small snapshot ends in one pack."""
        blobs = [(blob.blob_id, blob.length, blob.plain_length) for blob in other._blobs]
        self.add_run(blobs, other.memory[: other.size_bytes])

    def finish(self, key: MasterKey) -> Pack:
        header = key.seal(encode_header(self._blobs))
        self._room(len(header))[:] = header
        self._room(_LENGTH.size)[:] = _LENGTH.pack(len(header))
        self._digest_from(0)
        parts = (self.memory[: self.size_bytes],)
        return Pack(self._digest.hexdigest(), parts, self.size_bytes, tuple(self._blobs))

    def _room(self, length: int) -> memoryview:
        """The next `length` bytes. Only a huge tree, or a header of very many entries, outgrows the buffer."""
        start, end = self.size_bytes, self.size_bytes + length
        if end > len(self.memory):
            larger = pack_memory(2 * end)
            larger[:start] = self.memory[:start]
            self.memory = larger
        self.size_bytes = end
        return self.memory[start:end]

    def _digest_from(self, step_bytes: int) -> None:
        if self.size_bytes - self._digested >= step_bytes:
            self._digest.update(self.memory[self._digested : self.size_bytes])
            self._digested = self.size_bytes


def pack_memory(size_bytes: int = PACK_MEMORY_BYTES) -> memoryview:
    """Pages of their own: aligned for direct writing, huge where the system has such, and given back as a whole."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def encode_header(blobs: list[PackedBlob]) -> bytes:
    out = bytearray()
    for blob in blobs:
        number = _TYPE_NUMBER[blob.type]
        if blob.plain_length:
            out += _COMPRESSED.pack(number | _COMPRESSED_BIT, blob.length, blob.plain_length, blob.blob_id)
        else:
            out += _PLAIN.pack(number, blob.length, blob.blob_id)
    return bytes(out)


def decode_header(header: bytes) -> list[PackedBlob]:
    blobs: list[PackedBlob] = []
    position = offset = 0
    while position < len(header):
        blob = _decode_entry(header, position, offset)
        blobs.append(blob)
        position += _COMPRESSED.size if blob.plain_length else _PLAIN.size
        offset += blob.length
    return blobs


def _decode_entry(header: bytes, position: int, offset: int) -> PackedBlob:
    number = header[position]
    if number > 3:
        raise RepositoryDamaged("a pack header names a blob type that does not exist")
    kind: BlobType = "tree" if number & 1 else "data"
    try:
        if number & _COMPRESSED_BIT:
            _, length, plain_length, blob_id = _COMPRESSED.unpack_from(header, position)
            return PackedBlob(blob_id, kind, offset, length, plain_length)
        _, length, blob_id = _PLAIN.unpack_from(header, position)
    except struct.error as cause:
        raise RepositoryDamaged("a pack header ends inside an entry") from cause
    return PackedBlob(blob_id, kind, offset, length, 0)


def read_header(pack: Buffer, key: MasterKey, *, size_bytes: int = 0) -> list[PackedBlob]:
    """The entries of a pack, authenticated. Its end will do, long enough to hold the header, when `size_bytes` says
    how long the whole is."""
    size = len(pack)
    if size < _LENGTH.size + SEAL_OVERHEAD_BYTES:
        raise RepositoryDamaged("a pack is shorter than its own header")
    view = memoryview(pack)
    (header_length,) = _LENGTH.unpack(view[-_LENGTH.size :])
    if not SEAL_OVERHEAD_BYTES <= header_length <= min(size - _LENGTH.size, MAX_HEADER_BYTES):
        raise RepositoryDamaged("the header length of a pack is impossible")
    start = size - _LENGTH.size - header_length
    blobs = decode_header(key.open(view[start : size - _LENGTH.size]))
    if sum(blob.length for blob in blobs) != start + max(0, size_bytes - size):
        raise RepositoryDamaged("the header of a pack does not cover its blobs")
    return blobs


def expected_size(blobs: list[PackedBlob]) -> int:
    """The size a pack with exactly these blobs must have on the tier."""
    header = sum(_COMPRESSED.size if blob.plain_length else _PLAIN.size for blob in blobs)
    return sum(blob.length for blob in blobs) + header + SEAL_OVERHEAD_BYTES + _LENGTH.size
