"""Walk over a DICOM file's elements without reading its pixels (PS3.5 section 7, PS3.10 section 7).

Our own walk, because it has to say where every value lies, so that pixels can be copied by the kernel and never pass
through memory, and because it is run for millions of objects. It understands explicit and implicit VR in both byte
orders, deflated datasets (inflated within a bound), sequences and items of defined and undefined length, also inside
UN (CP-246), encapsulated pixel data, and files without preamble or file meta information. Read `read_object` first.

What lies behind the pixels is not looked at: nothing there is ever kept. Sequences of a defined length are stepped
over; `open_items` looks into one when somebody wants to keep some of it. Everything that contradicts itself or ends
too early is StructureInvalid; every loop moves forward through a file of known size, and every bound has a name.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from mover.errors import StructureInvalid
from mover.model.dicom import PIXEL_TAGS, Element, Items, ObjectScan, PixelPlace
from mover.model.source import ByteSource, MemorySource

ELEMENTS: Final = 1_500_000
FRAGMENTS: Final = 2_000_000
DEPTH: Final = 24
INLINE_BYTES: Final = 64 << 10  # longer values stay where they are
SEQUENCE_BYTES: Final = 256 << 20
INFLATED_BYTES: Final = 256 << 20
_FIRST_READ: Final = 16 << 10
_READ: Final = 1 << 20

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"

_SHORT: Final = {vr.encode(): vr for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()}
_LONG: Final = {vr.encode(): vr for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PADDING: Final = 0xFFFCFFFC


class _End(Exception):
    """The bytes do not go on as elements do: the tag that seems to stand there, and whether its VR is one."""


class Syntax:
    """How elements are written."""

    def __init__(self, *, explicit: bool, big: bool) -> None:
        self.explicit, self.big = explicit, big
        order = ">" if big else "<"
        self.head = struct.Struct(order + "HH2sH").unpack_from
        self.implicit_head = struct.Struct(order + "HHI").unpack_from
        self.long = struct.Struct(order + "I").unpack_from


_EXPLICIT: Final = Syntax(explicit=True, big=False)
_EXPLICIT_BIG: Final = Syntax(explicit=True, big=True)
_IMPLICIT: Final = Syntax(explicit=False, big=False)


def syntax_of(scan: ObjectScan) -> Syntax:
    return _IMPLICIT if not scan.explicit else _EXPLICIT_BIG if scan.big_endian else _EXPLICIT


def read_object(source: ByteSource) -> ObjectScan:
    """The whole structure of a file. Raises StructureInvalid for what is truncated, loops or contradicts itself."""
    walker = Walker(source)
    preamble, at = _preamble(walker)
    meta, at = walker.meta(at)
    uid = next((_text(one.raw) for one in meta if one.tag == 0x00020010), "")
    if uid == DEFLATED:
        return _inflated(walker, at, meta, preamble)
    syntax = _syntax(walker, at, uid)
    elements, pixels, end = walker.dataset(at, syntax)
    return ObjectScan(
        syntax=uid or (BIG_ENDIAN if syntax.big else EXPLICIT if syntax.explicit else IMPLICIT),
        explicit=syntax.explicit,
        big_endian=syntax.big,
        meta=meta,
        elements=elements,
        pixels=pixels,
        size_bytes=source.size_bytes,
        trailing_bytes=source.size_bytes - end,
        preamble=preamble,
    )


def open_items(source: ByteSource, element: Element, syntax: Syntax, *, budget: int = ELEMENTS) -> Items:
    """The items of a sequence that the walk stepped over. A sequence inside UN is implicit little endian."""
    if element.items is not None:
        return element.items
    if element.length > SEQUENCE_BYTES:
        raise StructureInvalid(f"a sequence of more than {SEQUENCE_BYTES} bytes")
    if element.raw is not None:
        walker = Walker(MemorySource(element.raw), budget=budget)
        at = 0
    else:
        walker = Walker(source, budget=budget)
        at = element.value_at
    inner = _IMPLICIT if element.vr == "UN" else syntax
    items, _ = walker.items(at, at + element.length, inner, depth=1, defined=True)
    return items


def _text(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0 ").decode("latin-1")


def _preamble(walker: Walker) -> tuple[bytes, int]:
    """PS3.10 7.1, or none: some writers leave preamble and prefix out."""
    head = walker.peek(0, 132)
    if head[128:132] == b"DICM":
        return head[:128], 132
    return (b"", 4) if head[:4] == b"DICM" else (b"", 0)


def _syntax(walker: Walker, at: int, uid: str) -> Syntax:
    """What the transfer syntax says, corrected by what the first element looks like: some writers lie."""
    head = walker.peek(at, 8)
    spelled = head[4:6] in _SHORT or head[4:6] in _LONG
    if len(head) == 8 and not spelled:
        return _IMPLICIT
    if uid == BIG_ENDIAN or (not uid and head[:1] == b"\0" and head[1:2] != b"\0"):
        return _EXPLICIT_BIG
    if uid == IMPLICIT and not spelled:
        return _IMPLICIT
    return _EXPLICIT


def _inflated(walker: Walker, at: int, meta: tuple[Element, ...], preamble: bytes) -> ObjectScan:
    """PS3.5 A.5: everything behind the file meta information is one raw deflate stream."""
    size = walker.size
    if size - at > INFLATED_BYTES:
        raise StructureInvalid("a deflated dataset that is larger than what is inflated")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(walker.source.read(at, size - at), INFLATED_BYTES)
    except zlib.error as error:
        raise StructureInvalid("a deflated dataset that does not inflate") from error
    if not inflater.eof or inflater.unconsumed_tail:
        raise StructureInvalid("a deflated dataset that does not end, or is larger than what is inflated")
    inner = Walker(MemorySource(data))
    elements, pixels, end = inner.dataset(0, _EXPLICIT)
    trailing = len(inflater.unused_data) + len(data) - end
    return ObjectScan(
        EXPLICIT, True, False, meta, elements, pixels, size, trailing, preamble, inflated=data
    )  # fmt: skip


class Walker:
    """A window over the source that moves forward, and the elements found in it."""

    def __init__(self, source: ByteSource, *, budget: int = ELEMENTS) -> None:
        self.source = source
        self.size = source.size_bytes
        self.left = budget
        self._base = 0
        self._window = source.read(0, min(_FIRST_READ, self.size))

    def peek(self, at: int, length: int) -> bytes:
        """Up to `length` bytes at `at`, fewer only at the end of the file."""
        index = at - self._base
        if index < 0 or index + length > len(self._window):
            self._move(at, length)
            index = 0
        return self._window[index : index + length]

    def _move(self, at: int, length: int) -> None:
        if at > self.size:
            raise StructureInvalid("an element begins behind the end of the file")
        self._base = at
        self._window = self.source.read(at, min(max(length, _READ), self.size - at))

    def meta(self, at: int) -> tuple[tuple[Element, ...], int]:
        """Group 2, which is explicit little endian whatever follows; its own length is not believed."""
        found = []
        while self.peek(at, 2) == b"\x02\0":
            try:
                element = self._element(at, self.size, _EXPLICIT, 0)
            except _End:
                raise StructureInvalid("file meta information that is cut short") from None
            if element.length > INLINE_BYTES or element.items is not None:
                raise StructureInvalid("file meta information that is no list of short values")
            found.append(element)
            at = element.value_at + element.length
        return tuple(found), at

    def dataset(self, at: int, syntax: Syntax) -> tuple[tuple[Element, ...], PixelPlace | None, int]:
        """All elements up to the pixels, or to where elements end."""
        found: list[Element] = []
        last = 0
        while at < self.size:
            if syntax.explicit:
                at = self._run(at, syntax, found)
                last = max(last, found[-1].tag) if found else 0
            start = at
            try:
                element = self._element(at, self.size, syntax, 0)
            except _End as end:
                if end.args[0] in range(last + 1, 0x7FE00011) and _is_standard(end.args[0], spelled=end.args[1]):
                    raise StructureInvalid("the dataset ends in the middle of an element") from None
                return tuple(found), None, start
            if element.tag in PIXEL_TAGS:
                pixels, at = self._pixels(element, syntax)
                return tuple(found), pixels, at
            if element.tag < last and (element.tag >> 16 in (0, 2) or element.tag >> 16 > 0x7FE0):
                return tuple(found), None, start
            found.append(element)
            last = max(last, element.tag)
            at = self._after
        return tuple(found), None, at

    def _run(self, at: int, syntax: Syntax, found: list[Element]) -> int:
        """Ordinary elements one after the other, as far as they ascend and lie in the window: most of every file.
        Returns where the first one stands that needs a closer look."""
        window, base = self._window, self._base
        head, long, keep = syntax.head, syntax.long, found.append
        last = found[-1].tag if found else 0
        index, limit, left = at - base, len(window) - 12, self.left
        while 0 <= index <= limit and left > 0:
            group, number, code, length = head(window, index)
            tag = group << 16 | number
            value = index + 8
            vr = _SHORT.get(code)
            if vr is None:
                vr = _LONG.get(code)
                length = long(window, value)[0]
                value += 4
            stop = value + length
            if vr is None or tag <= last or stop > limit or length > INLINE_BYTES or group >= 0x7FE0:
                break
            keep(Element(tag, vr, window[value:stop], base + value, length))
            index, last, left = stop, tag, left - 1
        self.left = left
        return base + index if index >= 0 else at

    def _element(self, at: int, end: int, syntax: Syntax, depth: int) -> Element:
        """The element at `at`; `_after` is then where the next one starts. Raises _End where none can be read."""
        if end - at < 8:
            raise _End(0, False)
        if self.left <= 0:
            raise StructureInvalid(f"more than {ELEMENTS} elements")
        self.left -= 1
        index = at - self._base
        if index < 0 or index + 12 > len(self._window):
            self._move(at, 12)
            index = 0
        if syntax.explicit:
            group, number, code, length = syntax.head(self._window, index)
            value_at = at + 8
            vr = _SHORT.get(code)
            if vr is None:
                vr = _LONG.get(code, "UN" if _is_vr(code) else "")
                if not vr or end - at < 12:  # not a VR at all: the element is written without one
                    vr = ""
                    length = syntax.long(self._window, index + 4)[0]
                elif code in _LONG:
                    length = syntax.long(self._window, index + 8)[0]
                    value_at = at + 12
        else:
            group, number, length = syntax.implicit_head(self._window, index)
            value_at, vr = at + 8, ""
        tag = group << 16 | number
        if length == _UNDEFINED:
            return self._undefined(tag, vr, value_at, end, syntax, depth)
        if value_at + length > end:
            raise _End(tag, bool(vr))
        self._after = value_at + length
        if tag in PIXEL_TAGS and not depth or length > INLINE_BYTES:
            return Element(tag, vr, None, value_at, length)
        index = value_at - self._base
        if index + length > len(self._window):
            self._move(value_at, length)
            index = 0
        return Element(tag, vr, self._window[index : index + length], value_at, length)

    def _undefined(self, tag: int, vr: str, at: int, end: int, syntax: Syntax, depth: int) -> Element:
        """A sequence whose end must be found, or encapsulated pixels."""
        if tag in PIXEL_TAGS and not depth:
            self._after = at
            return Element(tag, vr, None, at, _UNDEFINED)
        if vr not in ("SQ", "UN", ""):
            raise StructureInvalid("a value of undefined length that is no sequence")
        inner = _IMPLICIT if vr == "UN" else syntax
        if vr == "UN" and not self._looks_implicit(at) and syntax.explicit:
            inner = syntax
        items, after = self.items(at, end, inner, depth=depth + 1, defined=False)
        self._after = after
        return Element(tag, vr, None, at, after - at, items)

    def _looks_implicit(self, at: int) -> bool:
        """CP-246 wants implicit VR inside UN of undefined length; some writers go on explicitly."""
        head = self.peek(at, 16)
        return len(head) < 16 or not (head[12:14] in _SHORT or head[12:14] in _LONG)

    def items(self, at: int, end: int, syntax: Syntax, *, depth: int, defined: bool) -> tuple[Items, int]:
        """The items of a sequence, and where it ends."""
        if depth > DEPTH:
            raise StructureInvalid(f"sequences nested more than {DEPTH} deep")
        found: list[tuple[Element, ...]] = []
        while at < end:
            head = self.peek(at, 8)
            if len(head) < 8 or end - at < 8:
                break
            group, number, length = syntax.implicit_head(head, 0)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return tuple(found), at + 8
            if tag != _ITEM:
                raise StructureInvalid("something that is no item stands in a sequence")
            self.left -= 1
            if length == _UNDEFINED:
                content, at = self._item(at + 8, end, syntax, depth, open_end=True)
            elif at + 8 + length > end:
                raise StructureInvalid("an item leaves its sequence")
            else:
                content, at = self._item(at + 8, at + 8 + length, syntax, depth, open_end=False)
            found.append(content)
        if defined and at == end:
            return tuple(found), at
        raise StructureInvalid("a sequence without an end")

    def _item(
        self, at: int, end: int, syntax: Syntax, depth: int, *, open_end: bool
    ) -> tuple[tuple[Element, ...], int]:
        found: list[Element] = []
        while at < end:
            if open_end:
                head = self.peek(at, 8)
                if len(head) == 8 and syntax.implicit_head(head, 0)[:2] == (0xFFFE, 0xE00D):
                    return tuple(found), at + 8
            try:
                element = self._element(at, end, syntax, depth)
            except _End:
                raise StructureInvalid("an item that does not hold whole elements") from None
            if element.tag == _ITEM_END and not open_end:
                at = self._after
                continue
            found.append(element)
            at = self._after
        if open_end:
            raise StructureInvalid("an item without an end")
        return tuple(found), at

    def _pixels(self, element: Element, syntax: Syntax) -> tuple[PixelPlace, int]:
        if element.length != _UNDEFINED:
            return PixelPlace(element.tag, element.vr, element.value_at, element.length), self._after
        fragments: list[tuple[int, int]] = []
        at = element.value_at
        while True:
            head = self._fragment_head(at)
            if len(head) < 8:
                raise StructureInvalid("encapsulated pixels without an end")
            group, number, length = syntax.implicit_head(head, 0)
            at += 8
            if (group, number) == (0xFFFE, 0xE0DD):
                length = at - element.value_at
                return PixelPlace(element.tag, element.vr, element.value_at, length, tuple(fragments)), at
            if (group, number) != (0xFFFE, 0xE000) or length == _UNDEFINED or at + length > self.size:
                raise StructureInvalid("encapsulated pixels that are no list of whole fragments")
            if len(fragments) >= FRAGMENTS:
                raise StructureInvalid(f"more than {FRAGMENTS} fragments")
            fragments.append((at, length))
            at += length

    def _fragment_head(self, at: int) -> bytes:
        """Fragments lie far apart: only their heads are read, not the windows between them."""
        index = at - self._base
        if index >= 0 and index + 8 <= len(self._window):
            return self._window[index : index + 8]
        return self.source.read(at, min(8, max(0, self.size - at))) if at <= self.size else b""


def _is_standard(tag: int, *, spelled: bool) -> bool:
    """Whether bytes that fit no element are one that was cut off, not something that somebody left behind the dataset:
    the standard knows the tag, or it is private and its VR is spelled."""
    from pydicom.datadict import dictionary_has_tag

    return dictionary_has_tag(tag) or (tag >> 16 & 1 == 1 and spelled)


def _is_vr(code: bytes) -> bool:
    """Two capital letters: a VR of a later edition than ours, which is written as the short ones are not (PS3.5
    7.1.2 gives new ones 32-bit lengths), or a mistaken one, which pydicom reads with 16 bits. It is read like that."""
    return len(code) == 2 and code.isalpha() and code.isupper()
