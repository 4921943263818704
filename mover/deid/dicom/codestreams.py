"""What a compressed frame is made of, read a second time (T.81, T.87, T.800, PS3.5 annex G).

The writer leaves comments and application data out of frames and copies the rest (`deid.pixels.frames`). Here, by
another walk and other lists, a frame is taken apart into its essence: everything that a decoder needs, in order. The
output's essence must be the source's, and what is beside it must be nothing, or one of a few forms that say nothing.
Whatever this walk does not understand is not proved.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from mover.errors import RedactionUnproven

_PREFIX: Final = "1.2.840.10008.1.2.4."
_JPEG: Final = frozenset(_PREFIX + last for last in ("50", "51", "57", "70", "80", "81"))
_JPEG2000: Final = frozenset(_PREFIX + last for last in ("90", "91", "92", "93", "201", "202", "203"))
_RLE: Final = "1.2.840.10008.1.2.5"
_LS: Final = (_PREFIX + "80", _PREFIX + "81")
SEGMENTS: Final = 200_000

# After an entropy-coded byte FF stands 00 or a restart marker; in JPEG-LS any byte below 80.
_SCAN_ENDS: Final = re.compile(rb"\xff+(?![\x00\xff\xd0-\xd7])", re.S)
_SCAN_ENDS_LS: Final = re.compile(rb"\xff(?=[\x80-\xcf\xd8-\xfe])")
_JFIF: Final = re.compile(rb"JFIF\0.{7}\0\0", re.S)
_ADOBE: Final = re.compile(rb"Adobe.{7}", re.S)
_MAKERS: Final = re.compile(
    rb"Kakadu-v?[0-9.]{1,16}|Created by (GDCM/)?OpenJPEG version [0-9.]{1,12}|Creator: JasPer Version [0-9.]{1,16}"
    rb"|Kdu-Layer-Info: log_2\{Delta-D[^\n]{1,80}(\n[-+0-9., e]{1,40})*\n?"
)


class Frame(Struct, frozen=True):
    """The essence as pieces in order, and what stands beside it and says something."""

    essence: tuple[bytes, ...]
    remarks: tuple[bytes, ...]
    after: bytes


def check_frame(made: bytes, before: bytes, *, syntax: str, pixels: int) -> None:
    """Raises RedactionUnproven where a frame that was written is not the source's, or says more than a picture."""
    try:
        if syntax == _RLE:
            _check_rle(made, before, pixels)
            return
        new = _taken_apart(made, syntax)
        if new.remarks or new.after.strip(b"\0") or len(new.after) > 1:
            raise RedactionUnproven("a compressed frame that says more than its picture")
        if made != before and new.essence != _taken_apart(before, syntax).essence:
            raise RedactionUnproven("a compressed frame that is not the source's")
    except (struct.error, IndexError) as error:
        raise RedactionUnproven("a compressed frame that the second walk cannot follow") from error


def _taken_apart(data: bytes, syntax: str) -> Frame:
    if syntax in _JPEG:
        return _jpeg(data, ls=syntax in _LS)
    if syntax in _JPEG2000:
        return _jpeg2000(data)
    raise RedactionUnproven("a compressed frame of a kind that cannot be proved")


def _jpeg(data: bytes, *, ls: bool) -> Frame:
    if data[:2] != b"\xff\xd8":
        raise RedactionUnproven("a frame that is no JPEG")
    essence: list[bytes] = []
    remarks: list[bytes] = []
    at = 2
    for _ in range(SEGMENTS):
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if data[at] != 0xFF:
            raise RedactionUnproven("bytes of no segment in a JPEG frame")
        marker = data[at + 1]
        if marker == 0xD9:
            return Frame(tuple(essence), tuple(remarks), data[at + 2 :])
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if end > len(data):
            raise RedactionUnproven("a JPEG frame that is cut short")
        payload = data[at + 4 : end]
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:
            if _is_silent(marker, payload):
                essence += [] if marker == 0xE0 else [data[at:end]]
            else:
                remarks.append(payload)
                # a longer one keeps its first twelve bytes: they tell of the colours
                told = marker == 0xEE and _ADOBE.match(payload) is not None
                essence += [b"\xff\xee\0\x0e" + payload[:12]] if told else []
        else:
            essence.append(data[at:end])
        at = end
        if marker == 0xDA:
            found = (_SCAN_ENDS_LS if ls else _SCAN_ENDS).search(data, at)
            if found is None:
                raise RedactionUnproven("a JPEG scan without an end")
            essence.append(data[at : found.start()].rstrip(b"\xff"))
            at = found.start()
    raise RedactionUnproven("a JPEG frame of more segments than a picture has")


def _is_silent(marker: int, payload: bytes) -> bool:
    """Resolution without a thumbnail, how colours are to be read, and a colour flag of old medical JPEG."""
    if marker == 0xE0:
        return _JFIF.fullmatch(payload) is not None
    if marker == 0xEE:
        return _ADOBE.fullmatch(payload) is not None
    return marker == 0xE8 and payload[:4] == b"mrfx" and len(payload) == 5


# --- JPEG 2000 -------------------------------------------------------------------------------------------


def _jpeg2000(data: bytes) -> Frame:
    if data[4:8] != b"jP  ":
        return _codestream(data)
    essence: list[bytes] = []
    remarks: list[bytes] = []
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"jp2c":
            stream = _codestream(data[start:end])
            return Frame((*essence, *stream.essence), (*remarks, *stream.remarks), stream.after + data[end:])
        if kind == b"jp2h":
            for child, low, high in _boxes(data, start, end):
                silent = child in (b"ihdr", b"bpcc", b"pclr", b"cmap", b"cdef") or (child, high - low) == (b"colr", 7)
                (essence if silent else remarks).append(child + data[low:high])
        elif kind not in (b"jP  ", b"ftyp") or end - start > 32:
            remarks.append(data[start:end])
    raise RedactionUnproven("a JP2 frame without a codestream")


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(SEGMENTS):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:
            length, start = struct.unpack_from(">Q", data, start)[0], start + 8
        stop = at + length if length else end
        if not start <= stop <= end:
            raise RedactionUnproven("a JP2 box that leaves its frame")
        yield kind, start, stop
        at = stop


def _codestream(data: bytes) -> Frame:
    if data[:2] != b"\xff\x4f":
        raise RedactionUnproven("a frame that is no JPEG 2000 codestream")
    essence: list[bytes] = []
    remarks: list[bytes] = []
    at = _header(data, 2, len(data), b"\xff\x90", essence, remarks)
    for _ in range(SEGMENTS):
        if data[at : at + 2] != b"\xff\x90":
            after = data[at:]
            return Frame(tuple(essence), tuple(remarks), after.removeprefix(b"\xff\xd9"))
        tile, length, part = struct.unpack_from(">HI2s", data, at + 4)
        stop = at + length if length else data.rfind(b"\xff\xd9", at)
        stop = len(data) if stop < 0 else stop
        if stop > len(data):
            raise RedactionUnproven("a tile-part that leaves its frame")
        essence.append(struct.pack(">H", tile) + part)
        body = _header(data, at + 12, stop, b"\xff\x93", essence, remarks)
        essence.append(data[body:stop])
        at = stop
    raise RedactionUnproven("a JPEG 2000 frame of more tile-parts than a picture has")


def _header(data: bytes, at: int, end: int, stop: bytes, essence: list[bytes], remarks: list[bytes]) -> int:
    """Where `stop` stands. Comments are remarks unless they only name a known program; lengths of tile-parts (TLM)
    follow from the rest."""
    for _ in range(SEGMENTS):
        marker = data[at : at + 2]
        if marker == stop:
            return at
        upto = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if marker[:1] != b"\xff" or upto > end:
            raise RedactionUnproven("a JPEG 2000 header that is none")
        if marker == b"\xff\x64":
            if not _MAKERS.fullmatch(data[at + 6 : upto].rstrip(b"\0")):
                remarks.append(data[at + 4 : upto])
        elif marker != b"\xff\x55":
            essence.append(data[at:upto])
        at = upto
    raise RedactionUnproven("a JPEG 2000 header of more segments than a picture has")


# --- RLE -------------------------------------------------------------------------------------------------


def _check_rle(made: bytes, before: bytes, pixels: int) -> None:
    new, old = list(_rle_parts(made)), list(_rle_parts(before))
    if len(new) != len(old) or any(made[4 + 4 * len(new) : 64]):
        raise RedactionUnproven("an RLE frame that is not the source's")
    for told, known in zip(new, old, strict=True):
        end = _unpacked_end(told, pixels)
        if told[:end] != known[:end] or told[end:].strip(b"\0"):
            raise RedactionUnproven("an RLE frame that is not the source's, or says more than its picture")


def _rle_parts(data: bytes) -> Iterator[bytes]:
    count = struct.unpack_from("<I", data)[0]
    if not 1 <= count <= 15:
        raise RedactionUnproven("an RLE frame without segments")
    starts = [*struct.unpack_from(f"<{count}I", data, 4), len(data)]
    if starts[0] != 64 or starts != sorted(starts):
        raise RedactionUnproven("an RLE frame whose segments do not follow each other")
    return (data[low:high] for low, high in zip(starts, starts[1:], strict=False))


def _unpacked_end(data: bytes, pixels: int) -> int:
    """How many bytes of a segment make `pixels` of them (PackBits, G.3.1)."""
    at = left = 0
    left = pixels
    while left > 0:
        control = data[at]
        run = control < 128
        left -= control + 1 if run else 257 - control if control > 128 else 0
        at += control + 2 if run else 2 if control > 128 else 1
    return at
