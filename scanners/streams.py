"""What of one encoded picture is pixels: its comments, application segments and what follows its end are cut away.

For formats that name every picture by offset and length in an index of their own, so that a picture may become
shorter; TIFF tiles must be as they should be (`scanners.tiles`). Nothing is decoded or encoded anew.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np

from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.folders import Cut
from mover.model.source import ByteSource
from scanners import codestream

# A JPEG's header with whatever stands in it: a segment holds at most 64 KiB, and a writer has a handful of them.
HEADER_BYTES: Final = 1 << 20
PICTURE_BYTES: Final = 256 << 20
STEP_BYTES: Final = 8 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"
# Chunks a decoder needs, and those of fixed small size that tell it about colours (PNG, third edition, 11).
_PNG_CHUNKS: Final = {
    b"IHDR": 13, b"PLTE": 768, b"IDAT": 1 << 30, b"IEND": 0, b"tRNS": 256, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1,
    b"sBIT": 4,
}  # fmt: skip
_PNG_COUNT: Final = 200_000


def jpeg_header(data: bytes) -> tuple[int, int, int, tuple[tuple[int, int], ...]]:
    """Header size, width and height of a JPEG, and the ranges of its segments that are not copied: comments and
    application segments of no known writer. Raises for segments a decoder needs that are not whole."""
    if data[:2] != b"\xff\xd8":
        raise StructureInvalid("a picture does not start with SOI")
    at, frame = 2, b""
    dropped: list[tuple[int, int]] = []
    while True:
        marker, payload, after = codestream._segment(data, at)
        try:
            codestream._check_segment(marker, payload)
        except PlaceUnknown:
            if not (marker == 0xFE or 0xE0 <= marker <= 0xEF):
                raise
            dropped.append((at, after - at))
        if marker in codestream._FRAME:
            frame = payload
        at = after
        if marker == 0xDA:
            break
    if not frame:
        raise StructureInvalid("a JPEG scan without a frame")
    height, width = struct.unpack_from(">HH", frame, 1)
    return at, width, height, tuple(dropped)


def jpeg_cut(offset: int, data: bytes) -> Cut:
    """The kept ranges of a whole JPEG that stands at `offset`: without foreign segments, ending with EOI."""
    size, _, _, dropped = jpeg_header(data)
    end = jpeg_end(data, size)
    return without(offset, end, dropped)


def jpeg_end(data: bytes, at: int) -> int:
    """Where the picture ends: behind its EOI. Only what may stand in a scan stands before it."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        if marker == 0 or 0xD0 <= marker <= 0xD7:
            at += 2
        elif marker == 0xFF:
            at += 1
        elif marker in (0xC4, 0xDB, 0xDA, 0xDD):
            _, payload, at = codestream._segment(data, at)
            codestream._check_segment(marker, payload)
        else:
            raise PlaceUnknown(f"marker {marker:02X} stands inside a JPEG scan")
    raise StructureInvalid("a JPEG without an end")


def without(offset: int, end: int, dropped: tuple[tuple[int, int], ...]) -> Cut:
    ranges, at = [], 0
    for start, length in (*dropped, (end, 0)):
        if start > at:
            ranges.append((offset + at, start - at))
        at = start + length
    return Cut(tuple(ranges))


def jpeg_texts(data: bytes) -> list[bytes]:
    """What a picture's header says beside its pixels: comments and application segments, but for known writers'."""
    texts: list[bytes] = []
    at = 2
    while data[:2] == b"\xff\xd8" and at + 4 <= len(data) and data[at] == 0xFF and len(texts) < 64:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xDA, 0xD9) or length < 2:
            break
        payload = data[at + 4 : at + 2 + length]
        if (marker == 0xFE or 0xE0 <= marker <= 0xEF) and not _known(marker, payload):
            texts.append(payload)
        at += 2 + length
    return texts


def _known(marker: int, payload: bytes) -> bool:
    try:
        codestream._check_segment(marker, payload)
    except PlaceUnknown:
        return False
    return True


def scan_end(source: ByteSource, at: int) -> int:
    """Where a large JPEG ends, behind its EOI, all of its scan walked in steps. PlaceUnknown for any marker in it
    that is neither a restart nor the end."""
    last = b""
    while at < source.size_bytes:
        step = source.read(at, min(STEP_BYTES, source.size_bytes - at))
        data = np.frombuffer(last + step, "u1")
        start = at - len(last)
        found = np.flatnonzero(data[:-1] == 0xFF)
        after = data[found + 1]
        other = found[(after != 0) & (after != 0xFF) & ((after < 0xD0) | (after > 0xD7))]
        if len(other):
            first = int(other[0])
            if data[first + 1] != 0xD9:
                raise PlaceUnknown(f"marker {int(data[first + 1]):02X} stands inside a JPEG scan")
            return start + first + 2
        last = step[-1:]
        at += len(step)
    raise StructureInvalid("a JPEG without an end")


def png_cut(offset: int, data: bytes, *, inflate: bool) -> Cut:
    """The kept chunks of a whole PNG at `offset`; with `inflate`, that its pixels fill their stream."""
    png_size(data)
    at, count, ranges, pixels = 8, 0, [(offset, 8)], []
    while True:
        if at + 12 > len(data) or count > _PNG_COUNT:
            raise StructureInvalid("a PNG is cut short")
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise StructureInvalid("a PNG's chunk leaves its picture")
        payload = data[at + 8 : at + 8 + length]
        if kind in _PNG_CHUNKS and length <= _PNG_CHUNKS[kind] and _plain(kind, payload, data[25]):
            if zlib.crc32(data[at + 4 : at + 8 + length]) != int.from_bytes(data[at + 8 + length :][:4], "big"):
                raise StructureInvalid("a PNG's chunk is damaged")
            ranges.append((offset + at, 12 + length))
            if kind == b"IDAT":
                pixels.append(data[at + 8 : at + 8 + length])
        elif not kind[:1].islower():
            raise PlaceUnknown("a PNG holds a critical chunk of no known kind")
        at, count = at + 12 + length, count + 1
        if kind == b"IEND":
            break
    if inflate:
        _check_stream(b"".join(pixels))
    return Cut(_joined(ranges))


def _plain(kind: bytes, payload: bytes, colour: int) -> bool:
    """Whether a chunk of fixed size holds numbers of its own kind: thirty bytes are enough for a name."""
    if kind in (b"cHRM", b"gAMA"):
        numbers = struct.unpack(f">{len(payload) // 4}I", payload[: len(payload) // 4 * 4])
        return len(payload) == _PNG_CHUNKS[kind] and all(number <= 1_000_000 for number in numbers)
    if kind == b"PLTE":
        return colour == 3
    if kind == b"tRNS":
        return colour == 3 or (len(payload) <= 6 and not any(payload[::2]))
    return kind != b"sBIT" or all(0 < number <= 16 for number in payload)


def _check_stream(stream: bytes) -> None:
    """A pocket behind the pixels' own stream, or a bomb in it, is refused."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(stream, PICTURE_BYTES)
    except zlib.error:
        raise StructureInvalid("a PNG's pixels are damaged") from None
    if not unpacker.eof or unpacker.unused_data:
        raise PlaceUnknown("a PNG's pixels do not end where their stream ends")


def png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[:16] != _PNG + b"\0\0\0\x0dIHDR":
        raise StructureInvalid("a picture does not start as PNG does")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def bmp_cut(offset: int, data: bytes, *, width: int, height: int) -> Cut:
    """A BMP24 picture is its fixed header and its rows; every field of the header is one of few values."""
    rows = (width * 3 + 3) // 4 * 4 * height
    if len(data) < 54:
        raise StructureInvalid("a BMP is cut short")
    sign, size, reserved, start, head, wide, high, planes, bits, packed, body, _, _, colours, important = (
        struct.unpack_from("<2sIIIIiiHHIIiiII", data)
    )
    fixed = (sign, reserved, start, head, wide, abs(high), planes, bits, packed)
    if fixed != (b"BM", 0, 54, 40, width, height, 1, 24, 0) or body not in (0, rows):
        raise PlaceUnknown("a BMP whose header is not of the known form")
    if colours or important or size not in (0, 54 + rows) or len(data) < 54 + rows:
        raise PlaceUnknown("a BMP whose header is not of the known form")
    return Cut(((offset, 54 + rows),))


def _joined(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for at, length in ranges:
        if joined and sum(joined[-1]) == at:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((at, length))
    return tuple(joined)
