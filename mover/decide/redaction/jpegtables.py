"""JPEGTables (TIFF Technical Note 2): an abbreviated stream of tables that every tile of a page shares.

Tables are what tiles need and are kept; comments, application segments and whatever stands behind the end are taken
out. A table longer than what it says it holds is a pocket, and no tile can be decoded without the rest: refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mover.errors import PlaceUnknown

_SOI: Final = b"\xff\xd8"
_EOI: Final = b"\xff\xd9"
_QUANTISATION, _HUFFMAN, _RESTART, _JFIF, _ADOBE = 0xDB, 0xC4, 0xDD, 0xE0, 0xEE


def clean_tables(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """The stream without what may not pass, and what was taken out. Raises PlaceUnknown for what is none."""
    kept, dropped = [_SOI], []
    if data[:2] != _SOI:
        raise PlaceUnknown("the JPEG tables do not start with SOI")
    at = 2
    while data[at : at + 2] != _EOI:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 1] != b"\xff" or length < 2 or at + 2 + length > len(data) - 2:
            raise PlaceUnknown("the JPEG tables hold no marker where one must stand")
        marker, payload = data[at + 1], data[at + 4 : at + 2 + length]
        if _is_table(marker, payload):
            kept.append(data[at : at + 2 + length])
        else:
            dropped.append(payload)
        at += 2 + length
    rest = data[at + 2 :]
    return b"".join([*kept, _EOI]), (*dropped, *([rest] if rest.strip(b"\0") else []))


def _is_table(marker: int, payload: bytes) -> bool:
    if marker == _QUANTISATION:
        lengths = _quantisation(payload)
    elif marker == _HUFFMAN:
        lengths = _huffman(payload)
    elif marker == _RESTART:
        return len(payload) == 2
    elif marker == _JFIF:
        return len(payload) == 14 and payload[:5] == b"JFIF\0" and payload[12:] == b"\0\0"
    else:  # Adobe's segment tells how colours are coded
        return marker == _ADOBE and len(payload) == 12 and payload[:5] == b"Adobe" and payload[11] <= 2
    if sum(lengths) != len(payload):
        raise PlaceUnknown("a JPEG table is longer than what it holds")
    return True


def _quantisation(payload: bytes) -> Iterator[int]:
    at = 0
    while at < len(payload):
        length = 129 if payload[at] >> 4 else 65
        yield length
        at += length


def _huffman(payload: bytes) -> Iterator[int]:
    at = 0
    while at < len(payload):
        length = 17 + sum(payload[at + 1 : at + 17])
        yield length
        at += length
