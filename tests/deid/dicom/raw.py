"""DICOM files written byte by byte, so that tests can say what no library would write."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LONG = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
UNDEFINED = 0xFFFFFFFF


class Pen:
    """Writes elements in one syntax."""

    def __init__(self, syntax: str = EXPLICIT) -> None:
        self.syntax = syntax
        self.explicit, self.order = syntax != IMPLICIT, ">" if syntax == BIG else "<"

    def head(self, tag: int, vr: str, length: int) -> bytes:
        if not self.explicit:
            return struct.pack(self.order + "HHI", tag >> 16, tag & 0xFFFF, length)
        if vr in LONG:
            return struct.pack(self.order + "HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
        return struct.pack(self.order + "HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length & 0xFFFF)

    def element(self, tag: int, vr: str, value: bytes | str | int) -> bytes:
        if isinstance(value, int):
            value = struct.pack(self.order + {"US": "H", "UL": "I"}[vr], value)
        data = value.encode("utf-8") if isinstance(value, str) else value
        data += (b"\0" if vr in ("UI", "OB", "OW", "UN") else b" ") * (len(data) % 2)
        return self.head(tag, vr, len(data)) + data

    def sequence(self, tag: int, items: Sequence[bytes], *, vr: str = "SQ", open_end: bool = False) -> bytes:
        item = lambda tag, length: struct.pack(self.order + "HHI", tag >> 16, tag & 0xFFFF, length)  # noqa: E731
        if open_end:
            body = b"".join(item(0xFFFEE000, UNDEFINED) + one + item(0xFFFEE00D, 0) for one in items)
            return self.head(tag, vr, UNDEFINED) + body + item(0xFFFEE0DD, 0)
        body = b"".join(item(0xFFFEE000, len(one)) + one for one in items)
        return self.head(tag, vr, len(body)) + body


def part10(
    elements: dict[int, bytes],
    *,
    syntax: str = EXPLICIT,
    preamble: bytes = bytes(128),
    sop_class: str = CT,
    tail: bytes = b"",
) -> bytes:
    """A file of already written elements, in ascending order."""
    pen = Pen()
    meta = pen.element(0x00020002, "UI", sop_class) + pen.element(0x00020003, "UI", "1.2.3.4.5.6")
    meta += pen.element(0x00020010, "UI", syntax) + pen.element(0x00020016, "AE", "SOURCEAETITLE")
    head = preamble + b"DICM" + pen.element(0x00020000, "UL", len(meta)) + meta
    return head + b"".join(elements[tag] for tag in sorted(elements)) + tail


def ct(pen: Pen, *, name: str = "Quarrington^Euphemia", number: str = "88413377", rows: int = 8) -> dict[int, bytes]:
    """A small CT slice: what every reader needs, and a patient."""
    texts = {
        0x00080005: ("CS", "ISO_IR 192"), 0x00080008: ("CS", "ORIGINAL\\PRIMARY\\AXIAL"), 0x00080016: ("UI", CT),
        0x00080018: ("UI", "1.2.3.4.5.6"), 0x00080020: ("DA", "20190304"), 0x00080030: ("TM", "101112"),
        0x00080050: ("SH", "A17-553201"), 0x00080060: ("CS", "CT"), 0x00080070: ("LO", "GE MEDICAL SYSTEMS"),
        0x00080090: ("PN", "Thistlewood^Ignatius"), 0x00100010: ("PN", name), 0x00100020: ("LO", number),
        0x00100030: ("DA", "19640307"), 0x00180050: ("DS", "2.5"), 0x00180060: ("DS", "120"),
        0x0020000D: ("UI", "1.2.3.4.5"), 0x0020000E: ("UI", "1.2.3.4.5.1"), 0x00200013: ("IS", "7"),
        0x00200032: ("DS", "0\\0\\17.5"), 0x00200052: ("UI", "1.2.3.4.9"), 0x00280004: ("CS", "MONOCHROME2"),
        0x00280030: ("DS", "0.5\\0.5"),
    }  # fmt: skip
    found = {tag: pen.element(tag, vr, text) for tag, (vr, text) in texts.items()}
    numbers = {
        0x00280002: 1,
        0x00280010: rows,
        0x00280011: 8,
        0x00280100: 16,
        0x00280101: 12,
        0x00280102: 11,
        0x00280103: 0,
    }
    found |= {tag: pen.element(tag, "US", number) for tag, number in numbers.items()}
    found[0x7FE00010] = pen.element(
        0x7FE00010, "OW", bytes(range(128)) * (rows // 8) if rows >= 8 else bytes(16 * rows)
    )
    return found
