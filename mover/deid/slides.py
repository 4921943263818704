"""Compile the decisions about a slide to a recipe: a new container as literals, the tiles as copies.

The container is written anew: header, directories and allowed values as literals, every compressed tile as a
copy segment of the source, byte for byte, in the order it has there. What no segment refers to cannot get
through (D5). Nothing here judges: the tags to write come from `mover.decide.redaction`. Two kinds of picture are
neither: an Aperio slide's thumbnail in its second directory, drawn from the output's own tiles, and the blank page
that stands where readers count on a label or overview (`mover.deid.blank`).

Output layouts:

    classic, big   header | directories and their values | tiles | thumbnail and blank pictures, literals
    ndpi           header | strip, values, directory | strip, values, directory | ...

NDPI keeps the native order because OpenSlide finds the high half of a 64-bit offset by looking backwards from
the directory; each page's values lie within 4 GiB before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from PIL import Image

import scanners
from mover.decide.redaction import OutPage, OutTag, Redaction, judge_slide
from mover.deid import blank, drawing, pyramid
from mover.deid.blanked import Blanked, Range, blank_out
from mover.deid.outcome import SlidePlan
from mover.deid.skeleton import Skeleton, TilePair, fill_tiles
from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.recipe import Copy, Literal, Segment, compact
from mover.model.slides import ByteOrder, Decision, Page, SlideFacts, SlideScan
from mover.model.source import ByteSource
from scanners.pages import distinct

_LIMIT_32: Final = 0xFFFFFFFF
_CODE_OF_KIND: Final = {3: "H", 4: "I", 5: "I", 9: "i", 11: "f", 12: "d", 16: "Q"}
_COMPRESSIONS: Final = {
    1: "none", 5: "lzw", 7: "jpeg", 8: "deflate", 32773: "packbits", 32946: "deflate", 33003: "jpeg2000-ycbcr",
    33005: "jpeg2000-rgb", 34712: "jpeg2000", 50000: "zstd", 50001: "webp",
}  # fmt: skip


def plan_slide(source: ByteSource, *, suffix: str, known: tuple[str, ...] = ()) -> SlidePlan:
    """Look, judge and compile; nothing is written. The same source gives the same plan. `known` are identifiers
    from outside (the file's own name, a patient's names) that must not be found in the output either.

    Raises the scanners' refusals, and PlaceUnknown for what no rule covers. The plan proves nothing yet: the
    caller must pass it to `mover.deid.verify.verify_slide` before any byte leaves the identified zone.
    """
    return plan_and_draw(source, suffix=suffix, known=known)[0]


def plan_and_draw(
    source: ByteSource,
    *,
    suffix: str,
    known: tuple[str, ...] = (),
    unwanted: tuple[str, ...] = (),
    strangers: tuple[int, ...] = (),
) -> tuple[SlidePlan, Image.Image | None]:
    """`plan_slide`, and the drawing its thumbnail was made of where it has one: no level is decoded twice for it.
    The drawing is no more proved than the plan. `strangers` are pages that a proof found to be no levels."""
    scan = pyramid.without(scanners.identify(source, suffix), strangers)
    comments, tiles = examine(source, scan)
    if comments:
        known = (*known, *_texts_at(source, comments))
        source = Blanked(source, comments)
    redaction = judge_slide(scan, known=known, unwanted=unwanted)
    drawn = None
    if scan.flavour == "ndpi":
        segments = _write_ndpi(scan, redaction.pages)
    else:
        segments, drawn = _write_tiff(source, scan, redaction)
    plan = SlidePlan(
        family=scan.family,
        extension=scan.extension,
        recipe=compact(source.size_bytes, blank_out(segments, comments)),
        facts=_facts(scan),
        decisions=(*redaction.decisions, *_decisions_on(comments)),
        removed=redaction.removed,
        around=redaction.around,
        tile_count=tiles,
        strangers=strangers,
    )
    return plan, drawn


def examine(source: ByteSource, scan: SlideScan) -> tuple[list[Range], int]:
    """The comments to blank inside compressed tiles, none for nearly all slides, and how many tiles there are."""
    try:
        return [], scanners.examine_tiles(source, scan)
    except PlaceUnknown as refusal:
        try:
            comments = scanners.find_comments(source, scan)
        except StructureInvalid as error:
            raise refusal from error  # the first reason is the one a person is told
        if not comments:
            raise
        return comments, scanners.examine_tiles(Blanked(source, comments), scan)


def _texts_at(source: ByteSource, comments: list[Range]) -> list[str]:
    """What the comments say, each text once: it joins what is sought in the output."""
    texts = {source.read(at, length) for at, length in comments}
    return [text.decode(codec, "ignore") for text in sorted(texts) for codec in ("latin-1", "utf-8")]


def _decisions_on(comments: list[Range]) -> list[Decision]:
    reason = "comments and application data inside compressed tiles are zeros; the pictures' bytes stay"
    return [Decision("tiles", "rebuild", "Z", reason, "", len(comments))] if comments else []


def _facts(scan: SlideScan) -> SlideFacts:
    first = scan.levels[0]
    return SlideFacts(
        vendor=scan.vendor,
        family=scan.family,
        width=first.width,
        height=first.height,
        levels=tuple((page.width, page.height) for page in scan.levels),
        tile_width=first.tile_width,
        tile_height=first.tile_height,
        compression=_COMPRESSIONS.get(first.compression, f"tiff-{first.compression}"),
        mpp_x=scan.mpp_x,
        mpp_y=scan.mpp_y,
        objective=scan.objective,
    )


# --- values --------------------------------------------------------------------------------------------


def _encode(order: str, tag: OutTag) -> bytes:
    if isinstance(tag.value, bytes):
        return tag.value
    if tag.kind == 16:
        return np.asarray(tag.value, f"{order}u8").tobytes()
    return struct.pack(f"{order}{len(tag.value)}{_CODE_OF_KIND[tag.kind]}", *tag.value)


def _count(tag: OutTag) -> int:
    return len(tag.value) // 2 if tag.kind == 5 else len(tag.value)


# --- TIFF and BigTIFF ----------------------------------------------------------------------------------


class _Field(Struct, frozen=True):
    """A tag with its value in the file's byte order."""

    code: int
    kind: int
    count: int
    raw: bytes


class _Container(Struct, frozen=True):
    order: ByteOrder
    big: bool

    @property
    def header_bytes(self) -> int:
        return 16 if self.big else 8

    @property
    def inline_bytes(self) -> int:
        return 8 if self.big else 4

    def header(self) -> bytes:
        sign = b"II" if self.order == "<" else b"MM"
        if self.big:
            return sign + struct.pack(self.order + "HHHQ", 43, 8, 0, 16)
        return sign + struct.pack(self.order + "HI", 42, 8)

    def field(self, tag: OutTag) -> _Field:
        return _Field(tag.code, tag.kind, _count(tag), _encode(self.order, tag))

    def numbers(self, code: int, values: np.ndarray, *, directories: bool = False) -> _Field:
        """Offsets or counts, in the container's own width."""
        kind = (18 if self.big else 13) if directories else (16 if self.big else 4)
        raw = values.astype(f"{self.order}u{self.inline_bytes}").tobytes()
        return _Field(code, kind, len(values), raw)

    def directory_bytes(self, tags: int) -> int:
        return 8 + 20 * tags + 8 if self.big else 2 + 12 * tags + 4

    def lead_bytes(self, tags: int) -> int:
        """Zeros behind a directory's entries, so that its values and the next directory begin at whole words."""
        return -self.directory_bytes(tags) % 8

    def entry(self, one: _Field, value: bytes) -> bytes:
        return struct.pack(self.order + ("HHQ" if self.big else "HHI"), one.code, one.kind, one.count) + value

    def offset(self, at: int) -> bytes:
        return struct.pack(self.order + ("Q" if self.big else "I"), at)

    def whole_bytes(self, lengths: Iterable[int]) -> int:
        """A directory whose values have these lengths, with the values behind it."""
        known = list(lengths)
        outside = sum(length + -length % 8 for length in known if length > self.inline_bytes)
        return self.directory_bytes(len(known)) + self.lead_bytes(len(known)) + outside

    def directory(self, fields: list[_Field], at: int, after: int) -> bytes:
        """One directory at `at` with its values behind it; the next one stands at `after`, 0 for none."""
        entries, values = [], []
        lead = bytes(self.lead_bytes(len(fields)))
        value_at = at + self.directory_bytes(len(fields)) + len(lead)
        for one in sorted(fields, key=lambda one: one.code):
            if len(one.raw) <= self.inline_bytes:
                entries.append(self.entry(one, one.raw.ljust(self.inline_bytes, b"\0")))
                continue
            entries.append(self.entry(one, self.offset(value_at)))
            values += [one.raw, bytes(-len(one.raw) % 8)]
            value_at += len(one.raw) + -len(one.raw) % 8
        head = struct.pack(self.order + ("Q" if self.big else "H"), len(fields))
        return b"".join([head, *entries, self.offset(after), lead, *values])


class _Sheet(Struct, frozen=True):
    """A directory to be. `tiled` says which of TIFF's two pairs of tags its pixels go by. `copied` are the source's
    offsets and counts of a page whose pixels are copies; without them the page has `own` segments that all are
    `literal`, a picture of the plan's making."""

    tags: tuple[OutTag, ...]
    parent: int
    tiled: bool
    copied: tuple[np.ndarray, np.ndarray] | None = None
    own: int = 0
    literal: bytes = b""

    @property
    def segments(self) -> int:
        return self.own if self.copied is None else len(self.copied[0])


class _Book(Struct, frozen=True):
    """All directories of an output in the order they are written (a page's SubIFDs directly behind it), and every
    distinct tile of the source they copy."""

    sheets: tuple[_Sheet, ...]
    ranges: np.ndarray

    @property
    def tile_bytes(self) -> int:
        return int(self.ranges[:, 1].sum())

    def literals(self) -> list[bytes]:
        """The pictures of the plan's making, each once, in the order they stand behind the tiles."""
        return list(dict.fromkeys(sheet.literal for sheet in self.sheets if sheet.literal))

    def children(self, number: int) -> list[int]:
        return [index for index, sheet in enumerate(self.sheets) if sheet.parent == number]


def _write_tiff(source: ByteSource, scan: SlideScan, redaction: Redaction) -> tuple[list[Segment], Image.Image | None]:
    """Directories first, then the tiles, then the pictures of our own making. A directory's length does not depend
    on where its offsets point, so the lengths are known before any of it is written."""
    book = _book(scan, redaction)
    container = _Container(scan.byte_order, scan.flavour == "big")
    extra = sum(map(len, book.literals())) + drawing.THUMBNAIL_BYTES
    if not container.big and _head_bytes(container, book) + book.tile_bytes + extra > _LIMIT_32:
        container = _Container(scan.byte_order, True)
    drawn = None
    if redaction.thumbnail is not None:
        drawn = _draw(source, scan, _head(container, book), book.ranges)
        data = drawing.encode_thumbnail(drawn, _size_of(redaction.thumbnail))
        book = _with_thumbnail(book, data)
    literals: list[Segment] = [Literal(data) for data in book.literals()]
    return [Literal(_head(container, book)), *_copies(book.ranges), *literals], drawn


def _book(scan: SlideScan, redaction: Redaction) -> _Book:
    pages = {page.index: page for page in scan.pages}
    sheets: list[_Sheet] = []
    for number, out in enumerate(redaction.pages):
        if number == 1 and redaction.thumbnail is not None:
            sheets.append(_drawn_sheet(redaction.thumbnail))  # the second directory: readers ask no further
        parent = len(sheets)
        sheets.append(_sheet(out, pages[out.index], -1))
        sheets += [_sheet(child, pages[child.index], parent) for child in out.children]
    if len(redaction.pages) == 1 and redaction.thumbnail is not None:
        sheets.append(_drawn_sheet(redaction.thumbnail))
    return _Book(tuple(sheets), _tile_ranges(sheets))


def _sheet(out: OutPage, page: Page, parent: int) -> _Sheet:
    if any(child.children for child in out.children):
        raise StructureInvalid("a SubIFD with SubIFDs of its own")
    if not out.blank:
        copied = np.frombuffer(page.pixels.offsets, "u8"), np.frombuffer(page.pixels.counts, "u8")
        return _Sheet(out.tags, parent, page.tile_width > 0, copied)
    if page.tile_width:
        across, down = -(-page.width // page.tile_width), -(-page.height // page.tile_height)
        literal = blank.segment(out.tags, page.tile_width, page.tile_height)
        return _Sheet(out.tags, parent, True, None, across * down, literal)
    return _Sheet(out.tags, parent, False, None, 1, blank.segment(out.tags, page.width, page.height))


def _drawn_sheet(out: OutPage) -> _Sheet:
    return _Sheet(out.tags, -1, False, None, 1)


def _with_thumbnail(book: _Book, data: bytes) -> _Book:
    """The one sheet that has neither copies nor a picture yet gets its picture."""
    filled = (
        msgspec.structs.replace(sheet, literal=data) if sheet.copied is None and not sheet.literal else sheet
        for sheet in book.sheets
    )  # fmt: skip
    return msgspec.structs.replace(book, sheets=tuple(filled))


def _draw(source: ByteSource, scan: SlideScan, head: bytes, ranges: np.ndarray) -> Image.Image:
    """The slide in small, over a stand-in of the output: everything but the thumbnail itself."""
    placed = _placed(ranges, len(head))
    pairs = []
    for page in scan.levels:
        offsets, counts = np.frombuffer(page.pixels.offsets, "u8"), np.frombuffer(page.pixels.counts, "u8")
        pairs.append(TilePair(page, offsets, _moved(offsets, counts, ranges, placed), counts))
    target = drawing.smallest(pairs)
    with Skeleton(int(placed[-1] + ranges[-1, 1])) as skeleton:
        skeleton.fill(0, head)
        for pair, chosen in drawing.needed(pairs, target):
            fill_tiles(source, pair, chosen, skeleton)
        with drawing.open_slide(skeleton) as slide:
            return drawing.draw(slide, pairs[target].page)


def _size_of(page: OutPage) -> tuple[int, int]:
    values = {tag.code: tag.value[0] for tag in page.tags if tag.code in (256, 257)}
    return int(values[256]), int(values[257])


def _tile_ranges(sheets: list[_Sheet]) -> np.ndarray:
    """Every distinct tile of every copied page as (offset, length), in the source's order."""
    copied = [sheet.copied for sheet in sheets if sheet.copied is not None]
    if not copied:
        raise StructureInvalid("a slide without any level")
    found = distinct(*(np.concatenate([pair[side] for pair in copied]) for side in (0, 1)))
    if not len(found[0]):
        raise StructureInvalid("a slide without any tile")
    return np.stack(found, axis=1)


def _copies(ranges: np.ndarray) -> list[Segment]:
    """Neighbours in the source become one copy."""
    ends = ranges[:, 0] + ranges[:, 1]
    firsts = np.concatenate([[0], np.flatnonzero(ranges[1:, 0] != ends[:-1]) + 1])
    lasts = np.append(firsts[1:], len(ranges)) - 1
    return [Copy(int(ranges[a, 0]), int(ends[b] - ranges[a, 0])) for a, b in zip(firsts, lasts, strict=True)]


def _sheet_bytes(container: _Container, book: _Book, number: int) -> int:
    sheet = book.sheets[number]
    lengths = [len(container.field(tag).raw) for tag in sheet.tags]
    children = len(book.children(number))
    lengths += [container.inline_bytes * count for count in (sheet.segments, sheet.segments, children) if count]
    return container.whole_bytes(lengths)


def _head_bytes(container: _Container, book: _Book) -> int:
    return container.header_bytes + sum(_sheet_bytes(container, book, number) for number in range(len(book.sheets)))


def _head(container: _Container, book: _Book) -> bytes:
    """Header and directories, for tiles that follow directly, and literals behind them."""
    if container.header_bytes % 8:
        raise StructureInvalid("a header that is not whole words")
    sizes = [_sheet_bytes(container, book, number) for number in range(len(book.sheets))]
    at = container.header_bytes + np.concatenate([[0], np.cumsum(sizes)]).astype("i8")
    placed = _placed(book.ranges, int(at[-1]))
    literal_at = dict(_literals_at(book, int(at[-1]) + book.tile_bytes))
    chain = [number for number, sheet in enumerate(book.sheets) if sheet.parent < 0]
    following = dict(zip(chain, [int(at[number]) for number in chain[1:]] + [0], strict=True))
    parts = [container.header()]
    for number, sheet in enumerate(book.sheets):
        fields = [container.field(tag) for tag in sheet.tags]
        children = at[book.children(number)]
        if len(children):
            fields.append(container.numbers(330, children, directories=True))
        offsets, counts = _locations(sheet, book.ranges, placed, literal_at)
        where, how_long = (324, 325) if sheet.tiled else (273, 279)
        fields += [container.numbers(where, offsets), container.numbers(how_long, counts)]
        parts.append(container.directory(fields, int(at[number]), following.get(number, 0)))
    return b"".join(parts)


def _literals_at(book: _Book, at: int) -> Iterator[tuple[bytes, int]]:
    for data in book.literals():
        yield data, at
        at += len(data)


def _locations(
    sheet: _Sheet, ranges: np.ndarray, placed: np.ndarray, literal_at: dict[bytes, int]
) -> tuple[np.ndarray, np.ndarray]:
    if sheet.copied is not None:
        offsets, counts = sheet.copied
        return _moved(offsets, counts, ranges, placed), counts
    at, length = literal_at.get(sheet.literal, 0), max(1, len(sheet.literal))
    return np.full(sheet.own, at, "u8"), np.full(sheet.own, length, "u8")


def _placed(ranges: np.ndarray, base: int) -> np.ndarray:
    """Where each tile lies in the output when the first lies at `base`."""
    return base + np.concatenate([[0], np.cumsum(ranges[:, 1])[:-1]]).astype("u8")


def _moved(offsets: np.ndarray, counts: np.ndarray, ranges: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Output offsets for source offsets. A missing tile (count 0) keeps offset 0."""
    found = np.searchsorted(ranges[:, 0], offsets)
    return np.where(counts > 0, placed[np.minimum(found, len(placed) - 1)], 0)


# --- NDPI ----------------------------------------------------------------------------------------------


def _write_ndpi(scan: SlideScan, out: tuple[OutPage, ...]) -> list[Segment]:
    segments: list[Segment] = []
    at = 12
    directories: list[tuple[int, int, list[OutTag]]] = []
    bodies: list[tuple[Copy, bytes]] = []
    for page, plan in zip(scan.levels, out, strict=True):
        strip = Copy(page.pixels.offsets[0], page.pixels.counts[0])
        tags = [*plan.tags, OutTag(273, 4, (at,)), OutTag(279, 4, (strip.length,)), *_restart_tags(page)]
        tags.sort(key=lambda tag: tag.code)
        values_at = at + strip.length + (-(at + strip.length) % 8)
        values = b"".join(_padded(_encode("<", tag)) for tag in tags if _outside(tag))
        bodies.append((strip, bytes(values_at - at - strip.length) + values))
        directories.append((values_at, values_at + len(values), tags))
        at = values_at + len(values) + 2 + 16 * len(tags) + 8
    header = b"II" + struct.pack("<HQ", 42, directories[0][1])
    segments.append(Literal(header))
    following = [directory_at for _, directory_at, _ in directories[1:]] + [0]
    for (strip, values), (values_at, _, tags), after in zip(bodies, directories, following, strict=True):
        segments += [strip, Literal(values + _ndpi_directory(tags, values_at, after))]
    return segments


def _restart_tags(page: Page) -> list[OutTag]:
    if not page.restarts:
        return []
    positions = np.frombuffer(page.restarts, "u8")
    tags = [OutTag(65426, 4, tuple((positions & np.uint64(_LIMIT_32)).tolist()))]
    if positions[-1] > _LIMIT_32:
        tags.append(OutTag(65432, 4, tuple((positions >> np.uint64(32)).tolist())))
    return tags


def _ndpi_directory(tags: list[OutTag], values_at: int, after: int) -> bytes:
    """Classic entries, the 64-bit next pointer, then the high word of every entry's value."""
    entries, highs = [], []
    for tag in tags:
        field, high = _ndpi_field(tag, values_at)
        if _outside(tag):
            values_at += len(_padded(_encode("<", tag)))
        entries.append(struct.pack("<HHI", tag.code, tag.kind, _count(tag)) + field)
        highs.append(struct.pack("<I", high))
    return struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<Q", after) + b"".join(highs)


def _ndpi_field(tag: OutTag, values_at: int) -> tuple[bytes, int]:
    if _outside(tag):
        return struct.pack("<I", values_at & _LIMIT_32), values_at >> 32
    if tag.code == 273:
        at = int(tag.value[0])
        return struct.pack("<I", at & _LIMIT_32), at >> 32
    return _encode("<", tag).ljust(4, b"\0"), 0


def _outside(tag: OutTag) -> bool:
    return tag.code != 273 and len(_encode("<", tag)) > 4


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 8)
