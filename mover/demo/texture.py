"""Tissue that looks like tissue, encoded once and laid many times.

Two gigabytes of real pyramids in a few seconds need one idea: a slide is a grid of square *cells*,
each four tiles wide. A cell is named by its four corners (tissue or glass) and a variant; all cells
agree along their edges, so any that share corners join without a seam. The cells of one scanner's
look are rendered and encoded once (the *atlas*); a slide is then a random grid of them, and its
first two levels are lists of JPEG pieces that exist already. Deeper levels are small and are encoded
per slide from the very same pixels, so every level really is the downsample of the one above.

Read `paint` for the tissue, `_encode_cell` for the bytes.
"""

from __future__ import annotations

import io
from concurrent.futures import Executor
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

CANVAS = 1024  # side of the painted maps; looks with another cell size resample them
PIECES = 4  # tiles along a cell's side on level 0; level 1 is a quarter, so exactly one tile
REDUCTION = 16  # the third level, kept as pixels
CORNERS = 16  # every combination of four corners

Pixels = NDArray[np.uint8]
Coding = Literal["rgb", "ycbcr", "restart"]


class Stain(msgspec.Struct, frozen=True):
    """Absorbance of the two dyes in red, green and blue, and the colour of the glass."""

    nuclei: tuple[float, float, float]
    fibres: tuple[float, float, float]
    glass: tuple[int, int, int] = (243, 242, 244)


class Look(msgspec.Struct, frozen=True):
    """How one scanner sees and encodes tissue."""

    name: str
    coding: Coding
    tile: int
    quality: int
    stain: Stain

    @property
    def cell(self) -> int:
        return self.tile * PIECES


HEMATOXYLIN_EOSIN = Stain(nuclei=(0.62, 0.85, 0.38), fibres=(0.06, 0.52, 0.22))
PALE_EOSIN = Stain(nuclei=(0.80, 0.92, 0.42), fibres=(0.10, 0.40, 0.16), glass=(238, 238, 240))
BROWN_IMMUNO = Stain(nuclei=(0.42, 0.86, 1.05), fibres=(0.10, 0.16, 0.12), glass=(245, 244, 241))

# The classic ScanScope: 240 pixel tiles, RGB inside the JPEG. GT 450: 256 pixels, YCbCr 4:2:0.
# NanoZoomer: one strip per level, cut by restart markers.
CLASSIC = Look(name="classic", coding="rgb", tile=240, quality=50, stain=PALE_EOSIN)
GT450 = Look(name="gt450", coding="ycbcr", tile=256, quality=80, stain=HEMATOXYLIN_EOSIN)
NANOZOOMER = Look(name="nanozoomer", coding="restart", tile=256, quality=75, stain=BROWN_IMMUNO)
LOOKS = (CLASSIC, GT450, NANOZOOMER)


class Cell(msgspec.Struct, frozen=True):
    """One encoded cell: pieces of level 0 and level 1 in reading order, pixels of the third level."""

    fine: tuple[bytes, ...]
    coarse: tuple[bytes, ...]
    small: Any  # Pixels; msgspec has no word for arrays


class Atlas(msgspec.Struct, frozen=True):
    """All cells of a look: `cells[corners]` lists the variants of that combination of corners."""

    look: Look
    cells: tuple[tuple[Cell, ...], ...]


class Fields(msgspec.Struct, frozen=True):
    """Periodic noise shared by all cells; because it is shared, edges agree."""

    shape: Any
    blotch: Any
    fibre: Any
    grain: Any


def make_fields(seed: int) -> Fields:
    rng = np.random.default_rng([seed, 1])
    return Fields(
        shape=_noise(rng, 0.012),
        blotch=_noise(rng, 0.03),
        fibre=_noise(rng, 0.02, stretch=6.0),
        grain=_noise(rng, 0.35),
    )


def build_atlases(*, seed: int, variants: int, pool: Executor) -> dict[str, Atlas]:
    """Paint and encode every cell of every look; `variants` of full tissue, at most two of an edge."""
    fields = make_fields(seed)
    wanted = [(corners, v) for corners in range(CORNERS) for v in range(_variants(corners, variants))]
    painted = pool.map(lambda job: _cells(fields, seed=seed, corners=job[0], variant=job[1]), wanted)
    rows: list[list[list[Cell]]] = [[[] for _ in range(CORNERS)] for _ in LOOKS]
    for (corners, _), cells in zip(wanted, painted, strict=True):
        for look_index, cell in enumerate(cells):
            rows[look_index][corners].append(cell)
    return {
        look.name: Atlas(look=look, cells=tuple(tuple(row) for row in rows[index])) for index, look in enumerate(LOOKS)
    }


def _variants(corners: int, variants: int) -> int:
    if corners == 0:
        return 1
    return variants if corners == CORNERS - 1 else min(2, variants)


def _cells(fields: Fields, *, seed: int, corners: int, variant: int) -> list[Cell]:
    nuclei, fibres = paint(fields, seed=seed, corners=corners, variant=variant)
    return [_encode_cell(look, develop(nuclei, fibres, look=look)) for look in LOOKS]


# --- painting ---------------------------------------------------------------------------------------


def paint(fields: Fields, *, seed: int, corners: int, variant: int) -> tuple[Pixels, Pixels]:
    """The two dyes' strength, 0..255. Variants differ inside and agree within the border."""
    rng = np.random.default_rng([seed, 2, variant])
    shift = tuple(int(n) for n in rng.integers(0, CANVAS, 2))
    blotch = _vary(fields.blotch, shift)
    fibre = _vary(fields.fibre, shift)
    grain = _vary(fields.grain, shift)
    tissue = _tissue(fields.shape, corners)
    gland = np.clip((blotch - 1.1) * 4.0, 0.0, 1.0)  # lumina: holes inside the tissue
    body = tissue * (1.0 - 0.85 * gland)
    nuclei = _nuclei(seed, variant) * np.clip(0.8 + 0.25 * grain, 0.2, 1.2)
    fibres = 0.62 + 0.16 * fibre + 0.13 * blotch + 0.10 * grain
    return _as_bytes(body * nuclei), _as_bytes(body * fibres)


def develop(nuclei: Pixels, fibres: Pixels, *, look: Look) -> Pixels:
    """Beer-Lambert through two tables: light left after each dye, multiplied per channel."""
    if look.cell != CANVAS:
        side = (look.cell, look.cell)
        nuclei = np.asarray(Image.fromarray(nuclei).resize(side, Image.Resampling.BILINEAR))
        fibres = np.asarray(Image.fromarray(fibres).resize(side, Image.Resampling.BILINEAR))
    ramp = np.arange(256, dtype=np.float32) / 255.0
    out = np.empty((*nuclei.shape, 3), dtype=np.uint8)
    for channel in range(3):
        left = np.exp(-1.6 * look.stain.nuclei[channel] * ramp).astype(np.float32)
        after = (look.stain.glass[channel] * np.exp(-look.stain.fibres[channel] * ramp)).astype(np.float32)
        out[..., channel] = left[nuclei] * after[fibres]
    return out


def shrink(pixels: Pixels, factor: int) -> Pixels:
    """Box mean, the same on every level."""
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def _noise(rng: np.random.Generator, width: float, *, stretch: float = 1.0) -> NDArray[np.float32]:
    """Periodic Gaussian noise of unit deviation; `width` is the share of frequencies that remain."""
    white = rng.standard_normal((CANVAS, CANVAS), dtype=np.float32)
    high = np.fft.fftfreq(CANVAS)[:, None] / width
    wide = np.fft.rfftfreq(CANVAS)[None, :] / (width * stretch)
    smooth = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-0.5 * (high**2 + wide**2)), s=white.shape)
    return (smooth / smooth.std()).astype(np.float32)


def _vary(field: NDArray[np.float32], shift: tuple[int, ...]) -> NDArray[np.float32]:
    weight = _inside()
    return field * (1.0 - weight) + np.roll(field, shift, (0, 1)) * weight


def _inside() -> NDArray[np.float32]:
    """0 along the border, 1 beyond 96 pixels of it."""
    from_edge = np.minimum(np.arange(CANVAS), np.arange(CANVAS)[::-1]).astype(np.float32) / 96.0
    ramp = np.clip(from_edge, 0.0, 1.0)
    return np.minimum(ramp[:, None], ramp[None, :])


def _tissue(shape: NDArray[np.float32], corners: int) -> NDArray[np.float32]:
    """Marching squares with a torn edge: bilinear corners plus shared noise, cut at one half."""
    nw, ne, sw, se = (float(corners >> bit & 1) for bit in range(4))
    across = np.linspace(0.0, 1.0, CANVAS, dtype=np.float32)
    north = nw * (1 - across) + ne * across
    south = sw * (1 - across) + se * across
    level = north[None, :] * (1 - across[:, None]) + south[None, :] * across[:, None]
    torn = level + np.clip(0.13 * shape, -0.4, 0.4)
    return np.clip((torn - 0.5) * 30.0 + 0.5, 0.0, 1.0)


def _nuclei(seed: int, variant: int) -> NDArray[np.float32]:
    """Border nuclei are shared and wrap around; inner ones belong to the variant."""
    picture = Image.new("L", (CANVAS, CANVAS), 20)
    pen = ImageDraw.Draw(picture)
    _draw_nuclei(pen, np.random.default_rng([seed, 3]), border=True)
    _draw_nuclei(pen, np.random.default_rng([seed, 4, variant]), border=False)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(1.1)), dtype=np.float32) / 255.0


def _draw_nuclei(pen: ImageDraw.ImageDraw, rng: np.random.Generator, *, border: bool) -> None:
    margin = 48
    for x, y, wide, high, dark in rng.random((2600, 5)):
        cx, cy = int(x * CANVAS), int(y * CANVAS)
        near = min(cx, cy, CANVAS - cx, CANVAS - cy) < margin
        if near is not border:
            continue
        rx, ry, ink = 3 + int(wide * 5), 3 + int(high * 5), 110 + int(dark * 140)
        for ox in (0, CANVAS, -CANVAS) if near else (0,):
            for oy in (0, CANVAS, -CANVAS) if near else (0,):
                pen.ellipse((cx + ox - rx, cy + oy - ry, cx + ox + rx, cy + oy + ry), fill=ink)


def _as_bytes(strength: NDArray[np.float32]) -> Pixels:
    return (np.clip(strength, 0.0, 1.0) * 255.0).astype(np.uint8)


# --- encoding ---------------------------------------------------------------------------------------


def _encode_cell(look: Look, pixels: Pixels) -> Cell:
    quarter = shrink(pixels, 4)
    small = shrink(quarter, 4)
    if look.coding == "restart":
        return Cell(
            fine=restart_pieces(pixels, look=look),
            coarse=restart_pieces(quarter, look=look),
            small=small,
        )
    return Cell(fine=tuple(cut_tiles(pixels, look=look)), coarse=(encode_tile(quarter, look=look),), small=small)


def cut_tiles(pixels: Pixels, *, look: Look) -> list[bytes]:
    """Tiles in reading order; the last column and row are padded with glass as scanners do."""
    high, wide = (-(-side // look.tile) * look.tile for side in pixels.shape[:2])
    if (high, wide) != pixels.shape[:2]:
        padded = np.empty((high, wide, 3), dtype=np.uint8)
        padded[:] = look.stain.glass
        padded[: pixels.shape[0], : pixels.shape[1]] = pixels
        pixels = padded
    return [
        encode_tile(pixels[y : y + look.tile, x : x + look.tile], look=look)
        for y in range(0, high, look.tile)
        for x in range(0, wide, look.tile)
    ]


def encode_tile(pixels: Pixels, *, look: Look) -> bytes:
    """An abbreviated JPEG: its tables live in the directory's JPEGTables tag."""
    return as_scanner_writes(_jpeg(pixels, look=look, streamtype=2), coding=look.coding)


def jpeg_tables(look: Look) -> bytes:
    return as_scanner_writes(_jpeg(np.zeros((8, 8, 3), np.uint8), look=look, streamtype=1), coding=look.coding)


def as_scanner_writes(jpeg: bytes, *, coding: Coding) -> bytes:
    """Drop JFIF and Adobe segments, which libtiff never writes; RGB parts are numbered 0, 1, 2."""
    out = bytearray(jpeg[:2])
    at = 2
    while jpeg[at + 1] not in (0xDA, 0xD9):
        size = 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segment = bytearray(jpeg[at : at + size])
        if coding == "rgb" and segment[1] == 0xC0:
            segment[10::3] = bytes(range(len(segment[10::3])))
        if not 0xE0 <= segment[1] <= 0xEF:
            out += segment
        at += size
    rest = bytearray(jpeg[at:])
    if coding == "rgb" and rest[1] == 0xDA:
        rest[5:11:2] = bytes((0, 1, 2))
    return bytes(out + rest)


def restart_pieces(pixels: Pixels, *, look: Look) -> tuple[bytes, ...]:
    """Entropy-coded pieces, one per row of 8x8 blocks of this picture; markers are not included."""
    jpeg = _jpeg(pixels, look=look, restart_marker_blocks=pixels.shape[1] // 8)
    scan = jpeg[scan_start(jpeg) : -2]
    return tuple(scan[start:end] for start, end in split_at_restarts(scan))


def restart_jpeg(pixels: Pixels, *, look: Look) -> bytes:
    """A whole picture, one restart interval per row of blocks."""
    return _jpeg(pixels, look=look, restart_marker_rows=1)


def scan_start(jpeg: bytes) -> int:
    """Offset of the first entropy-coded byte."""
    at = 2
    while True:
        size = 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] == 0xDA:
            return at + size
        at += size


def split_at_restarts(scan: bytes) -> list[tuple[int, int]]:
    """(start, end) of each interval. In a scan FF is followed by 00 or by a restart marker only."""
    raw = np.frombuffer(scan, dtype=np.uint8)
    marks = np.flatnonzero((raw[:-1] == 0xFF) & (raw[1:] >= 0xD0) & (raw[1:] <= 0xD7))
    starts = [0, *(int(mark) + 2 for mark in marks)]
    ends = [*(int(mark) for mark in marks), len(scan)]
    return list(zip(starts, ends, strict=True))


def _jpeg(pixels: Pixels, *, look: Look, **options: Any) -> bytes:
    if look.coding == "rgb":
        options["keep_rgb"] = True
    options["subsampling"] = 2 if look.coding == "ycbcr" else 0
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=look.quality, **options)
    return stream.getvalue()
