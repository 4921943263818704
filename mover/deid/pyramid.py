"""Every level shows the slide of a finer one: a label in a level's clothes is found by its picture.

Tiles and proportions make a page a level, and a label or overview can be given both. So of every level spots are
decoded, by the second parser, and held against the same spots of the next finer level, made small by area. Spots are
taken all over the level, its corners and edges included (labels stand at an end), and where a tile has most bytes,
because a uniform spot proves nothing. A level that is uniform throughout shows nobody's name.

What is compared are means of small squares, as correlation: writers sharpen, thin out instead of averaging, and code
one level better than the other, and none of it changes where light and dark stand. Noise that averages away is no
structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from msgspec import Struct, structs
from PIL import Image

from mover.deid.secondlook import SeenPage
from mover.deid.skeleton import TilePair
from mover.errors import RedactionUnproven
from mover.model.slides import Page, SlideScan
from mover.model.source import ByteSource
from scanners import leica

CELL: Final = 4  # pixels of the coarser level whose mean is compared
PATCH: Final = 40  # pixels of it that a spot should have in either direction
FINE_TILES: Final = 16  # of the finer level for one spot
REGIONS: Final = 3  # in either direction: one spot each a round
REGIONS_LARGE: Final = 2  # of a level that is larger than any picture of a label
LABEL_PIXELS: Final = 4 << 20
ROUNDS: Final = 2
ROUNDS_UNCODED: Final = 6  # where the lengths of tiles do not tell which show anything
ENOUGH: Final = 3  # spots with structure
RELATIVES: Final = 8  # finer levels one is held against before it is called a stranger
CACHED: Final = 32  # decoded tiles of a level
_LEAST_CELLS: Final = 12
_UNCODED: Final = 1  # TIFF's compression "none"

# Of 255; a spot whose squares differ by less is uniform. Of other kinds of numbers a share of the highest.
FLOOR: Final = 4.0
_SHARE: Final = 0.016
_NOISE: Final = 2.0
# Measured on real slides of four scanners reduced by 2, 4 and 8: averaged, sharpened, thinned out, coded at quality
# 30, with the noise of fluorescence, all spots together correlate by 0.98 and more, the worst single one by 0.94; two
# pixels beside their place by 0.78 and 0.60. Labels and overviews in their place: 0.20 at most, the worst spot below 0.
SPOT_BOUND: Final = 0.3
WHOLE_BOUND: Final = 0.5

# Families whose readers do not miss a level, and how many strangers a slide of them may have.
DROPPING: Final = frozenset({"aperio-svs", "generic-tiff", "ome-tiff"})
STRANGERS: Final = 2


class Grid(Struct):
    """A level as tiles that can be decoded one by one. `counts` are their lengths, 0 for one that is missing; `coded`
    says that they tell which tiles show much."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    counts: np.ndarray
    coded: bool
    decode: Callable[[int], np.ndarray]
    cache: dict[int, Image.Image] = {}  # noqa: RUF012 - msgspec copies it

    @property
    def across(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def down(self) -> int:
        return -(-self.height // self.tile_height)

    def tile(self, number: int) -> Image.Image:
        found = self.cache.get(number)
        if found is None:
            if len(self.cache) >= CACHED:
                self.cache.pop(next(iter(self.cache)))
            found = self.cache[number] = _picture(self.decode(number))
        return found


class Spot(Struct, frozen=True):
    """Means of the same squares in both levels, and how much a square of noise alone would differ. `fine` is empty
    where the finer level lacks all of it."""

    coarse: np.ndarray
    fine: np.ndarray
    noise: float


def grid_of(source: ByteSource, pair: TilePair, seen: SeenPage) -> Grid:
    """A level of the output: its tiles stand in the source, and are decoded by what the output's tags say."""
    at, counts = seen.pieces or (seen.offsets, seen.counts)
    origin = pair.source_at if seen.pieces is None else at - pair.output_at[0] + pair.source_at[0]
    decode = seen.decode

    def tile(number: int) -> np.ndarray:
        if decode is None:
            raise RedactionUnproven("the second parser cannot decode a level")
        return decode(source.read(int(origin[number]), int(counts[number])), number)

    wide, high = seen.segment_size
    return Grid(seen.width, seen.height, wide, high, counts, seen.compression != _UNCODED, tile)


def families_of(scan: SlideScan) -> dict[int, object]:
    """What each level's page is a picture of, as far as the file says: levels of one family show the same."""
    if scan.family == "leica-scn":
        collection = leica.collection_of(scan.documents[0])
        return {
            leica.number(one, "ifd"): (number, one.get("z"), one.get("c"))
            for number, image in enumerate(collection.named("image"))
            for one in leica.dimensions_of(image)
        }
    if scan.family == "ome-tiff":
        return {page.index: page.index if page.parent < 0 else page.parent for page in scan.levels}
    return {page.index: 0 for page in scan.levels}


def strangers(scan: SlideScan, pairs: Sequence[TilePair], grids: Sequence[Grid]) -> list[int]:
    """The levels (their place in the list) that show another picture than every finer level they could be made of."""
    family, found = families_of(scan), list[int]()
    order = sorted(range(len(pairs)), key=lambda number: -pairs[number].page.width * pairs[number].page.height)
    padded, each = scan.family in ("philips-tiff", "ventana-bif"), scan.family != "ventana-bif"
    for number in order:
        finer = list(_finer(pairs, number, family, found))
        if finer and not any(_alike(grids[number], grids[one], padded=padded, each=each) for one in finer):
            found.append(number)
    return found


def _finer(pairs: Sequence[TilePair], number: int, family: dict[int, object], without: list[int]) -> Iterator[int]:
    """Levels of the next larger size in the same family: first the one of the same focal plane, by their order."""
    page = pairs[number].page
    size, mine = (page.width, page.height), family.get(page.index)
    kin = [one for one, pair in enumerate(pairs) if one not in without and family.get(pair.page.index) == mine]
    sizes = {one: (pairs[one].page.width, pairs[one].page.height) for one in kin}
    larger = [one for one in kin if sizes[one] != size and sizes[one][0] >= size[0] and sizes[one][1] >= size[1]]
    if not larger:
        return
    following = min((sizes[one] for one in larger), key=lambda one: one[0] * one[1])
    planes = [one for one in larger if sizes[one] == following]
    rank = [one for one in kin if sizes[one] == size].index(number)
    yield from sorted(planes, key=lambda one: planes.index(one) != rank)[:RELATIVES]


def _alike(coarse: Grid, fine: Grid, *, padded: bool = False, each: bool = True) -> bool:
    return any(shows_the_same(coarse, fine, times, each=each) for times in _times(coarse, fine, padded=padded))


def _times(coarse: Grid, fine: Grid, *, padded: bool) -> list[tuple[float, float]]:
    """How many pixels of the finer level make one, across and down, likeliest first. A level's last pixels are cut
    off or, with `padded`, filled up to whole tiles."""
    exact = fine.width / coarse.width, fine.height / coarse.height
    whole = tuple(
        float(round(one)) if abs(one - round(one)) * size <= 2 * one else one
        for one, size in zip(exact, (coarse.width, coarse.height), strict=True)
    )
    doubled = 2.0 ** round(np.log2(max(exact)))
    found = [(whole[0], whole[1]), exact, (doubled, doubled)]
    return list(dict.fromkeys(found[::-1] if padded else found))


def shows_the_same(coarse: Grid, fine: Grid, times: tuple[float, float], *, each: bool = True) -> bool:
    """`times` are the pixels of the finer level for one of the coarser, across and down. Without `each` all spots are
    judged together only: where a level is put together of overlapping pictures, a single one may be off."""
    spots, structured = list[Spot](), list[Spot]()
    for chosen in _rounds(coarse):
        spots += [spot for number in chosen for spot in _spots(coarse, fine, number, times)]
        structured = [spot for spot in spots if _is_structured(spot)]
        if len(structured) >= ENOUGH:
            break
    return _is_same_picture(structured, each=each)


def _rounds(grid: Grid) -> Iterator[list[int]]:
    """Tiles, one of each region a round, those with most bytes first."""
    regions = REGIONS if grid.width * grid.height <= LABEL_PIXELS else REGIONS_LARGE
    columns, rows = np.meshgrid(np.arange(grid.across), np.arange(grid.down))
    region = (rows * regions // grid.down * regions + columns * regions // grid.across).ravel()
    counts = grid.counts[: len(region)]
    ordered = np.argsort(-counts, kind="stable")
    ordered = ordered[counts[ordered] > 0]
    piles = [ordered[region[ordered] == one].tolist() for one in range(regions**2)]
    at_ends = [] if regions == REGIONS_LARGE else _corners(grid)
    for turn in range(ROUNDS if grid.coded else ROUNDS_UNCODED):
        best = [pile[turn] for pile in piles if turn < len(pile)]
        yield best if turn else [*best, *(one for one in at_ends if one not in best)]


def _corners(grid: Grid) -> list[int]:
    """A label stands at an end, and may show little but white."""
    last = grid.across * (grid.down - 1)
    found = dict.fromkeys((0, grid.across - 1, last, last + grid.across - 1))
    return [one for one in found if grid.counts[one] > 0]


# --- one spot ------------------------------------------------------------------------------------------


def _spots(coarse: Grid, fine: Grid, number: int, times: tuple[float, float]) -> list[Spot]:
    """The part of a tile with most structure, of a level of few tiles several; without what the finer level lacks."""
    left, top = number % coarse.across * coarse.tile_width, number // coarse.across * coarse.tile_height
    wide, high = min(coarse.tile_width, coarse.width - left), min(coarse.tile_height, coarse.height - top)
    if min(wide, high) < CELL:
        return []
    picture = coarse.tile(number)
    means = _means(picture, (0, 0, wide // CELL * CELL, high // CELL * CELL), (wide // CELL, high // CELL))
    parts = np.array(list(_parts(fine, (left, top), (wide, high), times)), int).reshape(-1, 4)
    wanted, found = max(1, REGIONS * REGIONS // len(coarse.counts)), list[Spot]()
    for x, y, right, low in parts[np.argsort(-_variances(means, parts), kind="stable")].tolist():
        where = [left + CELL * x, top + CELL * y, left + CELL * right, top + CELL * low]
        finer, there = _fine_means(fine, [edge * times[at % 2] for at, edge in enumerate(where)], (right - x, low - y))
        here = means[y:low, x:right]
        if there.sum() < min(_LEAST_CELLS, here.size):
            continue
        inside = np.asarray(picture)[CELL * y : CELL * low, CELL * x : CELL * right]
        noise = max(0.0, float(inside.var()) - float(here.var())) ** 0.5 / CELL
        found.append(Spot(here[there], finer[there], noise))
        if len(found) >= wanted:
            break
    return found or [Spot(means.ravel(), np.zeros(0, np.float32), 0.0)]


def _variances(means: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Of the squares in each part (left, top, right, low), all at once."""
    x, y, right, low = parts.T
    moments = []
    for values in (means, means**2):
        sums = np.zeros((means.shape[0] + 1, means.shape[1] + 1))
        sums[1:, 1:] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
        moments.append((sums[low, right] - sums[y, right] - sums[low, x] + sums[y, x]) / ((right - x) * (low - y)))
    return np.asarray(moments[1] - moments[0] ** 2)


def _parts(
    fine: Grid, corner: tuple[int, int], size: tuple[int, int], times: tuple[float, float]
) -> Iterator[tuple[int, int, int, int]]:
    """Parts of a tile as left, top, right and low in squares, that few tiles of the finer level make up."""
    edges: list[list[tuple[int, int]]] = []
    budget = FINE_TILES
    for start, length, tile, time in zip(corner, size, (fine.tile_width, fine.tile_height), times, strict=True):
        each = tile / time
        several = min(max(1, -int(-PATCH // each)), budget if edges else 4)
        budget //= several
        step = several * each
        starts = [one - start for one in np.arange(-(-start // step) * step, start + length, step).tolist()]
        if not starts or starts[0] >= length / 2:
            starts = [0.0]
        edges.append([(int(-(-one // CELL)), int(min(one + step, length) // CELL)) for one in starts])
    least = min(_LEAST_CELLS, (size[0] // CELL) * (size[1] // CELL))
    for y, low in edges[1]:
        for x, right in edges[0]:
            if right > x and low > y and (right - x) * (low - y) >= least:
                yield x, y, right, low


def _fine_means(fine: Grid, where: list[float], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Means of the squares as the finer level shows them, and which of them it has all tiles of."""
    left, top, right, low = where[0], where[1], min(where[2], fine.width), min(where[3], fine.height)
    columns = range(int(left // fine.tile_width), int(-(-right // fine.tile_width)))
    rows = range(int(top // fine.tile_height), int(-(-low // fine.tile_height)))
    numbers = [row * fine.across + column for row in rows for column in columns]
    present = [number for number in numbers if fine.counts[number]]
    ends = where[2] - right > (where[2] - left) / size[0] / 2 or where[3] - low > (where[3] - top) / size[1] / 2
    if ends or not present or len(numbers) > 4 * FINE_TILES:
        return np.zeros(size[::-1], np.float32), np.zeros(size[::-1], bool)
    x, y = columns[0] * fine.tile_width, rows[0] * fine.tile_height
    box = (left - x, top - y, right - x, low - y)
    if len(numbers) == 1:
        return _means(fine.tile(numbers[0]), box, size), np.ones(size[::-1], bool)
    canvas = Image.new(fine.tile(present[0]).mode, (len(columns) * fine.tile_width, len(rows) * fine.tile_height))
    mask = Image.new("L", canvas.size)
    for number in present:
        corner = number % fine.across * fine.tile_width - x, number // fine.across * fine.tile_height - y
        canvas.paste(fine.tile(number), corner)
        mask.paste(255, (*corner, corner[0] + fine.tile_width, corner[1] + fine.tile_height))
    there = np.ones(size[::-1], bool) if present == numbers else _means(mask, box, size) == 255
    return _means(canvas, box, size), there


def _means(picture: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    box = (box[0], box[1], min(box[2], picture.width), min(box[3], picture.height))
    return np.asarray(picture.resize(size, Image.Resampling.BOX, box), np.float32)


def _picture(pixels: np.ndarray) -> Image.Image:
    """Decoded samples in grey, as Pillow averages them: eight bits as they are, anything else as float."""
    while pixels.ndim > 3:
        pixels = pixels[0]
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8:
        if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
            pixels = (pixels[..., 0] >> 2) + (pixels[..., 1] >> 1) + (pixels[..., 2] >> 2)
        if pixels.ndim == 2:
            return Image.fromarray(np.ascontiguousarray(pixels))
    flat = pixels.astype(np.float32)
    return Image.fromarray(flat.mean(axis=2) if flat.ndim == 3 else flat)


# --- the judgement -------------------------------------------------------------------------------------


def _floor(spot: Spot) -> float:
    highest = float(max(np.abs(one).max() for one in (spot.coarse, spot.fine) if one.size))
    return max(FLOOR if highest <= 255 else _SHARE * highest, _NOISE * spot.noise)


def _is_structured(spot: Spot, times: float = 1) -> bool:
    return float(max(one.std() for one in (spot.coarse, spot.fine) if one.size)) > times * _floor(spot)


def correlations(spots: Sequence[Spot]) -> tuple[list[float], float]:
    """Of each spot, and of all together."""
    each, over, under = [], 0.0, np.zeros(2)
    for spot in spots:
        coarse, fine = spot.coarse - spot.coarse.mean(), spot.fine - spot.fine.mean()
        powers = np.array([float((coarse**2).sum()), float((fine**2).sum())])
        common = float((coarse * fine).sum())
        each.append(common / max(1e-9, float(np.sqrt(powers.prod()))))
        over, under = over + common, under + powers
    return each, over / max(1e-9, float(np.sqrt(under.prod())))


def _is_same_picture(spots: Sequence[Spot], *, each: bool) -> bool:
    if not spots:
        return True
    spots = [spot for spot in spots if spot.fine.size]
    if not spots:
        return False  # it shows something, and nothing to hold it against
    single, whole = correlations(spots)
    strong = [one for one, spot in zip(single, spots, strict=True) if _is_structured(spot, times=2)]
    return whole >= WHOLE_BOUND and (not each or min(strong, default=1.0) >= SPOT_BOUND)


# --- what becomes of a stranger ------------------------------------------------------------------------


def refuse(strange: Sequence[Page]) -> None:
    """The refusal says which pages they are, so that `droppable` can tell."""
    if strange:
        told = [{"page": page.index, "width": page.width, "height": page.height} for page in strange]
        raise RedactionUnproven(
            "a page that passes for a level shows another picture than the finer levels", details=told
        )


def droppable(family: str, refusal: RedactionUnproven) -> tuple[int, ...]:
    """The strangers of a refusal, where the slide is whole without them: no reader of these families misses a level,
    and they are few and small enough for a label and an overview. Else none."""
    told = [one for one in refusal.details if one.keys() == {"page", "width", "height"}]
    small = all(int(str(one["width"])) * int(str(one["height"])) <= LABEL_PIXELS for one in told)
    if family not in DROPPING or len(told) > STRANGERS or not small:
        return ()
    return tuple(int(str(one["page"])) for one in told)


def without(scan: SlideScan, strange: Sequence[int]) -> SlideScan:
    """The scan with these pages as what they are: no levels."""
    if not strange:
        return scan
    pages = (structs.replace(one, role="other") if one.index in strange else one for one in scan.pages)
    places = (structs.replace(one, role="other") if one.page in strange else one for one in scan.places)
    return structs.replace(scan, pages=tuple(pages), places=tuple(places))
