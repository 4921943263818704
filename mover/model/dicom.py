"""Words about DICOM objects: what a walk over the bytes found, before anybody judged it.

`Element.raw` carries what stands in the file, identifiers included. It lives in memory only (D10).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXELS: Final = 0x7FE00008
DOUBLE_PIXELS: Final = 0x7FE00009
PIXEL_TAGS: Final = frozenset({PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS})

Items = tuple[tuple["Element", ...], ...]


class Element(Struct, frozen=True):
    """One data element. `vr` is what the file says, "" where it does not (implicit VR). `raw` is None where the value
    is longer than a walk keeps in memory; it then lies at `value_at`. `items` are given where the walk had to go
    through a sequence to find its end; other sequences are opened when somebody wants to look (`open_items`)."""

    tag: int
    vr: str
    raw: bytes | None
    value_at: int
    length: int
    items: Items | None = None


class PixelPlace(Struct, frozen=True):
    """Where the pixels lie. `fragments` are the encapsulated value's items as (offset, length), the basic offset
    table's first; None for a native value."""

    tag: int
    vr: str
    value_at: int
    length: int
    fragments: tuple[tuple[int, int], ...] | None = None


class ObjectScan(Struct, frozen=True):
    """A file as one walk saw it. `elements` are the dataset's without the pixels, in the file's order. Positions
    are those of the file, or of `inflated` where the dataset was deflated. `trailing_bytes` follow the dataset."""

    syntax: str
    explicit: bool
    big_endian: bool
    meta: tuple[Element, ...]
    elements: tuple[Element, ...]
    pixels: PixelPlace | None
    size_bytes: int
    trailing_bytes: int
    preamble: bytes
    inflated: bytes | None = None
