"""Read the structure of TIFF, BigTIFF and NDPI files, and nothing else.

The reader is small on purpose: it knows a fixed list of types, asks only for ranges it has bounded, and
refuses what it does not understand. The file is never read whole, so a 100 GB slide costs the same as a small
one. Read `read_structure` first; values are fetched on demand by `read_value`. `with_children` adds SubIFDs for the
families whose levels stand there.

Layouts (TIFF 6.0 section 2; BigTIFF; NDPI as OpenSlide and tifffile read it):

    classic  II/MM 42, u32 first directory; u16 count, 12-byte entries, u32 next
    big      II/MM 43 8 0, u64 first;       u64 count, 20-byte entries, u64 next
    ndpi     II 42, u64 first;              u16 count, 12-byte entries, u64 next, u32 high word per entry
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final

from msgspec import Struct

from mover.errors import FormatUnknown, StructureInvalid
from mover.model.slides import ByteOrder, Flavour, Value
from mover.model.source import ByteSource

# Bounds. Real slides stay far below them; a bomb does not get past them (I10).
DIRECTORIES: Final = 256
TAGS_PER_DIRECTORY: Final = 256
VALUE_BYTES: Final = 16 << 20
SEGMENTS: Final = 8 << 20
NDPI_FORMAT_TAG: Final = 65420
DESCRIPTION: Final = 270
SUBIFDS: Final = 330
# SubIFDs of SubIFDs are read, so that they can be told; nothing deeper exists.
DEPTH: Final = 2
CHILDREN: Final = 64
DIRECTORIES_IN_ALL: Final = 4096

SIZE_OF_TYPE: Final = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
_CODE_OF_TYPE: Final = {
    1: "B", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 10: "i", 11: "f", 12: "d", 13: "I",
    16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
_BYTES: Final = frozenset({2, 7})


class Tag(Struct, frozen=True):
    """One directory entry. `at` is where its value lies in the file; `inline` holds the value itself when it
    fits the entry, and `high` is NDPI's high word of such a value."""

    code: int
    kind: int
    count: int
    at: int
    inline: bytes | None
    high: int = 0

    @property
    def size_bytes(self) -> int:
        return self.count * SIZE_OF_TYPE[self.kind]


class Directory(Struct, frozen=True):
    """`parent` is the index of the directory whose SubIFDs this one stands in; -1 in the main chain. `repeats` are
    further descriptions, which some writers add: readers disagree on which one counts."""

    offset: int
    size_bytes: int
    tags: dict[int, Tag]
    parent: int = -1
    repeats: tuple[Tag, ...] = ()


class Structure(Struct, frozen=True):
    flavour: Flavour
    byte_order: ByteOrder
    header_bytes: int
    directories: tuple[Directory, ...]


class _Layout(Struct, frozen=True):
    flavour: Flavour
    order: ByteOrder
    count_code: str
    entry_bytes: int
    inline_bytes: int
    next_code: str
    high_bytes: int

    def directory_bytes(self, entries: int) -> int:
        head = struct.calcsize("<" + self.count_code)
        return head + entries * (self.entry_bytes + self.high_bytes) + struct.calcsize("<" + self.next_code)


def looks_like_tiff(head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_structure(source: ByteSource) -> Structure:
    """Every directory of the main chain. Raises FormatUnknown when it is no TIFF at all and StructureInvalid
    when it is an impossible one: truncated, looping, with duplicate or too many tags."""
    head = source.read(0, min(16, source.size_bytes))
    if not looks_like_tiff(head):
        raise FormatUnknown("the file has no TIFF signature")
    order: ByteOrder = "<" if head[:2] == b"II" else ">"
    if head[2:4] in (b"+\0", b"\0+"):
        return _read_big(source, head, order)
    if len(head) < 8:
        raise StructureInvalid("the TIFF header is cut short")
    if order == "<" and len(head) >= 12:
        found = _read_as_ndpi(source, struct.unpack_from("<Q", head, 4)[0])
        if found is not None:
            return found
    layout = _Layout("classic", order, "H", 12, 4, "I", 0)
    return Structure("classic", order, 8, _chain(source, layout, struct.unpack_from(order + "I", head, 4)[0]))


def _read_big(source: ByteSource, head: bytes, order: ByteOrder) -> Structure:
    if len(head) < 16 or struct.unpack_from(order + "HH", head, 4) != (8, 0):
        raise StructureInvalid("the BigTIFF header is cut short or not of 8-byte offsets")
    layout = _Layout("big", order, "Q", 20, 8, "Q", 0)
    return Structure("big", order, 16, _chain(source, layout, struct.unpack_from(order + "Q", head, 8)[0]))


def _read_as_ndpi(source: ByteSource, first: int) -> Structure | None:
    """NDPI calls itself classic TIFF. It is taken for NDPI when its 64-bit first offset leads to a directory
    holding the NDPI format tag, which is how OpenSlide tells them apart."""
    layout = _Layout("ndpi", "<", "H", 12, 4, "Q", 4)
    try:
        directory, _ = _read_directory(source, layout, first)
    except StructureInvalid:
        return None
    if NDPI_FORMAT_TAG not in directory.tags:
        return None
    return Structure("ndpi", "<", 12, _chain(source, layout, first))


def with_children(source: ByteSource, structure: Structure) -> Structure:
    """The same structure with all SubIFDs, each behind the directory that names it. A SubIFD's own next pointer is not
    followed: no reader of slides does. Raises StructureInvalid for too many, too deep or repeated ones."""
    big = structure.flavour == "big"
    layout = (
        _Layout("big", structure.byte_order, "Q", 20, 8, "Q", 0)
        if big
        else _Layout("classic", structure.byte_order, "H", 12, 4, "I", 0)
    )
    found: list[Directory] = []
    seen = {directory.offset for directory in structure.directories}
    for directory in structure.directories:
        found.append(directory)
        _descend(source, layout, found, seen, depth=1)
    return Structure(structure.flavour, structure.byte_order, structure.header_bytes, tuple(found))


def _descend(source: ByteSource, layout: _Layout, found: list[Directory], seen: set[int], *, depth: int) -> None:
    """The SubIFDs of the last directory found, and theirs."""
    parent, tag = len(found) - 1, found[-1].tags.get(SUBIFDS)
    if tag is None:
        return
    if depth > DEPTH:
        raise StructureInvalid("SubIFDs inside SubIFDs inside SubIFDs")
    for offset in _child_offsets(source, layout.order, tag):
        if offset in seen:
            raise StructureInvalid("a SubIFD stands in two places")
        if len(found) >= DIRECTORIES_IN_ALL:
            raise StructureInvalid(f"more than {DIRECTORIES_IN_ALL} directories")
        seen.add(offset)
        child, _ = _read_directory(source, layout, offset)
        found.append(Directory(child.offset, child.size_bytes, child.tags, parent, child.repeats))
        _descend(source, layout, found, seen, depth=depth + 1)


def _child_offsets(source: ByteSource, order: ByteOrder, tag: Tag) -> tuple[int, ...]:
    if tag.kind not in (4, 13, 16, 18) or not 0 < tag.count <= CHILDREN:
        raise StructureInvalid(f"the list of SubIFDs is not one of at most {CHILDREN} offsets")
    return tuple(int(offset) for offset in read_value(source, order, tag))


def _chain(source: ByteSource, layout: _Layout, first: int) -> tuple[Directory, ...]:
    directories: list[Directory] = []
    seen: set[int] = set()
    offset = first
    while offset:
        if offset in seen:
            raise StructureInvalid("the directories form a loop")
        if len(directories) >= DIRECTORIES:
            raise StructureInvalid(f"more than {DIRECTORIES} directories")
        seen.add(offset)
        directory, offset = _read_directory(source, layout, offset)
        directories.append(directory)
    if not directories:
        raise StructureInvalid("no directory at all")
    return tuple(directories)


def _read_directory(source: ByteSource, layout: _Layout, offset: int) -> tuple[Directory, int]:
    counter = struct.Struct(layout.order + layout.count_code)
    (entries,) = counter.unpack(_read(source, offset, counter.size))
    if not 0 < entries <= TAGS_PER_DIRECTORY:
        raise StructureInvalid(f"a directory of {entries} tags")
    size = layout.directory_bytes(entries)
    raw = _read(source, offset, size)
    following = counter.size + entries * layout.entry_bytes
    (after,) = struct.unpack_from(layout.order + layout.next_code, raw, following)
    highs = following + struct.calcsize("<" + layout.next_code)
    tags: dict[int, Tag] = {}
    repeats: list[Tag] = []
    for index in range(entries):
        at = counter.size + index * layout.entry_bytes
        high = raw[highs + 4 * index : highs + 4 * index + layout.high_bytes]
        tag = _parse_entry(layout, raw[at : at + layout.entry_bytes], high, source.size_bytes)
        if tag.code in tags and tag.code == DESCRIPTION:
            repeats.append(tag)
        elif tag.code in tags:
            raise StructureInvalid(f"tag {tag.code} stands twice in one directory")
        else:
            tags[tag.code] = tag
    return Directory(offset, size, tags, repeats=tuple(repeats)), after


def _parse_entry(layout: _Layout, entry: bytes, high: bytes, file_bytes: int) -> Tag:
    wide = layout.flavour == "big"
    code, kind, count = struct.unpack_from(layout.order + ("HHQ" if wide else "HHI"), entry)
    if kind not in SIZE_OF_TYPE:
        raise StructureInvalid(f"tag {code} has the unknown type {kind}")
    size = count * SIZE_OF_TYPE[kind]
    field = entry[-layout.inline_bytes :]
    if size <= layout.inline_bytes:
        return Tag(code, kind, count, 0, field, int.from_bytes(high, "little"))
    (at,) = struct.unpack(layout.order + ("Q" if wide or high else "I"), field + high)
    if at < 8 or at + size > file_bytes:
        raise StructureInvalid(f"the value of tag {code} leaves the file")
    return Tag(code, kind, count, at, None)


def read_value(source: ByteSource, order: ByteOrder, tag: Tag, *, limit: int = VALUE_BYTES) -> Value:
    """The value of a tag: bytes for ASCII and UNDEFINED, else numbers (rationals as numerator, denominator).

    Raises StructureInvalid when it is larger than `limit` bytes."""
    if tag.size_bytes > limit:
        raise StructureInvalid(f"the value of tag {tag.code} is larger than {limit} bytes")
    raw = tag.inline if tag.inline is not None else _read(source, tag.at, tag.size_bytes)
    if tag.kind in _BYTES:
        return raw[: tag.size_bytes]
    numbers = tag.size_bytes // _width(tag.kind)
    values = struct.unpack(f"{order}{numbers}{_CODE_OF_TYPE[tag.kind]}", raw[: tag.size_bytes])
    if tag.high and tag.count == 1 and tag.kind in (4, 13):
        return (values[0] | tag.high << 32,)
    return values


def read_integers(source: ByteSource, order: ByteOrder, tag: Tag, *, limit: int = SEGMENTS) -> array[int]:
    """A long list of unsigned numbers (offsets, counts) as a compact array."""
    if not 0 < tag.count <= limit or tag.kind not in (1, 3, 4, 13, 16, 18):
        raise StructureInvalid(f"tag {tag.code} is no list of at most {limit} unsigned numbers")
    if tag.count == 1:
        return array("Q", [int(read_value(source, order, tag)[0])])
    raw = tag.inline if tag.inline is not None else _read(source, tag.at, tag.size_bytes)
    numbers = array(_CODE_OF_TYPE[tag.kind])
    numbers.frombytes(raw[: tag.size_bytes])
    if (order == "<") != (sys.byteorder == "little"):
        numbers.byteswap()
    return numbers if numbers.typecode == "Q" else array("Q", numbers)


def _width(kind: int) -> int:
    return 4 if kind in (5, 10) else SIZE_OF_TYPE[kind]


def _read(source: ByteSource, offset: int, length: int) -> bytes:
    if offset <= 0 or offset + length > source.size_bytes:
        raise StructureInvalid("a structure leaves the file")
    return source.read(offset, length)
