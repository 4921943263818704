"""Draw a slide in small from its de-identified pyramid: the thumbnail is made anew, never copied.

The picture comes from the smallest level, through OpenSlide, over a sparse stand-in of the output that holds the
needed tiles only. What it shows is therefore what the published tiles show, and nothing else can be in it. Equal
sources give equal bytes as long as the libraries that decode and encode are the same.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import openslide
from PIL import Image

from mover.deid.skeleton import Skeleton, TilePair
from mover.errors import RedactionUnproven
from mover.model.slides import Page

THUMBNAIL_BYTES: Final = 16 << 20
BAND_PIXELS: Final = 16 << 20
# No larger picture is kept in memory; a larger level is reduced while it is read.
DRAWING_EDGE: Final = 8192
DRAWN_PIXELS: Final = 512 << 20
AREAS: Final = 1024
_QUALITY: Final = 85


def draw(slide: openslide.OpenSlide, page: Page) -> Image.Image:
    """The whole level on white, reduced by a whole factor where it is larger than DRAWING_EDGE; read from top to
    bottom in pieces of bounded size. Where OpenSlide reports areas on a glass, what bounds them is drawn, of its
    smallest level."""
    level = levels_of(slide, [page]).get(page.index, slide.level_count - 1)
    x, y, wide, high = _bounds(areas_of(slide, level))
    down = slide.level_downsamples[level]
    factor = -(-max(wide, high) // DRAWING_EDGE)
    step = max(1, BAND_PIXELS // wide // factor) * factor
    if factor == 1 and step >= high:  # nothing to put together
        return on_white(read_region(slide, (round(x * down), round(y * down)), level, (wide, high)))
    canvas = Image.new("RGB", (-(-wide // factor), -(-high // factor)))
    for top in range(0, high, step):
        where = (round(x * down), round((y + top) * down))
        piece = read_region(slide, where, level, (wide, min(step, high - top)))
        white = on_white(piece)
        canvas.paste(white.reduce(factor) if factor > 1 else white, (0, top // factor))
    return canvas


def on_white(piece: Image.Image) -> Image.Image:
    """Mixing takes as long as decoding, and most pictures are opaque throughout."""
    alpha = piece.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return piece.convert("RGB")
    white = Image.new("RGB", piece.size, (255, 255, 255))
    white.paste(piece, mask=alpha)
    return white


def areas_of(slide: openslide.OpenSlide, level: int) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of what OpenSlide says was scanned, in pixels of a level; else the whole level."""
    down, found = slide.level_downsamples[level], []
    for number in range(AREAS):
        named = [slide.properties.get(f"openslide.region[{number}].{one}") for one in ("x", "y", "width", "height")]
        if None in named:
            break
        x, y, wide, high = (float(one) / down for one in named)  # type: ignore[arg-type]
        found.append((int(x), int(y), max(1, int(wide)), max(1, int(high))))
    return found or [(0, 0, *slide.level_dimensions[level])]


def _bounds(areas: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    left, top = min(area[0] for area in areas), min(area[1] for area in areas)
    wide = max(area[0] + area[2] for area in areas) - left
    high = max(area[1] + area[3] for area in areas) - top
    if wide * high > DRAWN_PIXELS:
        raise RedactionUnproven("the smallest level is too large to draw")
    return left, top, wide, high


def levels_of(slide: openslide.OpenSlide, pages: Sequence[Page]) -> dict[int, int]:
    """The level of OpenSlide that shows each page, by the page's index. Where OpenSlide takes padding off, sizes
    differ by less than a tile; a page that is further from every level is shown by none, nor is one in a SubIFD."""
    found = {}
    for page in pages:
        if page.parent >= 0:
            continue
        apart = [
            (abs(wide - page.width), abs(high - page.height), level)
            for level, (wide, high) in enumerate(slide.level_dimensions)
        ]
        across, down, level = min(apart)
        if across <= page.tile_width and down <= page.tile_height:
            found[page.index] = level
    return found


def associated(slide: openslide.OpenSlide, name: str) -> Image.Image:
    try:
        return slide.associated_images[name]
    except openslide.OpenSlideError as error:
        raise RedactionUnproven("OpenSlide cannot decode an associated picture") from error


def picture_of(pixels: np.ndarray) -> Image.Image:
    """Decoded samples as a picture for the eye: the first three channels, each stretched to 8 bits where it has
    more."""
    flat = pixels[..., :3] if pixels.ndim == 3 and pixels.shape[-1] in (3, 4) else np.atleast_2d(pixels)
    while flat.ndim > 3 or (flat.ndim == 3 and flat.shape[-1] != 3):
        flat = flat[0]
    if flat.dtype != np.uint8:
        low, high = float(flat.min()), float(flat.max())
        flat = ((flat.astype(np.float32) - low) * (255.0 / max(high - low, 1e-9))).astype(np.uint8)
    factor = -(-max(flat.shape[:2]) // DRAWING_EDGE)
    picture = Image.fromarray(np.ascontiguousarray(flat)).convert("RGB")
    return picture.reduce(factor) if factor > 1 else picture


def encode_thumbnail(drawing: Image.Image, size: tuple[int, int]) -> bytes:
    """The drawing at exactly this size as a JPEG without metadata."""
    data = _jpeg(drawing.resize(size, Image.Resampling.HAMMING))
    if len(data) > THUMBNAIL_BYTES:
        raise RedactionUnproven(f"a thumbnail above {THUMBNAIL_BYTES} bytes")
    return data


def encode_preview(drawing: Image.Image, edge_px: int) -> bytes:
    """The drawing with no edge above `edge_px`, never larger than it is, as a JPEG without metadata."""
    preview = drawing.copy()
    preview.thumbnail((edge_px, edge_px), Image.Resampling.LANCZOS)
    return _jpeg(preview)


def _jpeg(picture: Image.Image) -> bytes:
    """Colours are not thinned out, so that YCbCrSubSampling 1, 1 is true."""
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=_QUALITY, subsampling=0)
    return target.getvalue()


def open_slide(skeleton: Skeleton) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(skeleton.path)
    except (openslide.OpenSlideError, OSError) as error:
        raise RedactionUnproven("OpenSlide cannot open it") from error


def read_region(slide: openslide.OpenSlide, where: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
    try:
        return slide.read_region(where, level, size)
    except openslide.OpenSlideError as error:
        raise RedactionUnproven("OpenSlide cannot decode a tile") from error


# --- which tiles OpenSlide will ask for ------------------------------------------------------------------


def smallest(pairs: Sequence[TilePair]) -> int:
    """The index of the level with the fewest pixels; of equal ones (focal planes) the first."""
    return min(range(len(pairs)), key=lambda index: pairs[index].page.width * pairs[index].page.height)


def needed(pairs: Sequence[TilePair], target: int) -> list[tuple[TilePair, np.ndarray]]:
    """The tiles to fill in for the whole of a level: its own, and those of the levels above that OpenSlide draws
    instead of missing ones."""
    gone = missing(pairs)
    wanted = np.ones(len(pairs[target].counts), bool)
    found = []
    for index in range(target, -1, -1):
        found.append((pairs[index], np.flatnonzero(wanted & ~gone[index] & (pairs[index].counts > 0))))
        lost = np.flatnonzero(wanted & gone[index])
        if not index or not len(lost) or not pairs[index].page.tile_width:
            break
        wanted = _above(pairs[index].page, pairs[index - 1].page, lost)
    return found


def _above(page: Page, above: Page, lost: np.ndarray) -> np.ndarray:
    """The tiles of the level above that OpenSlide paints for these: those that cover them and one pixel around."""
    across, _ = _grid(page)
    wide, high = _grid(above)
    covering = np.zeros((high, wide), bool)
    times_x, times_y = above.width / page.width, above.height / page.height
    for row, column in (divmod(index, across) for index in lost.tolist()):
        left, right = ((column * page.tile_width + edge) * times_x for edge in (-2, page.tile_width + 2))
        top, bottom = ((row * page.tile_height + edge) * times_y for edge in (-2, page.tile_height + 2))
        covering[
            max(0, int(top // above.tile_height)) : int(bottom // above.tile_height) + 1,
            max(0, int(left // above.tile_width)) : int(right // above.tile_width) + 1,
        ] = True
    return covering.ravel()


def missing(pairs: Sequence[TilePair]) -> list[np.ndarray]:
    """Tiles OpenSlide draws from the level above because they, or a part of theirs, are empty (its Aperio
    reader's rule). They cannot be sampled without that level."""
    result: list[np.ndarray] = []
    for number, pair in enumerate(pairs):
        gone = pair.counts == 0
        if number and result[-1].any() and pair.page.tile_width and len(gone):
            above = pairs[number - 1].page
            across, down = _grid(pair.page)
            wide, high = _grid(above)
            index = np.flatnonzero(result[-1])
            # C rounds halves away from zero, Python to even
            column = (index % wide) // max(1, int(wide / across + 0.5))
            row = (index // wide) // max(1, int(high / down + 0.5))
            keep = (column < across) & (row < down)
            gone = gone.copy()
            gone[(row * across + column)[keep]] = True
        result.append(gone)
    return result


def _grid(page: Page) -> tuple[int, int]:
    return -(-page.width // page.tile_width), -(-page.height // page.tile_height)
