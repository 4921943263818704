"""Barcodes in pictures: a worklist's label, held before the lens or drawn by the machine, is an identifier in bars.

zxing-cpp reads them: matrix codes at any angle, bars along rows or columns and a few degrees beside. It has no threads
and opens no files, so it lives in the parsing child. What a code says never leaves this module: a place is all that is
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import zxingcpp

from mover.deid.pixels.words import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "zxing-cpp"
SHORTEST: Final = 3  # characters of a code: what bars of anatomy spell by chance is shorter


def find_barcodes(picture: NDArray[np.uint8]) -> list[Box]:
    """Places of codes in an 8-bit picture, grey or in colours. It is shown twice, the second time turned by a right
    angle: some stacked codes are met upright only."""
    high, wide = picture.shape[:2]
    found = [_box(one.position, wide, high) for one in _codes(picture)]
    turned = [_box(one.position, high, wide) for one in _codes(np.ascontiguousarray(np.rot90(picture)))]
    # a quarter turn to the left took (x, y) to (y, wide - 1 - x)
    found += [Box(wide - box.bottom, box.left, wide - box.top, box.right) for box in turned]
    return [box for box in dict.fromkeys(found) if box.area]


def _codes(picture: NDArray[np.uint8]) -> list[zxingcpp.Barcode]:
    return [one for one in zxingcpp.read_barcodes(picture) if one.valid and len(one.bytes) >= SHORTEST]


def _box(position: zxingcpp.Position, wide: int, high: int) -> Box:
    corners = (position.top_left, position.top_right, position.bottom_right, position.bottom_left)
    columns, rows = [one.x for one in corners], [one.y for one in corners]
    return Box(
        max(0, min(columns)), max(0, min(rows)), min(wide, max(columns) + 1), min(high, max(rows) + 1)
    )  # fmt: skip
