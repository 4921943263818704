"""zstd, and when not to use it.

Level 1 is the only level that keeps up with the other stages in line (measured: higher levels halve the
rate for a few per cent of text). Checkpoints and JPEG tiles do not shrink at all: a sample tells, and they
are stored as they are, which the format allows blob by blob.
"""

from __future__ import annotations

import threading

import zstandard

from mover.errors import RepositoryDamaged
from mover.repository.crypto import Buffer

LEVEL = 1
SAMPLE_BYTES = 16 << 10
# Stored compressed only when at least a tenth is saved. zstd costs as much as everything else that happens to a
# blob together: float32 weights would lose 8 % for half the rate of protecting and restoring them.
WORTHWHILE_SHARE = 0.9

_local = threading.local()


def squeeze(plain: Buffer) -> bytes | None:
    """The compressed bytes, or None when compressing does not pay."""
    size = len(plain)
    if size > 4 * SAMPLE_BYTES and not _sample_shrinks(memoryview(plain), size):
        return None
    packed = _compressor().compress(plain)
    return packed if len(packed) < size * WORTHWHILE_SHARE else None


def unsqueeze(packed: Buffer, *, plain_length: int) -> bytes:
    """Exactly `plain_length` bytes, or RepositoryDamaged. The declared length bounds the memory: a frame
    that would unpack to more is refused before it is unpacked."""
    try:
        declared = zstandard.frame_content_size(bytes(memoryview(packed)[:18]))
        if declared > plain_length:
            raise RepositoryDamaged("a compressed object declares more bytes than its index entry")
        plain = _decompressor().decompress(packed, max_output_size=plain_length, allow_extra_data=False)
    except zstandard.ZstdError as cause:
        raise RepositoryDamaged("a compressed object does not unpack") from cause
    if len(plain) != plain_length:
        raise RepositoryDamaged("a compressed object unpacks to another length than its index entry says")
    return plain


def unsqueeze_document(packed: Buffer, *, max_bytes: int) -> bytes:
    """A JSON document whose length nobody declared beforehand; bounded by `max_bytes`."""
    try:
        with _decompressor().stream_reader(bytes(packed), read_across_frames=True) as stream:
            plain = stream.read(max_bytes + 1)
    except zstandard.ZstdError as cause:
        raise RepositoryDamaged("a compressed document does not unpack") from cause
    if len(plain) > max_bytes:
        raise RepositoryDamaged("a compressed document unpacks to more than is allowed")
    return plain


def squeeze_document(plain: bytes) -> bytes:
    return _compressor().compress(plain)


def _sample_shrinks(view: memoryview, size: int) -> bool:
    """Two samples: headers are often compressible where the body is not, so neither is the very start."""
    middle, late = size // 3, 2 * size // 3
    for start in (middle, late):
        sample = view[start : start + SAMPLE_BYTES]
        if len(_compressor().compress(sample)) < len(sample) * WORTHWHILE_SHARE:
            return True
    return False


def _compressor() -> zstandard.ZstdCompressor:
    """One context per thread: contexts are not safe to share, and costly to make."""
    found = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found
