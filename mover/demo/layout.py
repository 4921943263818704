"""The grid of cells under a slide and the levels that follow from it."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from mover.demo.texture import PIECES, REDUCTION, Atlas, Cell, Look, Pixels, shrink


class Layout(msgspec.Struct, frozen=True):
    """`grid[row][column]` is the cell that lies there; `trim` pixels of glass are cut right and below."""

    atlas: Atlas
    grid: tuple[tuple[Cell, ...], ...]
    trim: tuple[int, int]

    @property
    def look(self) -> Look:
        return self.atlas.look

    @property
    def rows(self) -> int:
        return len(self.grid)

    @property
    def columns(self) -> int:
        return len(self.grid[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.columns * self.look.cell - self.trim[0], self.rows * self.look.cell - self.trim[1]

    def fine_tiles(self) -> list[bytes]:
        """Level 0, tiles in reading order."""
        return [
            cell.fine[y * PIECES + x] for row in self.grid for y in range(PIECES) for cell in row for x in range(PIECES)
        ]

    def coarse_tiles(self) -> list[bytes]:
        """Level 1, a quarter in each direction: one tile per cell."""
        return [cell.coarse[0] for row in self.grid for cell in row]

    def fine_strips(self) -> list[bytes]:
        """Level 0 of a strip-based scanner: restart intervals in reading order."""
        return [cell.fine[y] for row in self.grid for y in range(len(row[0].fine)) for cell in row]

    def coarse_strips(self) -> list[bytes]:
        return [cell.coarse[y] for row in self.grid for y in range(len(row[0].coarse)) for cell in row]

    def overview(self) -> Pixels:
        """The third level: a sixteenth in each direction, as pixels."""
        whole = np.vstack([np.hstack([cell.small for cell in row]) for row in self.grid])
        wide, high = (side // REDUCTION for side in self.size)
        return whole[:high, :wide]

    def deeper(self, overview: Pixels, *, factor: int) -> Pixels:
        return shrink(overview, factor // REDUCTION)


def make_layout(atlas: Atlas, *, columns: int, rows: int, seed: list[int]) -> Layout:
    """A few blobs of tissue on glass, never touching the rim; every slide's own."""
    rng = np.random.default_rng(seed)
    corners = _blobs(rng, columns=columns, rows=rows)
    grid = []
    for y in range(rows):
        row = []
        for x in range(columns):
            around = (corners[y, x], corners[y, x + 1], corners[y + 1, x], corners[y + 1, x + 1])
            choices = atlas.cells[sum(int(corner) << bit for bit, corner in enumerate(around))]
            row.append(choices[int(rng.integers(len(choices)))])
        grid.append(tuple(row))
    # Tiled scanners end a picture anywhere; restart markers need whole intervals.
    steps = (0, 0) if atlas.look.coding == "restart" else rng.integers(1, 13, 2)
    return Layout(atlas=atlas, grid=tuple(grid), trim=(int(steps[0]) * REDUCTION, int(steps[1]) * REDUCTION))


def _blobs(rng: np.random.Generator, *, columns: int, rows: int) -> NDArray[np.bool_]:
    """Corner points inside any of two to four ellipses; the middle is always tissue."""
    y, x = np.mgrid[0 : rows + 1, 0 : columns + 1]
    tissue = np.zeros((rows + 1, columns + 1), dtype=bool)
    for _ in range(int(rng.integers(2, 5))):
        cx, cy = rng.uniform(0.3, 0.7) * columns, rng.uniform(0.3, 0.7) * rows
        wide, high = rng.uniform(0.3, 0.48) * columns, rng.uniform(0.3, 0.48) * rows
        tissue |= ((x - cx) / wide) ** 2 + ((y - cy) / high) ** 2 < 1.0
    tissue[0, :] = tissue[-1, :] = tissue[:, 0] = tissue[:, -1] = False
    tissue[rows // 2, columns // 2] = True
    return tissue
