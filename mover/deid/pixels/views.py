"""Pictures to look at: samples of any depth and colour as 8-bit pictures in which text would be seen.

One view is not enough. Where few bright pixels spread the range, anatomy and grey writing drown in black, so that a
view between percentiles stands beside that of the whole range. A palette may show two numbers in one colour, so the
numbers are looked at as well as the colours. Bits above those stored may hold an old overlay (retired group 60xx).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mover.deid.pixels.words import Palette, PixelFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAIL_PERCENT: Final = 1.0
CROWDED: Final = 0.5  # where the middle takes less than this share of the range, it gets a view of its own
SAMPLE: Final = 1 << 18  # pixels from which percentiles are taken


def views(samples: NDArray[Any], photometric: str, facts: PixelFacts) -> list[NDArray[np.uint8]]:
    """Every view of one frame. The order is of no meaning; none is empty."""
    if samples.ndim == 3:
        return [_colours(samples, photometric)]
    numbers, above = _split(samples, facts)
    shown = _windows(numbers)
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
