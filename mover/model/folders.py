"""Words about slides of several files: what their index texts say, and where their tiles lie.

Like `SlideScan`, these hold what stands in the source, identifiers included, and live in memory only (D10).
"""

from __future__ import annotations

from array import array
from typing import Literal

from msgspec import Struct

Coding = Literal["JPEG", "PNG", "BMP24"]


class KeyLine(Struct, frozen=True):
    """One `key = value` of a key file (the dialect GLib and Windows profiles share), as text."""

    section: str
    key: str
    value: str


class KeyText(Struct, frozen=True):
    """A key file taken apart. `rest` is everything that is no key: comments, and lines nobody understands. Of keys
    that stand twice the last holds, as for the readers; all of them are in `lines`, what holds in `values`."""

    lines: tuple[KeyLine, ...]
    sections: tuple[str, ...]
    rest: tuple[str, ...]
    values: dict[tuple[str, str], str]

    def get(self, section: str, key: str) -> str | None:
        return self.values.get((section, key))


class Cut(Struct, frozen=True):
    """What of one encoded picture is copied: ranges of the file, in order. Missing are its comments and application
    segments and what follows its end."""

    ranges: tuple[tuple[int, int], ...]


class Tiles(Struct, frozen=True):
    """A level's pictures in the index's own order: number in the grid, offset, length and data file."""

    index: array[int]
    offset: array[int]
    length: array[int]
    file: array[int]

    def __len__(self) -> int:
        return len(self.index)


class MiraxLevel(Struct, frozen=True):
    section: str
    width: int
    height: int
    image_width: int
    image_height: int
    concat: int  # how many level-0 images a picture spans, in one direction, from the camera's own images
    coding: Coding
    tiles: Tiles


class MiraxScan(Struct, frozen=True):
    """What a 3DHISTECH slide holds. `data` names its data files in the slide's own order; `cuts` are the pictures
    that may not be copied whole, by (file, offset, length); `positions` is the camera's position buffer, unpacked,
    and `position_layer` what it was called; `texts` are those of the parts that are dropped."""

    general: KeyText
    ini: str
    index: str
    data: tuple[str, ...]
    slide_id: str
    grid: tuple[int, int]
    levels: tuple[MiraxLevel, ...]
    cuts: dict[tuple[int, int, int], Cut]
    position_layer: str
    positions: bytes
    position_record: tuple[int, int, int]  # offset, length and data file of it, as stored
    texts: tuple[bytes, ...]
    strays: tuple[str, ...]
    dropped_records: int
    tile_count: int


class VmsPart(Struct, frozen=True):
    """One JPEG of a Hamamatsu VMS slide: `key` is what the index text calls it, without its number. `layer` is the
    focal plane; the map, its smallest level, stands in none (-1)."""

    name: str
    layer: int
    column: int
    row: int
    width: int
    height: int
    tile_width: int
    tile_height: int
    header_bytes: int
    cut: Cut

    @property
    def key(self) -> str:
        return "MapFile" if self.layer < 0 else f"ImageFile({self.layer},{self.column},{self.row})"


class VmsScan(Struct, frozen=True):
    """`parts` in the order the output names them, the map last."""

    text: KeyText
    columns: int
    rows: int
    layers: int
    parts: tuple[VmsPart, ...]
    texts: tuple[bytes, ...]
    strays: tuple[str, ...]


class KeySection(Struct, frozen=True):
    """A section of an output's key file."""

    name: str
    lines: tuple[tuple[str, str], ...]
