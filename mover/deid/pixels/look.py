"""Finding lines of text in pictures, from a cheap look at edges to a spelled line.

Three steps, each narrower than the one before:

1. *Edges.* Burned-in text is drawn by a computer: strokes a few pixels wide with steps from one pixel to the next.
   Where no small block has many steps, nobody could read a line, and no network is asked. Most of a radiograph and
   the air around a slice end here.
2. *The detector* sees the rest, enlarged twice (and once, and for small pictures four times), in tiles with overlap.
   It finds nine of ten lines of seven pixels' height and nearly all above, but it also takes vessels and bowel for
   writing.
3. *The recogniser* spells each place, upright and turned. Anatomy spells one or two letters without conviction,
   a name or a number many. A place beside a line that was sure needs less.

A single letter is never taken for text: markers of side (R, L) belong to the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct
from PIL import Image

from mover.deid.pixels import reader
from mover.deid.pixels.reader import Place, Reading
from mover.deid.pixels.words import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP: Final = 16  # of 255: a difference between neighbours that an eye may take for a stroke's edge
BLOCK_WIDTH, BLOCK_HEIGHT = 8, 8
BUSY: Final = 0.30  # this share of a block's pixels on an edge: there may be text
CONTEXT_PX: Final = 24  # shown around a busy area, because the detector wants surroundings
TILE_PX: Final = 512
OVERLAP_PX: Final = 64
SMALL_PX: Final = 200  # pictures up to this side are enlarged four times as well
LARGE_PX: Final = 800  # and above this side seen reduced by two, for letters of an inch
SQUARE: Final = 32  # the detector's step
SHORTEST_PX: Final = 4  # of a line's height in the picture's own pixels
MAX_READ: Final = 48  # places of one look that are spelled, the longest and likeliest first: noise has thousands

# A letter is at least this share of its line's height wide; a place that spells more than fit is no line.
NARROWEST: Final = 0.28
# Ink is what is nearer to the letters' colour than this share of their contrast; where the ink takes less than this
# share of a box's side, the box is left as it was found.
INK: Final = 0.35
LEAST_INK: Final = 0.4
SAME_INK: Final = 0.12  # strokes beyond a box belong to its line when they are this near to its ink's colour,
GAP: Final = 0.8  # stand at most so many heights apart,
REACH: Final = 5  # and no farther out than so many heights
# A place is text when it spells so many characters with such confidence.
SURE: Final = ((6, 0.30), (5, 0.40), (4, 0.60), (3, 0.70), (2, 0.85))
BESIDE: Final = ((4, 0.25), (3, 0.35), (2, 0.45), (1, 0.60))


class Found(Struct, frozen=True):
    """Lines of text in one picture, in its own pixels, and how many times the detector was asked."""

    boxes: tuple[Box, ...]
    passes: int


class _Line(Struct, frozen=True):
    box: Box
    score: float
    reading: Reading


def find_text(picture: NDArray[np.uint8], *, scales: tuple[float, ...] = ()) -> Found:
    """Lines of text in an 8-bit picture, grey or in colours. `scales` asks for other enlargements than the usual
    ones, so that a second look does not see with the same eyes."""
    lines: list[_Line] = []
    passes = 0
    for area, scale in _areas(picture, scales):
        crop = picture[area.top : area.bottom, area.left : area.right]
        shown = _shown(crop, scale)
        passes += 1
        lines += [_home(line, area, scale) for line in _lines(shown, scale)]
    grey = picture.mean(axis=2).astype(np.uint8) if picture.ndim == 3 else picture
    return Found(tuple(dict.fromkeys(_inked(grey, box) for box in _kept(lines))), passes)


def busy(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which blocks of a picture, by half a block's step, have as many edges as text has."""
    grey = picture.astype(np.int16)
    if grey.shape[0] < BLOCK_HEIGHT or grey.shape[1] < BLOCK_WIDTH:
        return np.ones((1, 1), bool)  # too small for blocks: the detector decides
    edge = np.zeros(grey.shape[:2], bool)
    for axis in (0, 1):
        step = np.abs(np.diff(grey, axis=axis)) >= STEP
        if step.ndim == 3:
            step = np.asarray(step.any(axis=2))
        inner = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        edge[inner] |= step
    return _share(edge) >= BUSY


def _share(edge: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The share of set pixels in every block, at steps of half a block, by one summed table."""
    half_high, half_wide = BLOCK_HEIGHT // 2, BLOCK_WIDTH // 2
    high, wide = edge.shape[0] // half_high * half_high, edge.shape[1] // half_wide * half_wide
    cells = edge[:high, :wide].reshape(high // half_high, half_high, wide // half_wide, half_wide)
    sums = cells.sum(axis=(1, 3), dtype=np.float32)
    blocks = sums[:-1, :-1] + sums[1:, :-1] + sums[:-1, 1:] + sums[1:, 1:]
    return np.asarray(blocks / (BLOCK_HEIGHT * BLOCK_WIDTH), dtype=np.float32)


def _areas(picture: NDArray[np.uint8], scales: tuple[float, ...]) -> Iterator[tuple[Box, float]]:
    """What the detector is shown: the busy part of every tile, at each scale; a large picture also as a whole."""
    height, width = picture.shape[:2]
    fine, coarse = busy(picture), busy(_halved(picture))
    if not (fine.any() or coarse.any()):
        return
    if scales:
        usual: tuple[float, ...] = scales
    elif max(height, width) <= SMALL_PX:
        usual = (4.0, 2.0, 1.0)
    else:
        usual = (2.0, 1.0)
    for tile in _tiles(height, width):
        part = _busy_part(tile, fine, coarse, height, width)
        if part is not None:
            yield from ((part, scale) for scale in usual)
    scale = 0.5
    while max(height, width) * scale * 2 > LARGE_PX:
        yield Box(0, 0, width, height), scale
        scale /= 2


def _tiles(height: int, width: int) -> Iterator[Box]:
    stride = TILE_PX - OVERLAP_PX
    for top in range(0, max(1, height - OVERLAP_PX), stride):
        for left in range(0, max(1, width - OVERLAP_PX), stride):
            yield Box(left, top, min(width, left + TILE_PX), min(height, top + TILE_PX))


def _busy_part(tile: Box, fine: NDArray[np.bool_], coarse: NDArray[np.bool_], height: int, width: int) -> Box | None:
    """The rectangle around all busy blocks of a tile, with context; None where there is none."""
    parts = []
    for blocks, step in ((fine, BLOCK_WIDTH // 2), (coarse, BLOCK_WIDTH)):
        top, left = tile.top // step, tile.left // step
        rows, columns = np.nonzero(blocks[top : -(-tile.bottom // step), left : -(-tile.right // step)])
        if rows.size:
            parts.append(
                Box(
                    int(left + columns.min()) * step,
                    int(top + rows.min()) * step,
                    int(left + columns.max() + 2) * step,
                    int(top + rows.max() + 2) * step,
                )
            )
    if not parts:
        return None
    return Box(
        max(tile.left, min(p.left for p in parts) - CONTEXT_PX),
        max(tile.top, min(p.top for p in parts) - CONTEXT_PX),
        min(width, tile.right, max(p.right for p in parts) + CONTEXT_PX),
        min(height, tile.bottom, max(p.bottom for p in parts) + CONTEXT_PX),
    )


def _halved(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    high, wide = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    cells = picture[:high, :wide].reshape(high // 2, 2, wide // 2, 2, -1)
    half = cells.mean(axis=(1, 3), dtype=np.float32).astype(np.uint8)
    return half[:, :, 0] if picture.ndim == 2 else half


def _shown(crop: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """The crop at its scale, on a ground of the next multiple of the detector's step, in the crop's own middle tone."""
    high = max(1, round(crop.shape[0] * scale))
    wide = max(1, round(crop.shape[1] * scale))
    scaled = np.asarray(Image.fromarray(crop).resize((wide, high), Image.Resampling.BICUBIC))
    ground = np.empty((-(-high // SQUARE) * SQUARE, -(-wide // SQUARE) * SQUARE, *crop.shape[2:]), np.uint8)
    ground[:] = np.median(crop.reshape(-1, *crop.shape[2:]), axis=0).astype(np.uint8)
    ground[:high, :wide] = scaled
    return ground


def _lines(shown: NDArray[np.uint8], scale: float) -> list[_Line]:
    shortest = max(3.0, SHORTEST_PX * scale)
    places = [place for place in reader.detect(shown) if _edges(place.box)[0] >= shortest]
    likely = sorted(places, key=lambda place: -place.score * _edges(place.box)[1])[:MAX_READ]
    return [_Line(place.box, place.score, _reading(shown, place)) for place in likely]


def _edges(box: Box) -> tuple[int, int]:
    wide, high = box.right - box.left, box.bottom - box.top
    return min(wide, high), max(wide, high)


def _reading(shown: NDArray[np.uint8], place: Place) -> Reading:
    """The best of the ways a line may be turned; the first that is sure ends the search."""
    box = place.box
    line = shown[box.top : box.bottom, box.left : box.right]
    tall = line.shape[0] > 1.2 * line.shape[1]
    best = Reading(0, 0.0)
    for turns in (1, 3, 0) if tall else (0, 2):
        turned = np.ascontiguousarray(np.rot90(line, turns))
        reading = reader.read(turned)
        if reading.characters * NARROWEST * turned.shape[0] > turned.shape[1]:
            continue
        if _is_text(reading, SURE):
            return reading
        if min(reading.characters, 4) * reading.confidence > min(best.characters, 4) * best.confidence:
            best = reading
    return best


def _is_text(reading: Reading, rules: tuple[tuple[int, float], ...]) -> bool:
    return any(reading.characters >= count and reading.confidence >= sure for count, sure in rules)


def _home(line: _Line, area: Box, scale: float) -> _Line:
    """From the shown pixels to the picture's own."""
    box = line.box
    back = Box(
        area.left + int(box.left / scale),
        area.top + int(box.top / scale),
        min(area.right, area.left + int(np.ceil(box.right / scale))),
        min(area.bottom, area.top + int(np.ceil(box.bottom / scale))),
    )
    return _Line(back, line.score, line.reading)


def _kept(lines: list[_Line]) -> list[Box]:
    """The sure lines, and those beside one that are of its height and spell at least a little."""
    sure = [line.box for line in lines if _is_text(line.reading, SURE)]
    if not sure:
        return []
    near = [
        line.box for line in lines if _is_text(line.reading, BESIDE) and any(_beside(line.box, one) for one in sure)
    ]
    return list(dict.fromkeys(sure + near))


def _inked(picture: NDArray[np.uint8], box: Box) -> Box:
    """The box drawn in, or out, to its ink. The detector's boxes stand off by a quarter of a line, which is anatomy,
    and may end before the last letters, where the ground changes.

    Strokes have one colour and their ground has many: of the two sides of the steepest steps the more uniform one is
    the ink. Rims without any ink are given up; along the line, letters in the same colour are taken in.
    """
    part = picture[box.top : box.bottom, box.left : box.right].astype(np.int16)
    found = _ink_of(part)
    if found is None:
        return box
    ink, contrast = found
    inked = np.abs(part - ink) <= max(4.0, INK * contrast)
    rows, columns = np.nonzero(inked.any(axis=1))[0], np.nonzero(inked.any(axis=0))[0]
    high, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    if high >= LEAST_INK * part.shape[0] and wide >= LEAST_INK * part.shape[1]:
        top, left = box.top + int(rows[0]), box.left + int(columns[0])
        box = Box(left, top, left + wide, top + high)
    if wide >= high:
        left, right = _lengthened(picture[box.top : box.bottom], box.left, box.right, ink, contrast)
        return Box(left, box.top, right, box.bottom)
    top, bottom = _lengthened(picture[:, box.left : box.right].T, box.top, box.bottom, ink, contrast)
    return Box(box.left, top, box.right, bottom)


def _ink_of(part: NDArray[np.int16]) -> tuple[float, float] | None:
    """The letters' colour and how far their ground is from it; None where nothing steps like a stroke."""
    if min(part.shape) < 4:
        return None
    step = np.abs(np.diff(part, axis=1))
    steep = step >= max(STEP, float(np.percentile(step, 95)) * 0.6)
    first, second = part[:, :-1][steep], part[:, 1:][steep]
    if first.size < 8:
        return None
    dark, light = np.minimum(first, second), np.maximum(first, second)
    ink = dark if dark.std() < light.std() else light
    return float(np.median(ink)), float(np.median(light) - np.median(dark))


def _lengthened(band: NDArray[np.uint8], start: int, stop: int, ink: float, contrast: float) -> tuple[int, int]:
    """How far strokes in the letters' colour go on along a line, with gaps of at most a letter."""
    height = band.shape[0]
    reach = REACH * height
    first, last = max(0, start - reach), min(band.shape[1], stop + reach)
    near = band[:, first:last].astype(np.int16)
    same = np.abs(near - ink) <= max(3.0, SAME_INK * contrast)
    steep = np.zeros(near.shape, bool)
    for axis in (0, 1):
        step = np.abs(np.diff(near, axis=axis)) >= max(STEP, contrast / 2)
        steep[(slice(None, -1), slice(None))[:: 1 if axis == 0 else -1]] |= step
        steep[(slice(1, None), slice(None))[:: 1 if axis == 0 else -1]] |= step
    strokes = np.nonzero((same & steep).sum(axis=0) >= 2)[0] + first
    gap = max(3, round(GAP * height))
    for column in strokes[strokes >= stop].tolist():
        if column - stop >= gap:
            break
        stop = column + 1
    for column in strokes[strokes < start][::-1].tolist():
        if start - column > gap:
            break
        start = column
    return start, stop


def _beside(box: Box, sure: Box) -> bool:
    height, other = _edges(box)[0], _edges(sure)[0]
    if not other / 2 <= height <= other * 2:
        return False
    apart_x = max(sure.left - box.right, box.left - sure.right)
    apart_y = max(sure.top - box.bottom, box.top - sure.bottom)
    return max(apart_x, apart_y) <= 3 * other
