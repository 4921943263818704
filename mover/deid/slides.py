"""Compile the decisions about a slide to a recipe: a new container as literals, the tiles as copies.

The container is written anew: header, directories and allowed values as literals, every compressed tile as a
copy segment of the source, byte for byte, in the order it has there. What no segment refers to cannot get
through (D5). Nothing here judges: the tags to write come from `mover.decide.redaction`. The one picture that is
neither, an Aperio slide's thumbnail in its second directory, is drawn from the output's own tiles.

Output layouts:

    classic, big   header | directories and their values | tiles | thumbnail, a literal
    ndpi           header | strip, values, directory | strip, values, directory | ...

NDPI keeps the native order because OpenSlide finds the high half of a 64-bit offset by looking backwards from
the directory; each page's values lie within 4 GiB before it.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from msgspec import Struct
from PIL import Image

import scanners
from mover.decide.redaction import OutPage, OutTag, Redaction, judge_slide
from mover.deid import drawing
from mover.deid.outcome import SlidePlan
from mover.deid.skeleton import Skeleton, TilePair, fill_tiles
from mover.errors import StructureInvalid
from mover.model.recipe import Copy, Literal, Segment, compact
from mover.model.slides import Page, SlideFacts, SlideScan
from mover.model.source import ByteSource

_LIMIT_32: Final = 0xFFFFFFFF
_CODE_OF_KIND: Final = {3: "H", 4: "I", 5: "I", 9: "i", 11: "f", 16: "Q"}
_COMPRESSIONS: Final = {7: "jpeg", 33003: "jpeg2000-ycbcr", 33005: "jpeg2000-rgb"}


def plan_slide(source: ByteSource, *, suffix: str, known: tuple[str, ...] = ()) -> SlidePlan:
    """Look, judge and compile; nothing is written. The same source gives the same plan. `known` are identifiers
    from outside (the file's own name, a patient's names) that must not be found in the output either.

    Raises the scanners' refusals, and PlaceUnknown for what no rule covers. The plan proves nothing yet: the
    caller must pass it to `mover.deid.verify.verify_slide` before any byte leaves the identified zone.
    """
    return plan_and_draw(source, suffix=suffix, known=known)[0]


def plan_and_draw(
    source: ByteSource, *, suffix: str, known: tuple[str, ...] = ()
) -> tuple[SlidePlan, Image.Image | None]:
    """`plan_slide`, and the drawing its thumbnail was made of where it has one: no level is decoded twice for it.
    The drawing is no more proved than the plan."""
    scan = scanners.identify(source, suffix)
    tiles = scanners.examine_tiles(source, scan)
    redaction = judge_slide(scan, known=known)
    drawn = None
    if scan.flavour == "ndpi":
        segments = _write_ndpi(scan, redaction.pages)
    else:
        segments, drawn = _write_tiff(source, scan, redaction)
    plan = SlidePlan(
        family=scan.family,
        extension=scan.extension,
        recipe=compact(source.size_bytes, segments),
        facts=_facts(scan),
        decisions=redaction.decisions,
        removed=redaction.removed,
        tile_count=tiles,
    )
    return plan, drawn


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
        compression=_COMPRESSIONS[first.compression],
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


class _Container(Struct, frozen=True):
    order: str
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

    def directory_bytes(self, tags: int) -> int:
        return 8 + 20 * tags + 8 if self.big else 2 + 12 * tags + 4

    def entry(self, tag: OutTag, field: bytes) -> bytes:
        return struct.pack(self.order + ("HHQ" if self.big else "HHI"), tag.code, tag.kind, _count(tag)) + field

    def offset(self, at: int) -> bytes:
        return struct.pack(self.order + ("Q" if self.big else "I"), at)

    def directory(self, tags: list[OutTag], at: int, following: bool) -> bytes:
        """One directory and its values behind it; the next one follows directly, or none does."""
        entries, values = [], []
        lead = bytes(-(at + self.directory_bytes(len(tags))) % 8)
        value_at = at + self.directory_bytes(len(tags)) + len(lead)
        for tag in tags:
            raw = _encode(self.order, tag)
            if len(raw) <= self.inline_bytes:
                entries.append(self.entry(tag, raw.ljust(self.inline_bytes, b"\0")))
                continue
            entries.append(self.entry(tag, self.offset(value_at)))
            values.append(raw + bytes(-len(raw) % 8))
            value_at += len(values[-1])
        head = struct.pack(self.order + ("Q" if self.big else "H"), len(tags))
        after = self.offset(value_at if following else 0)
        return head + b"".join(entries) + after + lead + b"".join(values)


def _write_tiff(source: ByteSource, scan: SlideScan, redaction: Redaction) -> tuple[list[Segment], Image.Image | None]:
    """Directories first. Values have the same length whatever the offsets say, so each round but the last only
    finds out where the next one's offsets point."""
    ranges = _tile_ranges(scan)
    tile_bytes = int(ranges[:, 1].sum())
    container = _Container(scan.byte_order, scan.flavour == "big")
    head = _head(container, scan, redaction, ranges, base=0)
    if not container.big and len(head) + tile_bytes + drawing.THUMBNAIL_BYTES > _LIMIT_32:
        container = _Container(scan.byte_order, True)
        head = _head(container, scan, redaction, ranges, base=0)
    end = len(head) + tile_bytes
    head = _head(container, scan, redaction, ranges, base=len(head), picture=(end, 1))
    if redaction.thumbnail is None:
        return [Literal(head), *_copies(ranges)], None
    drawn = _draw(source, scan, head, ranges)
    data = drawing.encode_thumbnail(drawn, _size_of(redaction.thumbnail))
    head = _head(container, scan, redaction, ranges, base=len(head), picture=(end, len(data)))
    return [Literal(head), *_copies(ranges), Literal(data)], drawn


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


def _tile_ranges(scan: SlideScan) -> np.ndarray:
    """Every distinct tile of every level as (offset, length), in the source's order."""
    pairs = [
        np.stack([np.frombuffer(page.pixels.offsets, "u8"), np.frombuffer(page.pixels.counts, "u8")], axis=1)
        for page in scan.levels
    ]
    everything = np.concatenate(pairs)
    return np.unique(everything[everything[:, 1] > 0], axis=0)


def _copies(ranges: np.ndarray) -> list[Segment]:
    """Neighbours in the source become one copy."""
    if not len(ranges):
        raise StructureInvalid("a slide without any tile")
    ends = ranges[:, 0] + ranges[:, 1]
    firsts = np.concatenate([[0], np.flatnonzero(ranges[1:, 0] != ends[:-1]) + 1])
    lasts = np.append(firsts[1:], len(ranges)) - 1
    return [Copy(int(ranges[a, 0]), int(ends[b] - ranges[a, 0])) for a, b in zip(firsts, lasts, strict=True)]


def _head(
    container: _Container,
    scan: SlideScan,
    redaction: Redaction,
    ranges: np.ndarray,
    *,
    base: int,
    picture: tuple[int, int] = (0, 1),
) -> bytes:
    """Header and directories when the first tile lies at `base` and the thumbnail at `picture` (offset, length).
    The thumbnail is the second directory: readers ask no further."""
    placed = _placed(ranges, base)
    directories = [
        [*plan.tags, *_locations(container, page, ranges, placed)]
        for page, plan in zip(scan.levels, redaction.pages, strict=True)
    ]
    if redaction.thumbnail is not None:
        kind = 16 if container.big else 4
        strip = [OutTag(273, kind, (picture[0],)), OutTag(279, kind, (picture[1],))]
        directories.insert(1, [*redaction.thumbnail.tags, *strip])
    parts = [container.header()]
    at = container.header_bytes
    if container.header_bytes % 8:
        raise StructureInvalid("a header that is not whole words")
    for number, tags in enumerate(directories):
        ordered = sorted(tags, key=lambda tag: tag.code)
        parts.append(container.directory(ordered, at, number + 1 < len(directories)))
        at += len(parts[-1])
    return b"".join(parts)


def _placed(ranges: np.ndarray, base: int) -> np.ndarray:
    """Where each tile lies in the output when the first lies at `base`."""
    return base + np.concatenate([[0], np.cumsum(ranges[:, 1])[:-1]]).astype("u8")


def _moved(offsets: np.ndarray, counts: np.ndarray, ranges: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Output offsets for source offsets. A missing tile (count 0) keeps offset 0."""
    found = np.searchsorted(ranges[:, 0], offsets)
    return np.where(counts > 0, placed[np.minimum(found, len(placed) - 1)], 0)


def _locations(container: _Container, page: Page, ranges: np.ndarray, placed: np.ndarray) -> list[OutTag]:
    offsets, counts = np.frombuffer(page.pixels.offsets, "u8"), np.frombuffer(page.pixels.counts, "u8")
    at = _moved(offsets, counts, ranges, placed)
    kind = 16 if container.big else 4
    return [OutTag(324, kind, tuple(at.tolist())), OutTag(325, kind, tuple(counts.tolist()))]


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
