"""Write a judged object anew: file meta information, elements in ascending order, pixels as copies (D5).

The dataset keeps its transfer syntax, so that every value that stays is written with the bytes it had and native
pixels need no swapping. Sequences and items get defined lengths. What is long is a copy segment, all else a literal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from mover.decide.dicom.desk import Out
from mover.deid.pixels import Span, strip_frame
from mover.errors import StructureInvalid
from mover.model.dicom import Element
from mover.model.recipe import Copy, Literal, Segment
from mover.model.source import ByteSource

# This program's own; PS3.7 D.3.3.2 wants it to name who wrote the file.
IMPLEMENTATION: Final = "2.25.190146791043182537943292660411796677040"
VERSION_NAME: Final = "MOVER"
_LONG: Final = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_LIMIT_16: Final = 0xFFFE
_LIMIT_32: Final = 0xFFFFFFFE


class Writer:
    """Encodes elements in one syntax. `inflated` is set where the dataset's positions are not the file's: nothing
    can then be copied, and long values become literals."""

    def __init__(self, source: ByteSource, *, explicit: bool, big: bool, inflated: bool) -> None:
        self._source, self.explicit, self._inflated = source, explicit, inflated
        order = ">" if big else "<"
        self._short = struct.Struct(order + "HH2sH").pack
        self._long = struct.Struct(order + "HH2sHI").pack
        self._implicit = struct.Struct(order + "HHI").pack

    def head(self, tag: int, vr: str, length: int) -> bytes:
        if length > _LIMIT_32:
            raise StructureInvalid("a value longer than DICOM can say")
        if not self.explicit:
            return self._implicit(tag >> 16, tag & 0xFFFF, length)
        if vr in _LONG:
            return self._long(tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
        if length > _LIMIT_16:  # PS3.5 6.2.2: what does not fit a short VR's length is written as UN
            return self._long(tag >> 16, tag & 0xFFFF, b"UN", 0, length)
        return self._short(tag >> 16, tag & 0xFFFF, vr.encode(), length)

    def element(self, out: Out) -> list[Segment]:
        """One element, whole."""
        value = out.value
        if isinstance(value, bytes):
            pad = b"\0" if len(value) % 2 else b""
            return [Literal(self.head(out.tag, out.vr, len(value) + len(pad)) + value + pad)]
        if isinstance(value, Element):
            body = self.copy(value.value_at, value.length)
            return [Literal(self.head(out.tag, out.vr, value.length + value.length % 2)), *body, *_pad(value.length)]
        items: list[Segment] = []
        for item in value:
            inside = [segment for one in item for segment in self.element(one)]
            items += [Literal(self._implicit(0xFFFE, 0xE000, sum(one.length for one in inside))), *inside]
        length = sum(one.length for one in items)
        return _merged([Literal(self.head(out.tag, "SQ", length)), *items])

    def copy(self, at: int, length: int) -> list[Segment]:
        if not self._inflated:
            return [Copy(at, length)] if length else []
        return [Literal(self._source.read(at, length))] if length else []

    def placed(self, segment: Segment) -> list[Segment]:
        """A segment over the dataset's own positions, as one over the file's."""
        return self.copy(segment.offset, segment.length) if isinstance(segment, Copy) else [segment]

    def frames(self, tag: int, frames: Iterable[tuple[Span, ...]], *, syntax: str, pixels: int) -> list[Segment]:
        """Encapsulated pixels, one fragment a frame: comments and application data left out, offsets told anew
        in the basic offset table where they fit, else in the extended one (PS3.5 A.4)."""
        bodies: list[list[Segment]] = []
        for spans in frames:
            stripped = strip_frame(self._source, spans, transfer_syntax=syntax, pixels=pixels)
            length = sum(one.length for one in stripped)
            bodies.append([*stripped, *_pad(length)])
        lengths = [sum(one.length for one in one_frame) for one_frame in bodies]
        if any(length > _LIMIT_32 for length in lengths):
            raise StructureInvalid("a frame longer than a fragment can be")
        starts, at = [], 0
        for length in lengths:
            starts.append(at)
            at += 8 + length
        if not starts or starts[-1] <= _LIMIT_32:
            segments: list[Segment] = []
            table = struct.pack(f"<{len(starts)}I", *starts)
        else:
            tables = struct.pack(f"<{len(starts)}Q", *starts), struct.pack(f"<{len(lengths)}Q", *lengths)
            heads = (self._long(0x7FE0, number, b"OV", 0, 8 * len(starts)) for number in (1, 2))
            segments = [Literal(head + one) for head, one in zip(heads, tables, strict=True)]
            table = b""
        head = self._long(tag >> 16, tag & 0xFFFF, b"OB", 0, 0xFFFFFFFF)
        segments.append(Literal(head + struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table))
        for stripped_frame, length in zip(bodies, lengths, strict=True):
            segments += [Literal(struct.pack("<HHI", 0xFFFE, 0xE000, length)), *stripped_frame]
        return [*segments, Literal(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))]


def _pad(length: int) -> list[Segment]:
    return [Literal(b"\0")] if length % 2 else []


def _merged(segments: list[Segment]) -> list[Segment]:
    """Neighbouring literals as one."""
    merged: list[Segment] = []
    pending: list[bytes] = []
    for segment in segments:
        if isinstance(segment, Literal):
            pending.append(segment.data)
            continue
        if pending:
            merged.append(Literal(b"".join(pending)))
            pending = []
        merged.append(segment)
    return [*merged, Literal(b"".join(pending))] if pending else merged


def file_head(sop_class: str, instance: str, syntax: str) -> bytes:
    """A preamble of zeros and file meta information that says no more than it must (PS3.10 7.1)."""
    body = b"".join(
        (
            struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1",
            _meta(2, "UI", sop_class),
            _meta(3, "UI", instance),
            _meta(0x10, "UI", syntax),
            _meta(0x12, "UI", IMPLEMENTATION),
            _meta(0x13, "SH", VERSION_NAME),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def _meta(number: int, vr: str, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, vr.encode(), len(value)) + value
