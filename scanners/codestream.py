"""Walk JPEG and JPEG 2000 codestreams for places where text can hide.

Only markers are looked at; nothing is decoded. A compressed tile is copied byte for byte into the output, so
every marker segment outside the pixels must be one we know (house rule: unknown means quarantine):

- JPEG (ITU T.81): SOI, quantisation and Huffman tables of exactly their own length, SOF0/1/2, DRI, SOS, JFIF
  without thumbnail, Adobe, and comments of known writers. Nothing after EOI.
- JPEG 2000 (ITU T.800): the main and tile-part headers, comments of known encoders, nothing after EOC.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from msgspec import Struct

from mover.errors import PlaceUnknown, StructureInvalid

# A tile's header before its scan; a level of a Hamamatsu slide keeps well below this too.
HEADER_BYTES: Final = 64 << 10

JPEG_END: Final = b"\xff\xd9"
JPEG_END_PADDED: Final = b"\xff\xd9\0"

_JPEG_COMMENTS: Final = re.compile(
    rb"Hamamatsu NanoZoomer Digital Pathology\0?"
    rb"|(Hamamatsu|Intel\(R\)) JPEG Library, version \[?\d{1,2}(\.\d{1,3}){1,3}\]?\0?"
    rb"|LEAD Technologies Inc\. V\d\.\d\d\0?"
    rb"|CREATOR: gd-jpeg v1\.\d \(using IJG JPEG v\d{2}\)(, (default quality|quality = \d{1,3}))?\n?\0?"
    rb"|Lavc\d{2}\.\d{1,3}\.\d{3}\0?"
    rb"|(Created|Written) (with|by) (GIMP|libjpeg(-turbo)?|(Image|Graphics)Magick)( \d{1,2}(\.\d{1,2}){0,2})?\0?"
    rb"|(libjpeg-turbo|mozjpeg)( version)? \d{1,2}(\.\d{1,2}){0,2}\0?"
    rb"|\0*"
)
_JP2K_COMMENTS: Final = re.compile(
    rb"Kakadu-v?\d{1,2}(\.\d{1,2}){0,3}"
    rb"|Kdu-Layer-Info: log_2\{Delta-D\((MSE|squared-error)\)/"
    rb"(\[2\^16\*Delta-L\(bytes\)\]|Delta-L\(bytes\))\}, L\(bytes\)"
    rb"(\n *-?\d{1,3}\.\d, *\d\.\de[+-]\d{2,3}){0,64}\n?"
    rb"|Created by OpenJPEG version \d{1,2}(\.\d{1,3}){1,2}"
    rb"|Creator: JasPer Version \d(\.\d{3}){1,2}"
)
_FRAME: Final = frozenset({0xC0, 0xC1, 0xC2})
# what ends a run of entropy-coded bytes: no stuffed zero, no restart, no fill byte
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JFIF: Final = re.compile(rb"JFIF\0[\0-\2].[\0-\2].{4}\0\0", re.DOTALL)
_ADOBE: Final = re.compile(rb"Adobe[\0\1].{5}[\0-\2]", re.DOTALL)


class JpegHeader(Struct, frozen=True):
    """What precedes the scan. `size_bytes` counts from SOI to the first entropy-coded byte."""

    size_bytes: int
    width: int
    height: int
    restart_interval: int
    mcu_width: int
    mcu_height: int

    @property
    def mcus_across(self) -> int:
        return -(-self.width // self.mcu_width) if self.mcu_width else 0


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Walk from SOI to the end of the first SOS. Raises PlaceUnknown for a marker segment that can hold text
    and is not a known writer's, StructureInvalid for an impossible header."""
    if data[:2] != b"\xff\xd8":
        raise StructureInvalid("a compressed tile does not start with SOI")
    at, frame, interval = 2, b"", 0
    while True:
        marker, payload, at = _segment(data, at)
        _check_segment(marker, payload)
        if marker in _FRAME:
            frame = payload
        elif marker == 0xDD:
            (interval,) = struct.unpack(">H", payload)
        elif marker == 0xDA:
            break
    if not frame:
        raise StructureInvalid("a JPEG scan without a frame")
    height, width = struct.unpack_from(">HH", frame, 1)
    across = max((frame[7 + 3 * i] >> 4 for i in range(frame[5])), default=1)
    down = max((frame[7 + 3 * i] & 15 for i in range(frame[5])), default=1)
    if not (across and down):
        raise StructureInvalid("a JPEG frame with a sampling factor of zero")
    return JpegHeader(at, width, height, interval, 8 * across, 8 * down)


def foreign_segments(data: bytes) -> list[tuple[int, int]]:
    """Where, in a tile's header, stand comments and application data of no known writer: (offset, length) of what they
    say. Nothing that readers of pixels go by is among them: JFIF and Adobe segments tell how colours are stored."""
    if data[:2] != b"\xff\xd8":
        raise StructureInvalid("a compressed tile does not start with SOI")
    found, at, marker = [], 2, 0
    while marker != 0xDA:
        begin = at + 4
        marker, payload, at = _segment(data, at)
        named = marker == 0xFE or (0xE0 <= marker <= 0xEF and not payload.startswith((b"JFIF\0", b"Adobe")))
        if named and any(payload) and not (marker == 0xFE and _JPEG_COMMENTS.fullmatch(payload)):
            found.append((begin, len(payload)))
    return found


def foreign_jp2k_comments(data: bytes) -> list[tuple[int, int]]:
    """Where, in a codestream's main header, stand comments of no known encoder: (offset, length) of their text. Those
    of tile-parts are not looked for: `check_jp2k` refuses them."""
    if data[:4] != b"\xff\x4f\xff\x51":
        raise StructureInvalid("a JPEG 2000 tile does not start with SOC and SIZ")
    found, at = [], 2
    while at + 4 <= len(data) and data[at : at + 2] != b"\xff\x90":
        marker, length = struct.unpack_from(">HH", data, at)
        text = data[at + 6 : at + 2 + length]
        if marker == 0xFF64 and any(text) and not _JP2K_COMMENTS.fullmatch(text.rstrip(b"\0")):
            found.append((at + 6, length - 4))
        at += 2 + max(2, length)
    return found


def check_jpeg_end(tail: bytes) -> None:
    """The last bytes of a stream. Some writers pad with a single zero; more than that is a hiding place."""
    if not tail.endswith((JPEG_END, JPEG_END_PADDED)):
        raise PlaceUnknown("bytes follow the end of a compressed tile")


def check_jpeg_scan(data: bytes) -> None:
    """Entropy-coded bytes: 0xFF is followed by 0, a restart marker, another scan's tables, or the end."""
    at = 0
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        at = found.start()
        marker = data[at + 1]
        if marker == 0xD9:
            if len(data) - at > 3:
                raise PlaceUnknown("bytes follow the end of a compressed tile")
            return
        if marker not in (0xC4, 0xDB, 0xDA, 0xDD):
            raise PlaceUnknown(f"marker {marker:02X} stands inside a JPEG scan")
        _, payload, after = _segment(data, at)
        _check_segment(marker, payload)
        at = after


def check_jp2k(data: bytes, *, total: int) -> bool:
    """A JPEG 2000 codestream of `total` bytes of which `data` is the beginning: headers by name, tile-parts by
    their own length. True when the walk reached the end of the stream; False asks for more of it."""
    if data[:4] != b"\xff\x4f\xff\x51":
        raise StructureInvalid("a JPEG 2000 tile does not start with SOC and SIZ")
    at = _walk_jp2k_header(data, 2, stop=0xFF90)
    while data[at : at + 2] == b"\xff\x90":
        if at + 12 > len(data):
            raise StructureInvalid("a JPEG 2000 tile-part is cut short")
        (length,) = struct.unpack_from(">I", data, at + 6)
        body = _walk_jp2k_header(data, at + 12, stop=0xFF93)
        end = at + length if length else total - 2
        if end < body or end > total:
            raise StructureInvalid("a JPEG 2000 tile-part leaves its tile")
        at = end
    if total - at <= 3:
        return True
    if len(data) == total:
        raise PlaceUnknown("bytes follow the end of a JPEG 2000 tile")
    return False


def check_jp2k_end(tail: bytes) -> None:
    if not tail.endswith((b"\xff\xd9", b"\xff\xd9\0")):
        raise PlaceUnknown("a JPEG 2000 tile does not end with EOC")


def _walk_jp2k_header(data: bytes, at: int, *, stop: int) -> int:
    while True:
        if at + 4 > len(data):
            raise StructureInvalid("a JPEG 2000 header is cut short")
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == stop:
            return at
        if marker == 0xFF64:
            text = data[at + 6 : at + 2 + length]
            if any(text) and not _JP2K_COMMENTS.fullmatch(text.rstrip(b"\0")):
                raise PlaceUnknown("a JPEG 2000 tile carries a comment of no known writer")
        elif not 0xFF50 <= marker <= 0xFF63:
            raise PlaceUnknown(f"a JPEG 2000 header holds marker {marker:04X}")
        if length < 2:
            raise StructureInvalid("a JPEG 2000 segment without length")
        at += 2 + length


def _segment(data: bytes, at: int) -> tuple[int, bytes, int]:
    if at + 4 > len(data):
        raise StructureInvalid("a JPEG header is cut short")
    prefix, marker, length = struct.unpack_from(">BBH", data, at)
    if prefix != 0xFF or length < 2 or at + 2 + length > len(data):
        raise StructureInvalid("a JPEG header holds no marker where one must stand")
    return marker, data[at + 4 : at + 2 + length], at + 2 + length


def _check_segment(marker: int, payload: bytes) -> None:
    """Each segment must be exactly as long as what it claims to hold: a longer one is a pocket."""
    sound = True
    if 0xE0 <= marker <= 0xEF and not any(payload):
        return  # zeros say nothing
    if marker == 0xE0:
        sound = _JFIF.fullmatch(payload) is not None
    elif marker == 0xEE:
        sound = _ADOBE.fullmatch(payload) is not None
    elif marker == 0xFE:
        sound = _JPEG_COMMENTS.fullmatch(payload) is not None
    elif marker == 0xDB:
        sound = _whole_quantisation_tables(payload)
    elif marker == 0xC4:
        sound = _whole_huffman_tables(payload)
    elif marker in _FRAME:
        sound = len(payload) >= 6 and len(payload) == 6 + 3 * payload[5]
    elif marker == 0xDA:
        sound = len(payload) >= 1 and len(payload) == 4 + 2 * payload[0]
    elif marker == 0xDD:
        sound = len(payload) == 2
    else:
        sound = False
    if not sound:
        raise PlaceUnknown(f"a JPEG header holds a segment {marker:02X} of no known writer")


def _whole_quantisation_tables(payload: bytes) -> bool:
    at = 0
    while at < len(payload):
        if payload[at] >> 4 > 1 or payload[at] & 15 > 3:
            return False
        at += 129 if payload[at] >> 4 else 65
    return at == len(payload)


def _whole_huffman_tables(payload: bytes) -> bool:
    at = 0
    while at < len(payload):
        if payload[at] >> 4 > 1 or payload[at] & 15 > 3 or at + 17 > len(payload):
            return False
        at += 17 + sum(payload[at + 1 : at + 17])
    return at == len(payload)
