"""Which pixels of a slide a tile shows: arithmetic, and nothing else.

The pyramid that people zoom through halves from level to level, down to one pixel, whatever levels the file stores:
level `levels - 1` is the slide as it was scanned. A tile is drawn from the smallest stored level that is fine enough.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from mover.errors import LimitExceeded, NotFound, RequestInvalid

TILE_PX: Final = 512
# what one picture may read of a stored level: above, a slide without small levels would be decoded whole for a tile
READ_PIXELS: Final = 36 << 20
_PLACE: Final = re.compile(r"([0-9]{1,7})_([0-9]{1,7})")
_LEVEL: Final = re.compile(r"[0-9]{1,2}")
# a stored level may be called 4.0003 times smaller and is the one for 4
_SLACK: Final = 1.001


class Area(Struct, frozen=True):
    """A part of the slide, in pixels of its full size, and the size of the picture it becomes."""

    x: int
    y: int
    width: int
    height: int
    out_width: int
    out_height: int


class Pyramid(Struct, frozen=True):
    """`downsamples`: how many times smaller each stored level is, the full one first."""

    width: int
    height: int
    downsamples: tuple[float, ...]

    @property
    def levels(self) -> int:
        return (max(self.width, self.height) - 1).bit_length() + 1

    @property
    def first_level(self) -> int:
        """The smallest level whose tiles may be drawn."""
        return next(level for level in range(self.levels) if self._reads(self._tile(level, 0, 0)) <= READ_PIXELS)

    def tile(self, level: str, place: str) -> Area:
        """What a path names. NotFound for a tile that is none, so that a viewer at the edge is told plainly."""
        found = _PLACE.fullmatch(place)
        if not _LEVEL.fullmatch(level) or found is None:
            raise RequestInvalid("a tile is named by its level and column_row", where="tile")
        number, column, row = int(level), int(found[1]), int(found[2])
        if not self.first_level <= number < self.levels:
            raise NotFound("the slide has no such level", where=f"level {number}")
        area = self._tile(number, column, row)
        if area.width <= 0 or area.height <= 0:
            raise NotFound("the level has no such tile", where=f"{column}_{row}")
        return area

    def region(self, x: int, y: int, width: int | None, height: int | None, *, edge_px: int) -> Area:
        """A part of the slide, cut at its edges, as a picture with no edge above `edge_px`, never enlarged."""
        if x >= self.width or y >= self.height:
            raise RequestInvalid(f"the slide has {self.width} x {self.height} pixels", where="region")
        wide = min(width or self.width, self.width - x)
        high = min(height or self.height, self.height - y)
        times = max(1.0, max(wide, high) / edge_px)
        area = Area(x, y, wide, high, max(1, round(wide / times)), max(1, round(high / times)))
        if self._reads(area) > READ_PIXELS:
            raise LimitExceeded("the file stores no level that is small enough for this much of the slide",
                                hint="Ask for a smaller region.")  # fmt: skip
        return area

    def stored(self, area: Area) -> int:
        """The stored level to read for it: fine enough, and no finer."""
        times = min(area.width / area.out_width, area.height / area.out_height) * _SLACK
        return max((at for at, down in enumerate(self.downsamples) if down <= times), default=0)

    def read_size(self, area: Area) -> tuple[int, int]:
        down = self.downsamples[self.stored(area)]
        return -int(-area.width // down), -int(-area.height // down)

    def _reads(self, area: Area) -> int:
        wide, high = self.read_size(area)
        return wide * high

    def _tile(self, level: int, column: int, row: int) -> Area:
        times = 1 << (self.levels - 1 - level)
        step = TILE_PX * times
        x, y = column * step, row * step
        wide, high = min(step, self.width - x), min(step, self.height - y)
        return Area(x, y, wide, high, -(-wide // times), -(-high // times))
