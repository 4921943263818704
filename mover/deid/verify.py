"""The independent second pass over a de-identified slide (design: deidentification 4, proof 1-5).

It works on sparse stand-ins of source and output in memory, so a 100 GB slide costs no more than its structure
and a few dozen tiles. Four looks, none of which shares code with the writer:

1. tifffile parses the output: every tag and text on its own allow-list, every byte accounted for.
2. All literal bytes, decoded values and tile headers are searched for every harvested string in all its forms.
3. Every level shows the slide of the next finer one (`mover.deid.pyramid`). OpenSlide opens source and output: same
   vendor, levels, resolution, objective; equal pixels in sampled tiles of every level; no associated picture but an
   Aperio slide's thumbnail, a literal that shows the output's own pyramid. Families that OpenSlide does not open at
   all are decoded tile by tile with tifffile. A page that stands without its picture shows one white literal, and
   nothing besides.
4. The tile lists of source and output, both as tifffile reads them, are the same list once the recipe is undone.

What is proved here is the recipe. That the tier holds what the recipe says is the transfer engine's proof, by
digest.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from blake3 import blake3

import scanners
from mover.deid import blank, drawing, likeness, pyramid, sampling
from mover.deid.blanked import Blanked
from mover.deid.drawing import open_slide
from mover.deid.outcome import SlideEvidence, SlidePlan
from mover.deid.search import Seeker
from mover.deid.secondlook import FAMILIES, Seen, SeenPage, look, unaccounted
from mover.deid.skeleton import Output, Skeleton, TilePair, fill_from, fill_tiles
from mover.errors import RedactionUnproven
from mover.model.slides import Page, SlideScan
from mover.model.source import ByteSource
from scanners.codestream import HEADER_BYTES, read_jpeg_header
from scanners.tiff import read_structure, with_children

VERIFIER: Final = "mover-slides/3"
SAMPLES: Final = 8
PADDING: Final = 8


def verify_slide(source: ByteSource, plan: SlidePlan, *, samples: int = SAMPLES) -> SlideEvidence:
    """Prove that the plan's output is clean and whole, or raise RedactionUnproven (why, never what).

    The caller publishes nothing before this returns, and keeps the evidence with the certificate.
    """
    if plan.recipe.source_bytes != source.size_bytes:
        raise RedactionUnproven("the recipe was made for another source")
    with Bench(source, plan) as bench:
        pairs = bench.pair_tiles()
        _check_blanked(bench, pairs)
        searched, forms = _search(bench.source, plan, bench, pairs)
        _check_blanks(bench)
        _check_levels(bench, pairs)
        decoded = sampling.compare_pixels(bench, pairs, samples=samples)
        _check_thumbnail(bench, pairs)
        return SlideEvidence(
            verifier=VERIFIER,
            methods=(
                "tifffile-structure",
                "string-search",
                "level-likeness",
                *decoded.methods,
                "thumbnail-likeness",
                "tile-list",
            ),  # fmt: skip
            strings_sought=len(plan.removed),
            forms_sought=forms,
            bytes_searched=searched,
            tags_checked=bench.seen.tags,
            levels=len(pairs),
            tiles=sum(int((pair.counts > 0).sum()) for pair in pairs),
            tiles_decoded=decoded.tiles,
            tile_list_blake3=_tile_list_digest(pairs),
        )


def render_thumbnail(source: ByteSource, plan: SlidePlan, *, edge_px: int = 1024) -> bytes:
    """A JPEG of the whole slide, rendered anew from the de-identified pyramid, without any metadata."""
    with Bench(source, plan) as bench:
        return drawing.encode_preview(sampling.draw_small(bench, bench.pair_tiles()), edge_px)


# --- the bench: both stand-ins and what the second parser says of them ---------------------------------


def depth_first(scan: SlideScan) -> list[Page]:
    """All pages in the order of a second parser: a page, its SubIFDs, the next page."""
    below: dict[int, list[Page]] = {}
    for page in scan.pages:
        below.setdefault(page.parent, []).append(page)
    return [one for page in below.get(-1, ()) for one in (page, *below.get(page.index, ()))]


class Bench:
    def __init__(self, source: ByteSource, plan: SlidePlan) -> None:
        self.plan = plan
        self.output = Output(plan.recipe)
        self.original = source
        self.source = Blanked(source, self.output.blanked) if self.output.blanked else source
        scan = scanners.identify(source, f".{plan.extension}")
        self.dropped = [page for page in scan.levels if page.index in plan.strangers]
        self.scan: SlideScan = pyramid.without(scan, plan.strangers)
        self.output_skeleton = Skeleton(self.output.size_bytes)
        self.source_skeleton = Skeleton(source.size_bytes)

    def __enter__(self) -> Bench:
        self.output.fill_literals(self.output_skeleton)
        fill_from(self.source, self.source_skeleton, _structure_of(self.source, self.plan.family))
        if self.plan.family == "hamamatsu-ndpi":
            self.fill_strip_headers()
        self.seen: Seen = look(self.output_skeleton.path, family=self.plan.family, strict=True)
        self.check_accounts()
        return self

    def __exit__(self, *_: object) -> None:
        self.output_skeleton.__exit__(None, None, None)
        self.source_skeleton.__exit__(None, None, None)

    def fill_strip_headers(self) -> None:
        """tifffile reads each level's JPEG header when it reads the directory."""
        for page in self.scan.levels:
            offset, count = page.pixels.offsets[0], page.pixels.counts[0]
            head = self.source.read(offset, min(count, HEADER_BYTES))
            head = head[: read_jpeg_header(head).size_bytes]
            self.source_skeleton.fill(offset, head)
            self.output_skeleton.fill(self.output.placed_at(offset), head)
        for page in self.scan.pages:
            # OpenSlide reads the overview's JPEG header when it opens the source.
            if page.role == "overview" and len(page.pixels):
                offset, count = page.pixels.offsets[0], page.pixels.counts[0]
                self.source_skeleton.fill(offset, self.source.read(offset, min(count, 1 << 20)))

    def check_accounts(self) -> None:
        """No byte outside header, directories, allowed values and tiles, but zero padding to whole words."""
        for at, length in unaccounted(self.seen, self.output.size_bytes):
            if length >= PADDING or any(self.output.literal_between(at, at + length)):
                raise RedactionUnproven("bytes of the output belong to no structure")

    def pair_tiles(self) -> list[TilePair]:
        """Undo the recipe: every tile of the output, in order, is the same tile of the source."""
        ordered = depth_first(self.scan)
        strange = frozenset(at for at, page in enumerate(ordered) if page.index in self.plan.strangers)
        before = look(self.source_skeleton.path, family=self.plan.family, strict=False, without=strange)
        levels = [page for page in ordered if page.role == "level"]
        if not len(before.pages) == len(self.seen.pages) == len(levels):
            raise RedactionUnproven("source and output differ in their number of levels")
        return [self._pair(*pages) for pages in zip(before.pages, self.seen.pages, levels, strict=True)]

    def _pair(self, before: SeenPage, after: SeenPage, page: Page) -> TilePair:
        same_size = (before.width, before.height) == (after.width, after.height) == (page.width, page.height)
        if not same_size or not np.array_equal(before.counts, after.counts):
            raise RedactionUnproven("a level of the output lists other tiles than the source's")
        used = after.counts > 0
        origin = np.zeros_like(after.offsets)
        origin[used] = self.output.origin(after.offsets[used], after.counts[used])
        if not np.array_equal(origin[used], before.offsets[used]):
            raise RedactionUnproven("a tile of the output is another tile of the source")
        return TilePair(page, origin, after.offsets, after.counts)

    def fill_whole(self, pairs: list[TilePair], target: int) -> None:
        """Put everything OpenSlide needs for the whole of one level into the output's stand-in."""
        for pair, chosen in drawing.needed(pairs, target):
            fill_tiles(self.source, pair, chosen, self.output_skeleton)


def _structure_of(source: ByteSource, family: str) -> list[tuple[int, int, int]]:
    structure = read_structure(source)
    if FAMILIES[family].children:
        structure = with_children(source, structure)
    ranges = {(0, structure.header_bytes)}
    for directory in structure.directories:
        ranges.add((directory.offset, directory.size_bytes))
        ranges |= {(tag.at, tag.size_bytes) for tag in directory.tags.values() if tag.inline is None}
    return [(at, at, length) for at, length in sorted(ranges)]


# --- look 2: the search --------------------------------------------------------------------------------


def _search(source: ByteSource, plan: SlidePlan, bench: Bench, pairs: list[TilePair]) -> tuple[int, int]:
    seeker = Seeker(plan.removed, around=plan.around)
    haystacks = [data for _, data in bench.output.literals]
    haystacks.append("\n".join(bench.seen.texts).encode("utf-8", "surrogatepass"))
    haystacks.append(b"\n".join(_tile_headers(source, pairs)))
    found = sum(seeker.find(haystack) for haystack in haystacks)
    if found:
        raise RedactionUnproven(f"{found} forms of removed strings are still in the output")
    return sum(map(len, haystacks)), seeker.forms


def _tile_headers(source: ByteSource, pairs: list[TilePair]) -> set[bytes]:
    """What precedes the scan in tiles of every level (all of a small level's, an even sample of a large one's):
    the only bytes of a tile that could be read as text."""
    headers: set[bytes] = set()
    for pair in pairs:
        used = np.flatnonzero(pair.counts > 0)
        for index in used[:: max(1, len(used) // 512)].tolist():
            head = source.read(int(pair.source_at[index]), min(int(pair.counts[index]), 2048))
            if pair.page.compression != 7:
                headers.add(head[: max(0, head.find(b"\xff\x93"))])
                continue
            if pair.page.restarts or head.find(b"\xff\xda") < 0:
                head = source.read(int(pair.source_at[index]), min(int(pair.counts[index]), HEADER_BYTES))
            headers.add(head[: read_jpeg_header(head).size_bytes])
    return headers


# --- look 3: pixels -------------------------------------------------------------------------------------


def _check_blanked(bench: Bench, pairs: list[TilePair]) -> None:
    """Zeros inside a tile replace what a comment or an application segment of its header says, and nothing else."""
    if not bench.output.blanked:
        return
    starts = np.sort(np.unique(np.concatenate([pair.source_at[pair.counts > 0] for pair in pairs])))
    for at, length in bench.output.blanked:
        index = int(np.searchsorted(starts, at, "right")) - 1
        start = int(starts[max(0, index)])
        if index < 0 or (at - start, length) not in _comments_in(bench.original.read(start, at + length - start)):
            raise RedactionUnproven("zeros stand in a tile where no comment stood")


def _comments_in(head: bytes) -> set[tuple[int, int]]:
    """Payloads of COM and APPn, but for those that begin as JFIF and Adobe segments do, walked from SOI; in JPEG 2000
    the texts of COM before the first tile-part."""
    found, at = set(), 2
    while head[:2] == b"\xff\x4f" and at + 4 <= len(head) and head[at] == 0xFF and head[at + 1] != 0x90:
        length = int.from_bytes(head[at + 2 : at + 4], "big")
        if head[at + 1] == 0x64:
            found.add((at + 6, length - 4))
        at += 2 + max(2, length)
    while head[:2] == b"\xff\xd8" and at + 4 <= len(head) and head[at] == 0xFF and head[at + 1] != 0xDA:
        length = int.from_bytes(head[at + 2 : at + 4], "big")
        named = head[at + 1] == 0xFE or 0xE0 <= head[at + 1] <= 0xEF
        if named and head[at + 4 : at + 9] not in (b"JFIF\0", b"Adobe"):
            found.add((at + 4, length - 2))
        at += 2 + max(2, length)
    return found


def _check_blanks(bench: Bench) -> None:
    """Every tile of a page without a picture is one literal of the plan's own making, and shows nothing."""
    seen: set[tuple[int, int]] = set()
    for page in bench.seen.blanks:
        for at, length in zip(page.offsets.tolist(), page.counts.tolist(), strict=True):
            if not length:
                continue
            data = bench.output.literal_between(at, at + length)
            if (at, length) not in seen:
                blank.check(data, compression=page.compression, size=page.segment_size, samples=page.samples)
            seen.add((at, length))
            if len(seen) > len(bench.seen.blanks):
                raise RedactionUnproven("a page that must be blank has more than one picture")


def _check_levels(bench: Bench, pairs: list[TilePair]) -> None:
    """No label stands in a level's clothes: every level shows what a finer one shows."""
    grids = [pyramid.grid_of(bench.source, pair, seen) for pair, seen in zip(pairs, bench.seen.pages, strict=True)]
    pyramid.refuse([pairs[number].page for number in pyramid.strangers(bench.scan, pairs, grids)])


def _check_thumbnail(bench: Bench, pairs: list[TilePair]) -> None:
    """The one picture beside the levels: bytes of the plan's own making, and the output's pyramid in small."""
    seen = bench.seen.thumbnail
    if seen is None:
        return
    at = int(seen.offsets[0])
    data = bench.output.literal_between(at, at + int(seen.counts[0]))
    likeness.check_stream(data)
    target = drawing.smallest(pairs)
    bench.fill_whole(pairs, target)
    with open_slide(bench.output_skeleton) as slide:
        drawn = drawing.draw(slide, pairs[target].page)
        if drawing.encode_thumbnail(drawn, (seen.width, seen.height)) != data:
            raise RedactionUnproven("the thumbnail is not drawn from the output's own pyramid")
        likeness.check_likeness(drawing.associated(slide, "thumbnail"), drawn)


# --- look 4 --------------------------------------------------------------------------------------------


def _tile_list_digest(pairs: list[TilePair]) -> str:
    """BLAKE3 over the ordered (source offset, length) of all tiles: equal lists, equal bytes."""
    digest = blake3()
    for pair in pairs:
        digest.update(np.stack([pair.source_at, pair.counts], axis=1).astype("<u8").tobytes())
    return digest.hexdigest()
