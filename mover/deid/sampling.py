"""Decode samples of source and output side by side: equal bytes must also mean equal pixels.

Three ways, by what the family allows:

- a tile of a level stands where its number says (Aperio, Hamamatsu, most TIFFs): OpenSlide reads that spot in both;
- a vendor's own geometry puts it elsewhere (Leica's glass, Ventana's stitching): OpenSlide reads spots of the areas it
  reports, the smallest level first, and tifffile decodes the sampled tiles themselves;
- OpenSlide does not know the family or this kind of it (OME, fluorescence): tifffile decodes the sampled tiles.

Both stand-ins get the same tiles, so a region neither holds reads the same in both: only what was filled is proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
import openslide
import tifffile
from blake3 import blake3
from msgspec import Struct
from PIL import Image

from mover.deid import drawing
from mover.deid.drawing import open_slide, read_region
from mover.deid.outcome import SlidePlan
from mover.deid.secondlook import PARSER_ERRORS, Seen
from mover.deid.skeleton import Output, Skeleton, TilePair, fill_from
from mover.errors import RedactionUnproven
from mover.model.slides import Page
from mover.model.source import ByteSource
from scanners.codestream import HEADER_BYTES, JpegHeader, read_jpeg_header

# At or below this all tiles are filled in and decoded; above, sampled.
WHOLE_BYTES: Final = 8 << 20
WITHOUT_RESTARTS_BYTES: Final = 400 << 20
# What is filled in of the smallest levels where OpenSlide's geometry is the vendor's.
SMALL_BYTES: Final = 32 << 20
SPOT: Final = 512
SPOTS: Final = 256
_MARGIN: Final = 8
_ROWS_AROUND: Final = 3

STITCHED: Final = frozenset({"leica-scn", "ventana-bif"})
MAYBE_UNKNOWN: Final = frozenset({"ome-tiff", "generic-tiff", "leica-scn"})


class Bench(Protocol):
    """What `mover.deid.verify` gives: both stand-ins and what the second parser says of the output."""

    source: ByteSource
    plan: SlidePlan
    output: Output
    output_skeleton: Skeleton
    source_skeleton: Skeleton
    seen: Seen
    dropped: list[Page]


class Decoded(Struct, frozen=True):
    tiles: int
    methods: tuple[str, ...]


def compare_pixels(bench: Bench, pairs: list[TilePair], *, samples: int) -> Decoded:
    """Raises RedactionUnproven where a sample differs, or a reader that opens the source refuses the output."""
    spots = _fill(bench, pairs, samples=samples)
    opens = bench.plan.family not in MAYBE_UNKNOWN or _opens(bench, bench.source_skeleton, pairs[0])
    methods: list[str] = []
    decoded = 0
    if opens:
        methods.append("openslide-pixels")
        decoded += _compare_in_openslide(bench, pairs, spots)
    hidden = [spot for spot in spots if spot[0].page.parent >= 0]  # OpenSlide knows no SubIFDs
    unseen = spots if bench.plan.family in STITCHED or not opens else hidden
    if unseen:
        methods.append("tifffile-pixels")
        decoded += _compare_in_tifffile(bench, pairs, unseen)
    return Decoded(decoded, tuple(methods))


def draw_small(bench: Bench, pairs: list[TilePair]) -> Image.Image:
    """The whole slide in small, from the output's stand-in."""
    target = drawing.smallest(pairs)
    if bench.plan.family in STITCHED:
        _fill_small(bench, pairs)
    else:
        for pair, chosen in drawing.needed(pairs, target):
            _fill_one(bench, pair, chosen)
    if bench.plan.family in MAYBE_UNKNOWN and not _opens(bench, bench.output_skeleton, pairs[0]):
        return _draw_in_tifffile(bench, pairs[target])
    with open_slide(bench.output_skeleton) as slide:
        if bench.plan.family in STITCHED or drawing.levels_of(slide, [pairs[target].page]):
            return drawing.draw(slide, pairs[target].page)
    return _draw_in_tifffile(bench, pairs[target])


def _opens(bench: Bench, skeleton: Skeleton, first: TilePair) -> bool:
    """Whether OpenSlide opens it, and takes the first level for the slide: where an OME file's label stands first, it
    shows the label."""
    try:
        with openslide.OpenSlide(skeleton.path) as slide:
            return bench.plan.family in STITCHED or bool(slide.dimensions == (first.page.width, first.page.height))
    except (openslide.OpenSlideError, OSError):
        return False


# --- filling --------------------------------------------------------------------------------------------


def _fill(bench: Bench, pairs: list[TilePair], *, samples: int) -> list[tuple[TilePair, int]]:
    """Fill samples of every level into both stand-ins; they come back as (level, number of the tile)."""
    whole = sum(int(pair.counts.sum()) for pair in pairs) <= WHOLE_BYTES or _needs_all(bench, pairs)
    missing = drawing.missing(pairs)
    spots: list[tuple[TilePair, int]] = []
    sizes: set[tuple[int, int]] = set()
    for pair, gone in zip(pairs, missing, strict=True):
        size = (pair.page.width, pair.page.height)
        if size in sizes and not whole and bench.plan.family not in STITCHED:
            continue  # another focal plane: OpenSlide shows the first; the tile list proves the rest
        sizes.add(size)
        if bench.plan.family == "hamamatsu-ndpi":
            spots += [(pair, row) for row in _fill_rows(bench, pair, whole=whole, samples=samples)]
            continue
        usable = np.flatnonzero((pair.counts > 0) & ~gone)
        # of a large slide fewer for each deeper level: the list of tiles proves the rest
        chosen = _choose(bench, usable, 64 if whole else samples if pair is pairs[0] else -(-samples // 2))
        _fill_one(bench, pair, np.flatnonzero(pair.counts > 0) if whole else chosen)
        spots += [(pair, index) for index in chosen.tolist()]
    if bench.plan.family in STITCHED and not whole:
        _fill_small(bench, pairs)
    return spots


def _fill_one(bench: Bench, pair: TilePair, chosen: np.ndarray) -> None:
    places = np.stack([pair.source_at[chosen], pair.output_at[chosen], pair.counts[chosen]], axis=1)
    for source_at, output_at, count in np.unique(places, axis=0).tolist():
        fill_from(bench.source, bench.source_skeleton, [(source_at, source_at, count)])
        fill_from(bench.source, bench.output_skeleton, [(source_at, output_at, count)])


def _fill_small(bench: Bench, pairs: list[TilePair]) -> None:
    """The smallest levels whole, as far as a budget goes."""
    budget = SMALL_BYTES
    for pair in sorted(pairs, key=lambda pair: int(pair.counts.sum())):
        budget -= int(pair.counts.sum())
        if budget < 0:
            return
        _fill_one(bench, pair, np.flatnonzero(pair.counts > 0))


def _choose(bench: Bench, usable: np.ndarray, samples: int) -> np.ndarray:
    """Spread over the level, jittered by a digest of the output's structure: repeatable, not foreseeable."""
    if len(usable) <= samples:
        return usable
    seed = int.from_bytes(blake3(bench.output.literals[0][1]).digest()[:4], "little")
    step = len(usable) / samples
    return usable[[int(number * step + (seed >> number % 16) % max(1, int(step))) for number in range(samples)]]


def _fill_rows(bench: Bench, pair: TilePair, *, whole: bool, samples: int) -> list[int]:
    """A Hamamatsu level: its JPEG header, and restart intervals around the sampled ones."""
    restarts, total = np.frombuffer(pair.page.restarts, "u8"), int(pair.counts[0])
    if whole or len(restarts) < 2:
        _fill_one(bench, pair, np.array([0]))
        return _choose(bench, np.arange(max(1, len(restarts))), samples).tolist()
    header = _header_of(bench, pair)
    _fill_part(bench, pair, 0, header.size_bytes)
    across = max(1, header.mcus_across // header.restart_interval) if header.restart_interval else 1
    rows = _choose(bench, np.arange(len(restarts)), samples).tolist()
    for index in rows:
        reach = across * _ROWS_AROUND
        begin, end = max(0, index - reach), min(len(restarts), index + reach + 1)
        start = int(restarts[begin]) - 2
        stop = int(restarts[end]) if end < len(restarts) else total
        _fill_part(bench, pair, start, stop - start)
    return rows


def _fill_part(bench: Bench, pair: TilePair, at: int, length: int) -> None:
    """A range inside a level's only strip."""
    piece = bench.source.read(int(pair.source_at[0]) + at, length)
    bench.output_skeleton.fill(int(pair.output_at[0]) + at, piece)
    bench.source_skeleton.fill(int(pair.source_at[0]) + at, piece)


def _header_of(bench: Bench, pair: TilePair) -> JpegHeader:
    return read_jpeg_header(bench.source.read(int(pair.source_at[0]), min(int(pair.counts[0]), HEADER_BYTES)))


def _needs_all(bench: Bench, pairs: list[TilePair]) -> bool:
    """OpenSlide seeks missing restart positions itself, through all levels' bytes: then all must be there."""
    if bench.plan.family != "hamamatsu-ndpi":
        return False
    if all(len(pair.page.restarts) > 1 or not _header_of(bench, pair).restart_interval for pair in pairs):
        return False
    if sum(int(pair.counts.sum()) for pair in pairs) > WITHOUT_RESTARTS_BYTES:
        raise RedactionUnproven("a slide without restart positions is too large to prove")
    return True


# --- OpenSlide ------------------------------------------------------------------------------------------

Region = tuple[int, tuple[int, int], tuple[int, int]]


def _compare_in_openslide(bench: Bench, pairs: list[TilePair], spots: list[tuple[TilePair, int]]) -> int:
    with open_slide(bench.source_skeleton) as before, open_slide(bench.output_skeleton) as after:
        _compare_properties(before, after, [(page.width, page.height) for page in bench.dropped])
        _check_associated(bench, after)
        if bench.plan.family in STITCHED:
            whole = sum(int(pair.counts.sum()) for pair in pairs) <= WHOLE_BYTES
            regions = list(_spots_of(after, every_level=whole))
        else:
            places = drawing.levels_of(after, [pair.page for pair in pairs])
            regions = [found for pair, index in spots for found in _region(bench, pair, index, after, places)]
        for level, where, size in regions:
            same = before.level_dimensions.index(after.level_dimensions[level]) if bench.dropped else level
            old, new = read_region(before, where, same, size), read_region(after, where, level, size)
            if not np.array_equal(np.asarray(old), np.asarray(new)):
                raise RedactionUnproven("a tile's pixels differ from the source's")
    return len(regions)


def _region(
    bench: Bench, pair: TilePair, index: int, slide: openslide.OpenSlide, places: dict[int, int]
) -> Iterator[Region]:
    """The inner part of a tile, as level, level-0 position and size: neighbours may be absent from the stand-ins."""
    page, level = pair.page, places.get(pair.page.index)
    if level is None:
        return  # a focal plane or channel that OpenSlide does not show
    limit_x, limit_y = slide.level_dimensions[level]
    if bench.plan.family == "hamamatsu-ndpi":
        header = _header_of(bench, pair)
        wide = header.restart_interval * header.mcu_width or page.width
        high = header.mcu_height if header.restart_interval else page.height
        across, margin = max(1, page.width // wide), (0, 0)
    else:
        wide, high = page.tile_width or page.width, page.tile_height or page.height
        across, margin = -(-page.width // wide), (min(_MARGIN, wide // 4), min(_MARGIN, high // 4))
    x, y = index % across * wide + margin[0], index // across * high + margin[1]
    size = (min(wide - 2 * margin[0], limit_x - x, SPOT), min(high - 2 * margin[1], limit_y - y, SPOT))
    size = (max(1, size[0]), max(1, size[1]))
    down = slide.level_downsamples[level]
    yield level, (round(min(x, limit_x - 1) * down), round(min(y, limit_y - 1) * down)), size


def _spots_of(slide: openslide.OpenSlide, *, every_level: bool) -> Iterator[Region]:
    """Squares of every area OpenSlide reports: of the smallest level side by side, of the others (when all of the
    slide is filled in) in the corners and the middle. At most SPOTS of each."""
    last = slide.level_count - 1
    for level in range(0 if every_level else last, last + 1):
        found: list[Region] = []
        for x, y, wide, high in drawing.areas_of(slide, level):
            shares = (0.0, 0.5, 1.0)
            columns = range(0, wide, SPOT) if level == last else {int(one * max(0, wide - SPOT)) for one in shares}
            rows = range(0, high, SPOT) if level == last else {int(one * max(0, high - SPOT)) for one in shares}
            down = slide.level_downsamples[level]
            found += [
                (level, (round((x + column) * down), round((y + row) * down)), (min(SPOT, wide), min(SPOT, high)))
                for row in sorted(rows) for column in sorted(columns)
            ]  # fmt: skip
        yield from found[:: max(1, -(-len(found) // SPOTS))]


def _compare_properties(
    before: openslide.OpenSlide, after: openslide.OpenSlide, dropped: list[tuple[int, int]]
) -> None:
    """Equal, but for levels of the source that were dropped: of these sizes."""
    names = {
        openslide.PROPERTY_NAME_VENDOR, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y,
        openslide.PROPERTY_NAME_OBJECTIVE_POWER,
    }  # fmt: skip
    spatial = ("openslide.bounds-", "openslide.region[", *(() if dropped else ("openslide.level[",)))
    names |= {name for name in (*before.properties, *after.properties) if name.startswith(spatial)}
    if any(before.properties.get(name) != after.properties.get(name) for name in names):
        raise RedactionUnproven("vendor, resolution, objective or geometry differ from the source's")
    levels = list(before.level_dimensions)
    for size in dropped:
        if size in levels:
            levels.remove(size)
    if levels != list(after.level_dimensions):
        raise RedactionUnproven("OpenSlide sees other levels than in the source")


def _check_associated(bench: Bench, after: openslide.OpenSlide) -> None:
    """Beside the levels: the thumbnail that was drawn anew, and pages that stand blank."""
    own = {"thumbnail"} if bench.seen.thumbnail is not None else set()
    others = set(after.associated_images) - own
    if len(others) > len(bench.seen.blanks):
        raise RedactionUnproven("OpenSlide finds an associated picture in the output")
    for name in sorted(others):
        shown = np.asarray(drawing.associated(after, name).convert("RGB"))
        if (shown != shown[0, 0]).any():
            raise RedactionUnproven("an associated picture that must be blank shows something")


# --- tifffile -------------------------------------------------------------------------------------------


def _compare_in_tifffile(bench: Bench, pairs: list[TilePair], spots: list[tuple[TilePair, int]]) -> int:
    """The sampled tiles, decoded by what each file's own tags say. The lists of offsets were compared before."""
    try:
        with (
            open(bench.source_skeleton.path, "rb") as left, open(bench.output_skeleton.path, "rb") as right,
            tifffile.TiffFile(left) as before, tifffile.TiffFile(right) as after,
        ):  # fmt: skip
            old = {_first_offset(page): page for page in _all_pages(before)}
            new = {_first_offset(page): page for page in _all_pages(after)}
            for pair, index in spots:
                one, two = old[_first(pair.source_at, pair.counts)], new[_first(pair.output_at, pair.counts)]
                if not np.array_equal(_decode(one, index), _decode(two, index)):
                    raise RedactionUnproven("a tile's pixels differ from the source's")
    except PARSER_ERRORS as error:
        raise RedactionUnproven("the second parser cannot decode a tile") from error
    return len(spots)


def _all_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    for page in tiff.pages:
        if isinstance(page, tifffile.TiffPage):
            yield page
            yield from (one for one in (page.pages or ()) if isinstance(one, tifffile.TiffPage))


def _first_offset(page: tifffile.TiffPage) -> int:
    return next((int(at) for at, count in zip(page.dataoffsets, page.databytecounts, strict=True) if count), 0)


def _first(offsets: np.ndarray, counts: np.ndarray) -> int:
    used = np.flatnonzero(counts > 0)
    return int(offsets[used[0]]) if len(used) else 0


def _decode(page: tifffile.TiffPage, index: int) -> np.ndarray:
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[index])
    data = handle.read(page.databytecounts[index])
    decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
    if decoded is None:
        raise ValueError("nothing was decoded")
    return np.asarray(decoded)


def _draw_in_tifffile(bench: Bench, pair: TilePair) -> Image.Image:
    """A level put together from its tiles; at most DRAWN_PIXELS of them."""
    page = pair.page
    if page.width * page.height > drawing.DRAWN_PIXELS:
        raise RedactionUnproven("the smallest level is too large to draw")
    try:
        with open(bench.output_skeleton.path, "rb") as file, tifffile.TiffFile(file) as tiff:
            pages = {_first_offset(one): one for one in _all_pages(tiff)}
            pixels = np.asarray(pages[_first(pair.output_at, pair.counts)].asarray())
    except PARSER_ERRORS as error:
        raise RedactionUnproven("the second parser cannot decode the smallest level") from error
    return drawing.picture_of(pixels)
