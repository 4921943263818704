"""Hold the output's thumbnail against the output's own pyramid.

The only picture that is no tile must be the slide in small and nothing besides. Its bytes are those that drawing
the output's pyramid gives (the caller compares), so nothing of the source but tiles can be in them; there is no
marker segment that can hold text and no byte behind the end; and what readers are shown has at every spot the
colours of the level it was drawn from. The writer resamples with a Hamming filter; here the level is averaged by
area, in our own arithmetic, so an error of the one does not pass as the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

from mover.errors import RedactionUnproven

# Grey values of 255: the mean over the whole picture, and the difference of any small square's mean. Two filters
# and one JPEG encoding differ by up to 4 and 3 on real slides, by 18 and 10 on coloured noise of full contrast;
# a label's letters by 50 and more.
WHOLE_BOUND: Final = 24.0
SQUARE_BOUND: Final = 12.0
SQUARE_PX: Final = 8
# Quantisation tables, Huffman tables, one baseline frame, JFIF, start of scan.
_SEGMENTS: Final = frozenset({0xDB, 0xC4, 0xC0, 0xE0, 0xDA})


def check_stream(data: bytes) -> None:
    """One baseline JPEG from the first byte to the last, with nothing in it but a picture."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        raise RedactionUnproven("the thumbnail is not one JPEG")
    scan = 0
    for marker, at, length in _segments(data):
        if marker not in _SEGMENTS or (marker == 0xE0 and (length != 16 or data[at + 4 : at + 9] != b"JFIF\0")):
            raise RedactionUnproven("the thumbnail holds a segment that is no picture")
        scan = at + 2 + length
    if any(data[at + 1] for at in _escapes(data, scan)):
        raise RedactionUnproven("the thumbnail's scan holds a marker")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, position, length) up to the start of the scan."""
    at, marker = 2, 0
    while marker != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 1] != b"\xff" or length < 2 or at + 2 + length > len(data) - 2:
            raise RedactionUnproven("the thumbnail's header is not whole")
        marker = data[at + 1]
        yield marker, at, length
        at += 2 + length


def _escapes(data: bytes, start: int) -> Iterator[int]:
    at = data.find(b"\xff", start)
    while 0 <= at < len(data) - 2:
        yield at
        at = data.find(b"\xff", at + 1)


def check_likeness(shown: Image.Image, drawn: Image.Image) -> None:
    """The picture readers are shown is the drawn level in small, as a whole and square by square."""
    seen = np.asarray(shown.convert("RGB"), np.float32)
    whole, square = distances(seen, area_average(np.asarray(drawn), shown.size))
    if whole > WHOLE_BOUND or square > SQUARE_BOUND:
        raise RedactionUnproven("the thumbnail is not a picture of the output's own pyramid")


def distances(seen: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The mean absolute difference of two pictures, and the largest difference between the means of squares."""
    apart = seen - expected
    high, wide = (np.arange(0, max(1, length - SQUARE_PX + 1), SQUARE_PX) for length in apart.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(apart, high, axis=0), wide, axis=1)
    areas = np.outer(np.diff(high, append=apart.shape[0]), np.diff(wide, append=apart.shape[1]))
    return float(np.abs(apart).mean()), float(np.abs(sums / areas[:, :, None]).max())


def area_average(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture in small: every pixel the mean of the area it covers."""
    (high, wide), (width, height) = pixels.shape[:2], size
    flat = _means(pixels, np.linspace(0, high, height + 1))
    return _means(np.ascontiguousarray(flat.swapaxes(0, 1)), np.linspace(0, wide, width + 1)).swapaxes(0, 1)


def _means(pixels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Means of rows over equal stretches between fractional edges, from the first row to behind the last."""
    whole = edges.astype(int)
    share = (edges - whole).astype(np.float32).reshape(-1, 1, 1)
    at_edge = pixels[np.minimum(whole, len(pixels) - 1)] * share
    kind = np.uint32 if pixels.dtype == np.uint8 else np.float32
    sums = at_edge[1:] - at_edge[:-1]
    for row, (start, stop) in enumerate(zip(whole[:-1], whole[1:], strict=True)):  # reduceat takes five times as long
        sums[row] += pixels[start:stop].sum(axis=0, dtype=kind)
    return sums / np.float32(edges[-1] / (len(edges) - 1))
