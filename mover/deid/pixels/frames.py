"""Compressed frames without the places where text can hide, and without encoding them anew.

A codestream is walked segment by segment. What a decoder needs is copied, if it is exactly as long as what it
claims to hold (a longer one is a pocket); what no decoder needs is left out; what no rule knows is refused:

- JPEG and JPEG-LS (ITU T.81, T.87): tables, frames and scans stay. JFIF stays without its thumbnail and Adobe's
  segment with its twelve bytes, because both change how colours are decoded; so does HP's colour transform. Comments
  and every other application segment go, and so does what follows EOI.
- JPEG 2000 (ITU T.800): main and tile-part headers stay, with the comments of known encoders; other comments go,
  and the lengths that counted them are written anew. Of a JP2 file only the boxes a decoder needs stay.
- RLE (PS3.5 Annex G): segments end where their pixels end; unused offsets must be zero.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from mover.deid.pixels.words import Span
from mover.errors import LimitExceeded, PlaceUnknown, StructureInvalid
from mover.model.recipe import Copy, Literal, Segment
from mover.model.source import ByteSource

MAX_FRAME_BYTES: Final = 512 << 20
MAX_SEGMENTS: Final = 100_000  # of one codestream: tables, scans and tile-parts

_JPEG: Final = frozenset("1.2.840.10008.1.2.4." + last for last in ("50", "51", "57", "70", "80", "81"))
_JP2K: Final = frozenset("1.2.840.10008.1.2.4." + last for last in ("90", "91", "92", "93", "201", "202", "203"))
_RLE: Final = "1.2.840.10008.1.2.5"
KNOWN: Final = _JPEG | _JP2K | {_RLE}

# SOF0-3, 5-7, 9-11, 13-15 and JPEG-LS; not DHT (C4), JPG (C8), DAC (CC)
_FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_NEXT_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# In JPEG-LS a stuffed bit follows 0xFF: any byte below 0x80 belongs to the scan
_NEXT_MARKER_LS: Final = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_ENCODERS: Final = re.compile(
    rb"Kakadu-v?\d{1,2}(\.\d{1,2}){0,3}"
    rb"|Created by (GDCM/)?OpenJPEG version \d{1,2}(\.\d{1,3}){1,2}"
    rb"|Creator: JasPer Version \d(\.\d{1,4}){1,3}"
    rb"|Kdu-Layer-Info: log_2\{Delta-D\((MSE|squared-error)\)/"
    rb"(\[2\^16\*Delta-L\(bytes\)\]|Delta-L\(bytes\))\}, L\(bytes\)"
    rb"(\n *-?\d{1,3}\.\d, *\d\.\de[+-]\d{2,3}){0,64}\n?"
)


def strip_frame(
    source: ByteSource, spans: Sequence[Span], *, transfer_syntax: str, pixels: int = 0
) -> tuple[Segment, ...]:
    """The segments that make one frame's new bytes out of its fragments `spans`, not yet padded to even length.

    `pixels` is rows times columns; without it the end of an RLE segment is believed. Raises StructureInvalid for a
    codestream that cannot be walked, PlaceUnknown where one holds a segment that no rule knows, or for a transfer
    syntax without a walk.
    """
    total = sum(span.length for span in spans)
    if total > MAX_FRAME_BYTES:
        raise LimitExceeded(f"a compressed frame of more than {MAX_FRAME_BYTES >> 20} MiB")
    data = b"".join(source.read(span.offset, span.length) for span in spans)
    walk = _walk_of(transfer_syntax, pixels)
    try:
        return _in_source(walk(data), spans)
    except (struct.error, IndexError):
        raise StructureInvalid("a compressed frame is cut short") from None


def _walk_of(transfer_syntax: str, pixels: int) -> Callable[[bytes], list[Segment]]:
    if transfer_syntax in _JPEG:
        return _strip_jpeg
    if transfer_syntax in _JP2K:
        return _strip_jp2k
    if transfer_syntax == _RLE:
        return lambda data: _strip_rle(data, pixels)
    raise PlaceUnknown("pixels in a transfer syntax that no rule knows")


def _in_source(segments: list[Segment], spans: Sequence[Span]) -> tuple[Segment, ...]:
    """Copies within the joined fragments become copies within the source, neighbours joined."""
    starts = [0]
    for span in spans:
        starts.append(starts[-1] + span.length)
    out: list[Segment] = []
    for segment in segments:
        if isinstance(segment, Literal):
            out.append(segment)
            continue
        at, end = segment.offset, segment.offset + segment.length
        while at < end:
            which = bisect_right(starts, at) - 1
            upto = min(end, starts[which + 1])
            copy = Copy(spans[which].offset + at - starts[which], upto - at)
            last = out[-1] if out else None
            if isinstance(last, Copy) and last.offset + last.length == copy.offset:
                out[-1] = Copy(last.offset, last.length + copy.length)
            else:
                out.append(copy)
            at = upto
    return tuple(out)


# --- JPEG and JPEG-LS ------------------------------------------------------------------------------------


def _strip_jpeg(data: bytes) -> list[Segment]:
    if data[:2] != b"\xff\xd8":
        raise StructureInvalid("a JPEG frame does not start with SOI")
    out: list[Segment] = [Copy(0, 2)]
    at, framed, scanned = 2, 0, False
    for _ in range(MAX_SEGMENTS):
        at = _skip_fill(data, at)
        marker = data[at + 1]
        if marker == 0xD9:
            if not scanned:
                raise StructureInvalid("a JPEG frame without a scan")
            out.append(Copy(at, 2))
            return out
        (length,) = struct.unpack_from(">H", data, at + 2)
        payload = data[at + 4 : at + 2 + length]
        if length < 2 or len(payload) != length - 2:
            raise StructureInvalid("a JPEG segment is cut short")
        if marker in _FRAMES:
            framed = marker
        out += _jpeg_segment(marker, payload, at)
        at += 2 + length
        if marker == 0xDA:
            scanned = True
            after = (_NEXT_MARKER_LS if framed == 0xF7 else _NEXT_MARKER).search(data, at)
            if not framed or after is None:
                raise StructureInvalid("a JPEG scan without a frame or without an end")
            out.append(Copy(at, after.start() - at))
            at = after.start()
    raise LimitExceeded("a JPEG frame of more segments than a picture has")


def _skip_fill(data: bytes, at: int) -> int:
    """Any number of 0xFF may precede a marker (T.81 B.1.1.2); they are not copied."""
    if data[at] != 0xFF:
        raise StructureInvalid("a JPEG frame holds no marker where one must stand")
    while data[at + 1] == 0xFF:
        at += 1
    return at


def _jpeg_segment(marker: int, payload: bytes, at: int) -> list[Segment]:
    whole = Copy(at, 4 + len(payload))
    if marker == 0xFE or (0xE0 <= marker <= 0xEF):
        return _application(marker, payload, whole)
    if not _sound(marker, payload):
        raise PlaceUnknown(f"a JPEG frame holds a segment {marker:02X} that no rule knows")
    return [whole]


def _application(marker: int, payload: bytes, whole: Copy) -> list[Segment]:
    """Comments and application data: out, but for the three that tell a decoder about colours or resolution."""
    if marker == 0xE0 and payload[:5] == b"JFIF\0" and len(payload) >= 14:
        if len(payload) == 14 and payload[12:] == b"\0\0":
            return [whole]
        return [Literal(b"\xff\xe0\0\x10" + payload[:12] + b"\0\0")]
    if marker == 0xEE and payload[:5] == b"Adobe" and len(payload) >= 12:
        return [whole] if len(payload) == 12 else [Literal(b"\xff\xee\0\x0e" + payload[:12])]
    if marker == 0xE8 and payload[:4] == b"mrfx" and len(payload) == 5:
        return [whole]
    return []


def _sound(marker: int, payload: bytes) -> bool:
    """Is a segment exactly as long as what it claims to hold?"""
    if marker == 0xDB:
        return _ends(payload, lambda at: 129 if payload[at] >> 4 else 65)
    if marker == 0xC4:
        return _ends(payload, lambda at: 17 + sum(payload[at + 1 : at + 17]))
    if marker in _FRAMES:
        return len(payload) >= 6 and len(payload) == 6 + 3 * payload[5]
    if marker == 0xDA:
        return len(payload) >= 1 and len(payload) == 4 + 2 * payload[0]
    if marker == 0xF8:  # JPEG-LS preset parameters; mapping tables would be a palette, which DICOM does not allow
        return len(payload) == 11 and payload[0] == 1
    if marker == 0xCC:
        return len(payload) % 2 == 0 and len(payload) <= 16
    return marker in (0xDD, 0xDC) and len(payload) == 2


def _ends(payload: bytes, length: Callable[[int], int]) -> bool:
    at = 0
    while at < len(payload):
        at += length(at)
    return at == len(payload)


# --- JPEG 2000 -------------------------------------------------------------------------------------------

_JP2_SIGNATURE: Final = b"\0\0\0\x0cjP  \r\n\x87\n"


def _strip_jp2k(data: bytes) -> list[Segment]:
    if data[:12] == _JP2_SIGNATURE:
        return _strip_jp2(data)
    return _strip_codestream(data, 0, len(data))


def _strip_jp2(data: bytes) -> list[Segment]:
    """A JP2 file where a bare codestream should be: signature, type, image header and codestream stay."""
    out: list[Segment] = [Copy(0, 12)]
    for kind, start, body, end in _boxes(data, 12, len(data)):
        if kind == b"ftyp" and (end - body) % 4 == 0 and end - body <= 32:
            out.append(Copy(start, end - start))
        elif kind == b"jp2h":
            children = b"".join(data[a:c] for name, a, b, c in _boxes(data, body, end) if _jp2_child(name, data[b:c]))
            out.append(Literal(struct.pack(">I4s", 8 + len(children), b"jp2h") + children))
        elif kind == b"jp2c":
            stream = _strip_codestream(data, body, end)
            out += [Literal(struct.pack(">I4s", 8 + sum(part.length for part in stream), b"jp2c")), *stream]
            return out
    raise StructureInvalid("a JP2 frame without a codestream")


def _boxes(data: bytes, at: int, end: int) -> list[tuple[bytes, int, int, int]]:
    found: list[tuple[bytes, int, int, int]] = []
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            body = at + 16
        stop = end if length == 0 else at + length
        if stop < body or stop > end or len(found) > MAX_SEGMENTS:
            raise StructureInvalid("a JP2 box leaves its frame")
        found.append((kind, at, body, stop))
        at = stop
    return found


def _jp2_child(kind: bytes, body: bytes) -> bool:
    if kind == b"ihdr":
        return len(body) == 14
    if kind == b"colr":  # the enumerated colour spaces only: a profile may hold text
        return len(body) == 7 and body[0] == 1
    return kind in (b"bpcc", b"pclr", b"cmap", b"cdef") and len(body) <= 4096


def _strip_codestream(data: bytes, start: int, end: int) -> list[Segment]:
    if data[start : start + 4] != b"\xff\x4f\xff\x51":
        raise StructureInvalid("a JPEG 2000 frame does not start with SOC and SIZ")
    header, at = _jp2k_header(data, start + 2, end, stop=0xFF90)
    parts: list[Segment] = []
    changed = False
    for _ in range(MAX_SEGMENTS):
        if data[at : at + 2] != b"\xff\x90":
            break
        tile, at, shorter = _tile_part(data, at, end)
        parts += tile
        changed = changed or shorter
    else:
        raise LimitExceeded("a JPEG 2000 frame of more tile-parts than a picture has")
    if not parts:
        raise StructureInvalid("a JPEG 2000 frame without a tile")
    if changed:  # TLM counts the bytes of tile-parts; it is optional, and now wrong
        header = [part for part in header if not (isinstance(part, Copy) and data[part.offset + 1] == 0x55)]
    return [Copy(start, 2), *header, *parts, Literal(b"\xff\xd9")]


def _tile_part(data: bytes, at: int, end: int) -> tuple[list[Segment], int, bool]:
    length, tile, psot, part, parts = struct.unpack_from(">HHIBB", data, at + 2)
    stop = at + psot if psot else _end_of_codestream(data, at, end)
    if length != 10 or stop > end:
        raise StructureInvalid("a JPEG 2000 tile-part leaves its frame")
    header, body = _jp2k_header(data, at + 12, stop, stop=0xFF93)
    dropped = body - at - 12 - sum(piece.length for piece in header)
    if not dropped:
        return [Copy(at, stop - at)], stop, False
    size = psot - dropped if psot else 0
    start = Literal(b"\xff\x90" + struct.pack(">HHIBB", 10, tile, size, part, parts))
    return [start, *header, Copy(body, stop - body)], stop, True


def _end_of_codestream(data: bytes, at: int, end: int) -> int:
    found = data.rfind(b"\xff\xd9", at, end)
    return found if found >= 0 else end


def _jp2k_header(data: bytes, at: int, end: int, *, stop: int) -> tuple[list[Segment], int]:
    kept: list[Segment] = []
    for _ in range(MAX_SEGMENTS):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == stop:
            return kept, at
        payload = data[at + 4 : at + 2 + length]
        if length < 2 or at + 2 + length > end:
            raise StructureInvalid("a JPEG 2000 segment leaves its frame")
        if marker != 0xFF64:
            if not 0xFF50 <= marker <= 0xFF63 or not _sound_jp2k(marker, payload):
                raise PlaceUnknown(f"a JPEG 2000 header holds a segment {marker:04X} that no rule knows")
            kept.append(Copy(at, 2 + length))
        elif _ENCODERS.fullmatch(payload[2:].rstrip(b"\0")):
            kept.append(Copy(at, 2 + length))
        at += 2 + length
    raise LimitExceeded("a JPEG 2000 header of more segments than a picture has")


def _sound_jp2k(marker: int, payload: bytes) -> bool:
    """Exactly as long as what it claims to hold, where that can be told from the segment alone (T.800 Annex A)."""
    if marker == 0xFF51:  # SIZ
        return len(payload) >= 36 and len(payload) == 36 + 3 * int.from_bytes(payload[34:36], "big")
    if marker == 0xFF52:  # COD; precincts are listed where bit 0 says so
        return len(payload) >= 10 and len(payload) == 10 + (payload[5] + 1 if payload[0] & 1 else 0)
    if marker == 0xFF5C:  # QCD: no, derived or expounded quantisation
        style, rest = payload[0] & 31, len(payload) - 1
        return (style == 0 and rest <= 97) or (style == 1 and rest == 2) or (style == 2 and rest <= 194)
    return True


# --- RLE ------------------------------------------------------------------------------------------------


def _strip_rle(data: bytes, pixels: int) -> list[Segment]:
    count, *offsets = struct.unpack_from("<16I", data, 0)
    used = offsets[:count]
    if not 1 <= count <= 15 or used[0] != 64 or used != sorted(used) or used[-1] > len(data):
        raise StructureInvalid("an RLE frame whose segments do not follow each other")
    ends = [*used[1:], len(data)]
    stops = [_rle_end(data, a, b, pixels) if pixels else b for a, b in zip(used, ends, strict=True)]
    if all(not data[stop:end].strip(b"\0") for stop, end in zip(stops, ends, strict=True)) and not any(offsets[count:]):
        return [Copy(0, stops[-1] if pixels else len(data))]
    body: list[Segment] = []
    starts = []
    at = 64
    for begin, stop in zip(used, stops, strict=True):
        starts.append(at)
        pad = (stop - begin) % 2
        body += [Copy(begin, stop - begin), Literal(b"\0" * pad)]
        at += stop - begin + pad
    return [Literal(struct.pack("<16I", count, *starts, *[0] * (15 - count))), *body]


def _rle_end(data: bytes, at: int, end: int, pixels: int) -> int:
    """Where a segment has unpacked to as many bytes as the frame has pixels (PackBits, PS3.5 G.3.1)."""
    made = 0
    while made < pixels and at < end:
        control = data[at]
        if control < 128:
            made += control + 1
            at += control + 2
        else:
            made += 257 - control if control > 128 else 0
            at += 2 if control > 128 else 1
    if made < pixels or at > end:
        raise StructureInvalid("an RLE segment ends before its pixels do")
    return at
