"""Words about slides: what a scanner saw, and where identity can hide in it.

`Place.value` and `SlideScan.places` carry what stands in the source file, identifiers included. They live in
memory only: nothing of them is logged, stored or put into an error (D10).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from mover.model.xmltext import XmlText

ByteOrder = Literal["<", ">"]
Flavour = Literal["classic", "big", "ndpi"]
Role = Literal["level", "thumbnail", "label", "overview", "map", "other", "file"]

# What a tag's value may be once it is read. Text stays bytes until somebody judges its encoding.
Value = bytes | tuple[int, ...] | tuple[float, ...]


class Place(Struct, frozen=True):
    """One spot where identity can hide. `key` names a vendor's key inside the tag, "" the tag as a whole;
    `page` is the directory's index, -1 for the file itself."""

    page: int
    role: Role
    tag: int
    key: str
    kind: int
    value: Value

    @property
    def name(self) -> str:
        """The place in words that hold no value: vendor keys are the file's own words and are left out."""
        where = "file" if self.page < 0 else f"page {self.page} ({self.role})"
        return f"{where} tag {self.tag}" if self.tag else where


class Pixels(Struct, frozen=True):
    """The encoded segments of one page, in the page's order. Zero counts are missing tiles."""

    offsets: array[int]
    counts: array[int]

    def __len__(self) -> int:
        return len(self.offsets)

    def ranges(self) -> Iterator[tuple[int, int]]:
        return zip(self.offsets, self.counts, strict=True)


class Page(Struct, frozen=True):
    index: int
    role: Role
    width: int
    height: int
    tile_width: int
    tile_height: int
    compression: int
    pixels: Pixels
    # JPEG header lengths and restart offsets of a Hamamatsu level; empty elsewhere.
    restarts: array[int]
    # The page whose SubIFDs this one stands in; -1 in the main chain.
    parent: int = -1
    # Bits of one pixel inside a segment: all samples, or one where planes are apart. 0 where nobody asked.
    pixel_bits: int = 0

    @property
    def segment_bytes(self) -> int:
        """The most that a segment's pixels are without compression: a whole tile, or a whole page of strips. Rows
        begin at whole bytes."""
        return -(-(self.tile_width or self.width) * self.pixel_bits // 8) * (self.tile_height or self.height)


class SlideFacts(Struct, frozen=True):
    """What may stand in the ordinary catalog about a slide: structure, never text."""

    vendor: str
    family: str
    width: int
    height: int
    levels: tuple[tuple[int, int], ...]
    tile_width: int
    tile_height: int
    compression: str
    mpp_x: float | None
    mpp_y: float | None
    objective: float | None


class SlideScan(Struct, frozen=True):
    """What a scanner found. Nothing here has been judged yet."""

    family: str
    vendor: str
    extension: str
    flavour: Flavour
    byte_order: ByteOrder
    size_bytes: int
    pages: tuple[Page, ...]
    places: tuple[Place, ...]
    # Byte ranges outside every structure the scanner understands: (offset, length).
    slack: tuple[tuple[int, int], ...] = ()
    mpp_x: float | None = None
    mpp_y: float | None = None
    objective: float | None = None
    # The XML documents that a vendor wrote into tags, taken apart.
    documents: tuple[XmlText, ...] = ()

    @property
    def levels(self) -> tuple[Page, ...]:
        return tuple(page for page in self.pages if page.role == "level")


class Decision(Struct, frozen=True):
    """One judgement about one place. Safe for the catalog: `shape` is the masked form of what stood there
    ("A99-9999"), never the value; `code` is PS3.15's letter; `times` counts equal judgements."""

    place: str
    action: Literal["keep", "drop", "rebuild"]
    code: Literal["K", "X", "Z", "D", "C", "U"]
    reason: str
    shape: str
    times: int = 1
