"""Walk tiles of the codecs that are no JPEG, for bytes that are no picture.

Such a tile is copied byte for byte as well, so what stands behind the end of its stream, or in a container's chunk
that holds no pixels, would get through. Nothing is kept of what is decoded here.

- none: exactly as long as the pixels.
- LZW (TIFF 6.0 section 13): ends with the EOI code and less than a byte of zeros.
- Deflate (RFC 1950): one zlib stream that fills the tile and holds exactly the pixels.
- zstd (RFC 8878): one frame, walked by its blocks' lengths; no skippable frame.
- WebP: one RIFF of that size with picture chunks only.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from mover.errors import PlaceUnknown, StructureInvalid

_LZW_EOI: Final = 257
_ZSTD_MAGIC: Final = 0xFD2FB528
_ZSTD_DICTIONARY: Final = (0, 1, 2, 4)
_ZSTD_CONTENT: Final = (0, 2, 4, 8)
_WEBP_CHUNKS: Final = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH"})
_BEHIND: Final = "bytes follow the end of a compressed tile"


def check_none(count: int, *, pixel_bytes: int, strip: bool = False) -> None:
    """A strip may hold fewer rows than its page."""
    if count > pixel_bytes or (count < pixel_bytes and not strip):
        raise PlaceUnknown("an uncompressed tile is not as long as its pixels")


def check_lzw_end(tail: bytes) -> None:
    """The last code is EOI in one of the widths a code can have, and less than a byte of zeros follows. Text behind
    the end does not look so but by a rare chance, and then in its last two bytes only."""
    value, bits = int.from_bytes(tail, "big"), 8 * len(tail)
    for padding in range(8):
        if value & ((1 << padding) - 1):
            return _refuse_lzw()
        for width in range(9, 13):
            if bits >= width + padding and (value >> padding) & ((1 << width) - 1) == _LZW_EOI:
                return None
    return _refuse_lzw()


def _refuse_lzw() -> None:
    raise PlaceUnknown("an LZW tile does not end where its last code is")


def check_deflate(data: bytes, *, pixel_bytes: int, strip: bool = False) -> None:
    stream = zlib.decompressobj()
    try:
        length = len(stream.decompress(data, pixel_bytes + 1))
    except zlib.error as error:
        raise StructureInvalid("a deflated tile cannot be inflated") from error
    if not stream.eof or length > pixel_bytes or (length < pixel_bytes and not strip):
        raise StructureInvalid("a deflated tile is not as long as its pixels")
    if stream.unused_data:
        raise PlaceUnknown(_BEHIND)


def check_zstd(data: bytes) -> None:
    if len(data) < 6 or struct.unpack_from("<I", data)[0] != _ZSTD_MAGIC:
        raise StructureInvalid("a zstd tile does not start with a frame")
    flags = data[4]
    single, content = flags >> 5 & 1, flags >> 6
    at = 5 + (not single) + _ZSTD_DICTIONARY[flags & 3] + (_ZSTD_CONTENT[content] or single)
    last = False
    while not last:
        if at + 3 > len(data):
            raise StructureInvalid("a zstd tile is cut short")
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind = bool(header & 1), header >> 1 & 3
        if kind == 3:
            raise StructureInvalid("a zstd tile holds a block of no kind")
        at += 3 + (1 if kind == 1 else header >> 3)
    at += 4 * (flags >> 2 & 1)
    if at > len(data):
        raise StructureInvalid("a zstd tile is cut short")
    if at < len(data):
        raise PlaceUnknown(_BEHIND)


def check_webp(data: bytes) -> None:
    if len(data) < 20 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise StructureInvalid("a WebP tile is no RIFF")
    if struct.unpack_from("<I", data, 4)[0] + 8 != len(data):
        raise PlaceUnknown(_BEHIND)
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name not in _WEBP_CHUNKS:
            raise PlaceUnknown("a WebP tile holds a chunk that is no picture")
        at += 8 + length + length % 2
    if at != len(data):
        raise StructureInvalid("a WebP tile's chunks do not fill it")
