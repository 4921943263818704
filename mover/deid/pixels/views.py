"""Pictures to look at: samples of any depth and colour as 8-bit pictures in which text would be seen.

One view is not enough. Where few bright pixels spread the range, anatomy and grey writing drown in black, so that a
view between percentiles stands beside that of the whole range. Programs write text as the highest or lowest number
there is, also on a ground that is nearly as high or low: such faint letters get a view of nothing but that end. A
palette may show two numbers in one colour, so the numbers are looked at as well as the colours. Bits above those
stored may hold an old overlay (retired group 60xx).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mover.deid.pixels.words import Palette, PixelFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAIL_PERCENT: Final = 1.0
CROWDED: Final = 0.5  # where the middle takes less than this share of the range, it gets a view of its own
SAMPLE: Final = 1 << 18  # pixels from which percentiles are taken
# As near to the highest or lowest number (of 255) letters stay when a codec has been at them, and the steps from them
# to their ground that a person sees and the usual views show too faintly.
END: Final = 5
FAINT: Final = (4, 32)
CELL: Final = 16  # pixels of a square that is shown when so many of its steps are faint ones
FAINT_STEPS: Final = 20
MOST_CELLS: Final = 0.25  # more of a picture than this is noise at its end, not writing


def views(samples: NDArray[Any], photometric: str, facts: PixelFacts) -> list[NDArray[np.uint8]]:
    """Every view of one frame. The order is of no meaning; none is empty."""
    if samples.ndim == 3:
        colours = _colours(samples, photometric)
        return [colours, *_ends(colours.mean(axis=2).astype(np.uint8))]
    numbers, above = _split(samples, facts)
    shown = _windows(numbers)
    shown += _ends(shown[0]) if shown else []
    if above is not None:
        shown.append(_stretched(above, int(above.min()), int(above.max())))
    if photometric == "PALETTE COLOR" and len(facts.palettes) == 3:
        shown.append(_looked_up(numbers, facts.palettes))
    return shown


def _split(samples: NDArray[Any], facts: PixelFacts) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The stored bits as numbers, and what stands above them unless that is nothing or a sign's extension."""
    spare = facts.bits_allocated - facts.bits_stored
    if spare <= 0 or samples.dtype.kind not in "iu" or samples.dtype.itemsize * 8 != facts.bits_allocated:
        return samples, None
    plain = samples.astype(np.int64)
    low = plain & ((1 << facts.bits_stored) - 1)
    if facts.signed:
        low = low - ((low >> (facts.bits_stored - 1)) << facts.bits_stored)
    above = (plain - low) >> facts.bits_stored
    return low, above if above.any() else None


def _windows(numbers: NDArray[Any]) -> list[NDArray[np.uint8]]:
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return []
    flat = numbers.reshape(-1)
    first, last = np.percentile(flat[:: max(1, flat.size // SAMPLE)], [TAIL_PERCENT, 100 - TAIL_PERCENT])
    shown = [_stretched(numbers, low, high)]
    if first < last and last - first < CROWDED * (high - low):
        shown.append(_stretched(numbers, first, last))
    return shown


def _ends(whole: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Nothing but the highest, and nothing but the lowest numbers, where they stand out from their ground faintly."""
    for ink in (whole >= 255 - END, whole <= END):
        cells = _faint(whole, ink)
        if cells.any() and cells.mean() <= MOST_CELLS:
            shown = np.where(ink, np.uint8(255), np.uint8(0))
            high, wide = whole.shape
            near = cells.copy()
            for axis in (0, 1):
                near |= np.roll(near, 1, axis) | np.roll(near, -1, axis)
            around = np.repeat(np.repeat(near, CELL, 0), CELL, 1)[:high, :wide]
            yield np.where(around, shown, np.uint8(0))


def _faint(whole: NDArray[np.uint8], ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which squares have many faint steps between ink and what is none."""
    steps = np.zeros((-(-whole.shape[0] // CELL) * CELL, -(-whole.shape[1] // CELL) * CELL), np.uint8)
    for axis in (0, 1):
        step = np.abs(np.diff(whole.astype(np.int16), axis=axis))
        faint = np.diff(ink, axis=axis) & (step >= FAINT[0]) & (step < FAINT[1])
        steps[: faint.shape[0], : faint.shape[1]] += faint.astype(np.uint8)
    cells = steps.reshape(steps.shape[0] // CELL, CELL, steps.shape[1] // CELL, CELL)
    return np.asarray(cells.sum(axis=(1, 3), dtype=np.int32) >= FAINT_STEPS)


def _stretched(numbers: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    if high <= low:
        return np.zeros(numbers.shape, np.uint8)
    scaled = (numbers.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _colours(samples: NDArray[Any], photometric: str) -> NDArray[np.uint8]:
    eight = samples if samples.dtype == np.uint8 else _stretched(samples, float(samples.min()), float(samples.max()))
    if photometric.startswith("YBR_FULL"):
        return _from_ybr(eight)
    return np.ascontiguousarray(eight)


def _from_ybr(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """PS3.3 C.7.6.3.1.2, near enough to read by."""
    y, blue, red = (samples[:, :, i].astype(np.float32) for i in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack([y + 1.402 * red, y - 0.344 * blue - 0.714 * red, y + 1.772 * blue], axis=2)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _looked_up(numbers: NDArray[Any], palettes: tuple[Palette, ...]) -> NDArray[np.uint8]:
    channels = [_channel(numbers, palette) for palette in palettes]
    return np.ascontiguousarray(np.stack(channels, axis=2))


def _channel(numbers: NDArray[Any], palette: Palette) -> NDArray[np.uint8]:
    table = entries(palette)
    places = np.clip(numbers.astype(np.int64) - palette.first, 0, len(table) - 1)
    return table[places]


def entries(palette: Palette) -> NDArray[np.uint8]:
    """A palette's entries in eight bits. A segmented one is shown as a ramp: its numbers are looked at anyway."""
    count = palette.entries or 65536
    wide = palette.bits > 8 or len(palette.data) >= 2 * count
    if palette.segmented or len(palette.data) < count * (2 if wide else 1):
        return np.linspace(0, 255, count).astype(np.uint8)
    table = np.frombuffer(palette.data, "<u2" if wide else "u1", count)
    return (table >> 8).astype(np.uint8) if wide and int(table.max()) > 255 else table.astype(np.uint8)
