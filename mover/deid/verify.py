"""The independent second pass over a de-identified slide (design: deidentification 4, proof 1-5).

It works on sparse stand-ins of source and output in memory, so a 100 GB slide costs no more than its structure
and a few dozen tiles. Four looks, none of which shares code with the writer:

1. tifffile parses the output: every tag and text on its own allow-list, every byte accounted for.
2. All literal bytes, decoded values and tile headers are searched for every harvested string in all its forms.
3. OpenSlide opens source and output: same vendor, levels, resolution, objective; equal pixels in sampled tiles of
   every level; no associated picture but an Aperio slide's thumbnail, a literal that shows the output's own pyramid.
4. The tile lists of source and output, both as tifffile reads them, are the same list once the recipe is undone.

What is proved here is the recipe. That the tier holds what the recipe says is the transfer engine's proof, by
digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import openslide
from blake3 import blake3
from PIL import Image

import scanners
from mover.deid import drawing, likeness
from mover.deid.drawing import open_slide, read_region
from mover.deid.outcome import SlideEvidence, SlidePlan
from mover.deid.search import Seeker
from mover.deid.secondlook import Seen, SeenPage, look, unaccounted
from mover.deid.skeleton import Output, Skeleton, TilePair, fill_from, fill_tiles
from mover.errors import RedactionUnproven
from mover.model.slides import Page, SlideScan
from mover.model.source import ByteSource
from scanners.codestream import HEADER_BYTES, JpegHeader, read_jpeg_header
from scanners.tiff import read_structure

VERIFIER: Final = "mover-slides/2"
SAMPLES: Final = 8
# At or below this all tiles are filled in and decoded; above, sampled.
WHOLE_BYTES: Final = 8 << 20
WITHOUT_RESTARTS_BYTES: Final = 400 << 20
PADDING: Final = 8
_MARGIN: Final = 8
_ROWS_AROUND: Final = 3


def verify_slide(source: ByteSource, plan: SlidePlan, *, samples: int = SAMPLES) -> SlideEvidence:
    """Prove that the plan's output is clean and whole, or raise RedactionUnproven (why, never what).

    The caller publishes nothing before this returns, and keeps the evidence with the certificate.
    """
    if plan.recipe.source_bytes != source.size_bytes:
        raise RedactionUnproven("the recipe was made for another source")
    with _Bench(source, plan) as bench:
        pairs = bench.pair_tiles()
        searched, forms = _search(source, plan, bench, pairs)
        decoded = _compare_pixels(bench, pairs, samples=samples)
        _check_thumbnail(bench, pairs)
        return SlideEvidence(
            verifier=VERIFIER,
            methods=("tifffile-structure", "string-search", "openslide-pixels", "thumbnail-likeness", "tile-list"),
            strings_sought=len(plan.removed),
            forms_sought=forms,
            bytes_searched=searched,
            tags_checked=bench.seen.tags,
            levels=len(pairs),
            tiles=sum(int((pair.counts > 0).sum()) for pair in pairs),
            tiles_decoded=decoded,
            tile_list_blake3=_tile_list_digest(pairs),
        )


def render_thumbnail(source: ByteSource, plan: SlidePlan, *, edge_px: int = 1024) -> bytes:
    """A JPEG of the whole slide, rendered anew from the de-identified pyramid, without any metadata."""
    with _Bench(source, plan) as bench:
        pairs = bench.pair_tiles()
        target = drawing.smallest(pairs)
        bench.fill_whole(pairs, target)
        with open_slide(bench.output_skeleton) as slide:
            drawn = drawing.draw(slide, pairs[target].page)
        return drawing.encode_preview(drawn, edge_px)


# --- the bench: both stand-ins and what the second parser says of them ---------------------------------


class _Bench:
    def __init__(self, source: ByteSource, plan: SlidePlan) -> None:
        self.source = source
        self.plan = plan
        self.output = Output(plan.recipe)
        self.scan: SlideScan = scanners.identify(source, f".{plan.extension}")
        self.output_skeleton = Skeleton(self.output.size_bytes)
        self.source_skeleton = Skeleton(source.size_bytes)

    def __enter__(self) -> _Bench:
        self.output.fill_literals(self.output_skeleton)
        fill_from(self.source, self.source_skeleton, _structure_of(self.source))
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
        before = look(self.source_skeleton.path, family=self.plan.family, strict=False)
        levels = self.scan.levels
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

    def fill(self, pair: TilePair, chosen: np.ndarray) -> None:
        """Put these tiles' bytes into both stand-ins."""
        for index in chosen.tolist():
            ranges = _parts(pair, index)
            data = [(at, self.source.read(int(pair.source_at[index]) + at, length)) for at, length in ranges]
            for at, piece in data:
                self.output_skeleton.fill(int(pair.output_at[index]) + at, piece)
                self.source_skeleton.fill(int(pair.source_at[index]) + at, piece)

    def fill_part(self, pair: TilePair, at: int, length: int) -> None:
        """A range inside a level's only strip."""
        piece = self.source.read(int(pair.source_at[0]) + at, length)
        self.output_skeleton.fill(int(pair.output_at[0]) + at, piece)
        self.source_skeleton.fill(int(pair.source_at[0]) + at, piece)


def _parts(pair: TilePair, index: int) -> Iterator[tuple[int, int]]:
    step = 8 << 20
    total = int(pair.counts[index])
    for at in range(0, total, step):
        yield at, min(step, total - at)


def _structure_of(source: ByteSource) -> list[tuple[int, int, int]]:
    structure = read_structure(source)
    ranges = {(0, structure.header_bytes)}
    for directory in structure.directories:
        ranges.add((directory.offset, directory.size_bytes))
        ranges |= {(tag.at, tag.size_bytes) for tag in directory.tags.values() if tag.inline is None}
    return [(at, at, length) for at, length in sorted(ranges)]


# --- look 2: the search --------------------------------------------------------------------------------


def _search(source: ByteSource, plan: SlidePlan, bench: _Bench, pairs: list[TilePair]) -> tuple[int, int]:
    seeker = Seeker(plan.removed)
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


# --- look 3: OpenSlide ---------------------------------------------------------------------------------


def _compare_pixels(bench: _Bench, pairs: list[TilePair], *, samples: int) -> int:
    whole = sum(int(pair.counts.sum()) for pair in pairs) <= WHOLE_BYTES or _needs_all(bench, pairs)
    missing = drawing.missing(pairs)
    regions: list[tuple[TilePair, int]] = []
    sizes: set[tuple[int, int]] = set()
    for pair, gone in zip(pairs, missing, strict=True):
        if (pair.page.width, pair.page.height) in sizes and not whole:
            continue  # another focal plane: OpenSlide shows the first; the tile list proves the rest
        sizes.add((pair.page.width, pair.page.height))
        if bench.plan.family == "hamamatsu-ndpi":
            regions += [(pair, row) for row in _fill_rows(bench, pair, whole=whole, samples=samples)]
            continue
        usable = np.flatnonzero((pair.counts > 0) & ~gone)
        chosen = _choose(bench, usable, 64 if whole else samples)
        bench.fill(pair, np.flatnonzero(pair.counts > 0) if whole else chosen)
        regions += [(pair, index) for index in chosen.tolist()]
    with open_slide(bench.source_skeleton) as before, open_slide(bench.output_skeleton) as after:
        _compare_properties(before, after, thumbnail=bench.seen.thumbnail is not None)
        for pair, index in regions:
            level = after.level_dimensions.index((pair.page.width, pair.page.height))
            where, size = _region(bench, pair, index, after.level_downsamples[level])
            old, new = read_region(before, where, level, size), read_region(after, where, level, size)
            if not np.array_equal(np.asarray(old), np.asarray(new)):
                raise RedactionUnproven("a tile's pixels differ from the source's")
    return len(regions)


def _choose(bench: _Bench, usable: np.ndarray, samples: int) -> np.ndarray:
    """Spread over the level, jittered by a digest of the output's structure: repeatable, not foreseeable."""
    if len(usable) <= samples:
        return usable
    seed = int.from_bytes(blake3(bench.output.literals[0][1]).digest()[:4], "little")
    step = len(usable) / samples
    return usable[[int(number * step + (seed >> number % 16) % max(1, int(step))) for number in range(samples)]]


def _fill_rows(bench: _Bench, pair: TilePair, *, whole: bool, samples: int) -> list[int]:
    """A Hamamatsu level: its JPEG header, and restart intervals around the sampled ones."""
    restarts, total = np.frombuffer(pair.page.restarts, "u8"), int(pair.counts[0])
    if whole or len(restarts) < 2:
        bench.fill(pair, np.array([0]))
        return _choose(bench, np.arange(max(1, len(restarts))), samples).tolist()
    header = _header_of(bench, pair)
    bench.fill_part(pair, 0, header.size_bytes)
    across = max(1, header.mcus_across // header.restart_interval) if header.restart_interval else 1
    rows = _choose(bench, np.arange(len(restarts)), samples).tolist()
    for index in rows:
        reach = across * _ROWS_AROUND
        begin, end = max(0, index - reach), min(len(restarts), index + reach + 1)
        start = int(restarts[begin]) - 2
        stop = int(restarts[end]) if end < len(restarts) else total
        bench.fill_part(pair, start, stop - start)
    return rows


def _header_of(bench: _Bench, pair: TilePair) -> JpegHeader:
    return read_jpeg_header(bench.source.read(int(pair.source_at[0]), min(int(pair.counts[0]), HEADER_BYTES)))


def _needs_all(bench: _Bench, pairs: list[TilePair]) -> bool:
    """OpenSlide seeks missing restart positions itself, through all levels' bytes: then all must be there."""
    if bench.plan.family != "hamamatsu-ndpi":
        return False
    if all(len(pair.page.restarts) > 1 or not _header_of(bench, pair).restart_interval for pair in pairs):
        return False
    if sum(int(pair.counts.sum()) for pair in pairs) > WITHOUT_RESTARTS_BYTES:
        raise RedactionUnproven("a slide without restart positions is too large to prove")
    return True


def _region(bench: _Bench, pair: TilePair, index: int, downsample: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """The inner part of a tile, as level-0 position and size: neighbours may be absent from the stand-ins."""
    page = pair.page
    if bench.plan.family == "hamamatsu-ndpi":
        header = _header_of(bench, pair)
        wide = header.restart_interval * header.mcu_width or page.width
        high = header.mcu_height if header.restart_interval else page.height
        across = max(1, page.width // wide)
        column, row, margin = index % across, index // across, 0
    else:
        wide, high = page.tile_width, page.tile_height
        across = -(-page.width // wide)
        column, row, margin = index % across, index // across, min(_MARGIN, wide // 4, high // 4)
    x, y = column * wide + margin, row * high + margin
    size = (max(1, min(wide - 2 * margin, page.width - x, 512)), max(1, min(high - 2 * margin, page.height - y, 512)))
    return (round(min(x, page.width - 1) * downsample), round(min(y, page.height - 1) * downsample)), size


def _check_thumbnail(bench: _Bench, pairs: list[TilePair]) -> None:
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
        likeness.check_likeness(_associated(slide, "thumbnail"), drawn)


def _associated(slide: openslide.OpenSlide, name: str) -> Image.Image:
    try:
        return slide.associated_images[name]
    except openslide.OpenSlideError as error:
        raise RedactionUnproven("OpenSlide cannot decode the thumbnail") from error


def _compare_properties(before: openslide.OpenSlide, after: openslide.OpenSlide, *, thumbnail: bool) -> None:
    names = (
        openslide.PROPERTY_NAME_VENDOR, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y,
        openslide.PROPERTY_NAME_OBJECTIVE_POWER,
    )  # fmt: skip
    if any(before.properties.get(name) != after.properties.get(name) for name in names):
        raise RedactionUnproven("vendor, resolution or objective differ from the source's")
    if before.level_dimensions != after.level_dimensions:
        raise RedactionUnproven("OpenSlide sees other levels than in the source")
    if set(after.associated_images) != ({"thumbnail"} if thumbnail else set()):
        raise RedactionUnproven("OpenSlide finds an associated picture in the output")


# --- look 4 --------------------------------------------------------------------------------------------


def _tile_list_digest(pairs: list[TilePair]) -> str:
    """BLAKE3 over the ordered (source offset, length) of all tiles: equal lists, equal bytes."""
    digest = blake3()
    for pair in pairs:
        digest.update(np.stack([pair.source_at, pair.counts], axis=1).astype("<u8").tobytes())
    return digest.hexdigest()
