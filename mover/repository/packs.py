"""Packs: sealed blobs, a sealed header, the header's length.

    blob 1 | .. | blob n | sealed header | length of the sealed header (uint32, little-endian)

A pack is named by its own SHA-256. Data and trees never share one. Header entries are 37 bytes, or 41 for a
compressed blob, which also carries its plain length.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Literal

from msgspec import Struct

from mover.errors import RepositoryDamaged
from mover.repository.crypto import SEAL_OVERHEAD_BYTES, Buffer, MasterKey

# restic's own default; a pack is closed by the first blob that reaches it, so it ends below 16 + 8 MiB.
TARGET_PACK_BYTES = 16 << 20
# A pack this large was not written by us or by restic (whose option ends at 128 MiB): refuse to buffer it.
MAX_PACK_BYTES = 256 << 20
MAX_HEADER_BYTES = 16 << 20
GATHER_BELOW_BYTES = 128 << 10

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
    """Collects sealed blobs of one type. The digest runs along while each blob is still in cache."""

    def __init__(self, kind: BlobType) -> None:
        self.kind = kind
        self.size_bytes = 0
        self._parts: list[Buffer] = []
        self._tail: bytearray | None = None
        self._blobs: list[PackedBlob] = []
        self._digest = hashlib.sha256()

    @property
    def full(self) -> bool:
        return self.size_bytes >= TARGET_PACK_BYTES

    @property
    def empty(self) -> bool:
        return not self._blobs

    def add(self, blob_id: bytes, sealed: Buffer, *, plain_length: int) -> None:
        blob = PackedBlob(blob_id, self.kind, self.size_bytes, len(sealed), plain_length)
        self._blobs.append(blob)
        self._append(sealed)

    def absorb(self, other: PackBuilder) -> None:
        """Take over the blobs of another builder, so that a small snapshot ends in one pack."""
        content = memoryview(b"".join(other._parts))
        for blob in other._blobs:
            sealed = content[blob.offset : blob.offset + blob.length]
            self.add(blob.blob_id, sealed, plain_length=blob.plain_length)

    def finish(self, key: MasterKey) -> Pack:
        sealed_header = key.seal(encode_header(self._blobs))
        self._append(sealed_header)
        self._append(_LENGTH.pack(len(sealed_header)))
        return Pack(self._digest.hexdigest(), tuple(self._parts), self.size_bytes, tuple(self._blobs))

    def _append(self, part: Buffer) -> None:
        """Small parts are gathered, so that a pack of many tiny files is not as many tiny writes."""
        self._digest.update(part)
        self.size_bytes += len(part)
        if len(part) >= GATHER_BELOW_BYTES:
            self._parts.append(part)
            self._tail = None
        elif self._tail is None:
            self._tail = bytearray(part)
            self._parts.append(self._tail)
        else:
            self._tail += part


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


def read_header(pack: Buffer, key: MasterKey) -> list[PackedBlob]:
    """The entries of a whole pack, authenticated."""
    size = len(pack)
    if size < _LENGTH.size + SEAL_OVERHEAD_BYTES:
        raise RepositoryDamaged("a pack is shorter than its own header")
    view = memoryview(pack)
    (header_length,) = _LENGTH.unpack(view[-_LENGTH.size :])
    if not SEAL_OVERHEAD_BYTES <= header_length <= min(size - _LENGTH.size, MAX_HEADER_BYTES):
        raise RepositoryDamaged("the header length of a pack is impossible")
    start = size - _LENGTH.size - header_length
    blobs = decode_header(key.open(view[start : size - _LENGTH.size]))
    if sum(blob.length for blob in blobs) != start:
        raise RepositoryDamaged("the header of a pack does not cover its blobs")
    return blobs


def expected_size(blobs: list[PackedBlob]) -> int:
    """The size a pack with exactly these blobs must have on the tier."""
    header = sum(_COMPRESSED.size if blob.plain_length else _PLAIN.size for blob in blobs)
    return sum(blob.length for blob in blobs) + header + SEAL_OVERHEAD_BYTES + _LENGTH.size
