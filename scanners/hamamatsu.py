"""Hamamatsu NDPI: classic TIFF with 64-bit directory offsets; one JPEG strip per level.

SourceLens (65421) tells the pages apart: positive is a level (a focal plane of one), -1 the overview of the
whole glass with its label, -2 a map. Random access into a level's JPEG goes by its restart markers, whose
positions stand in McuStarts (65426, high words in 65432).

Identity hides, on every page, in Reference (65427), DateTime, the scanner's serial number (65442), the barcode
(65468), the property map (65449: lines of key=value parted by CR LF or a bare CR, a shading block with its own
date, serial number and barcodes), private tags, JPEG comments, and the overview's pixels.
"""

from __future__ import annotations

import re
from array import array
from typing import Final

import msgspec
import numpy as np

from mover.errors import FormatUnsupported, PlaceUnknown, StructureInvalid
from mover.model.slides import Page, Place, Role, SlideScan
from mover.model.source import ByteSource
from scanners import pages
from scanners.tiff import Directory, Structure, read_integers, read_value

SOURCE_LENS: Final = 65421
MCU_STARTS: Final = 65426
MCU_STARTS_HIGH: Final = 65432
PROPERTY_MAP: Final = 65449
_STRIP_LIMIT: Final = 0xFFFFFFFF


def is_mine(structure: Structure) -> bool:
    return structure.flavour == "ndpi"


def scan(source: ByteSource, structure: Structure) -> SlideScan:
    found = tuple(_read_page(source, structure, index) for index in range(len(structure.directories)))
    levels = [page for page in found if page.role == "level"]
    if not levels or found[0].role != "level":
        raise StructureInvalid("no level where the first must stand")
    _check_levels(levels)
    slack = pages.check_layout(source, structure, found)
    places: list[Place] = []
    for page in found:
        places += pages.read_places(source, structure, page)
    first = structure.directories[0]
    return SlideScan(
        family="hamamatsu-ndpi",
        vendor="hamamatsu",
        extension="ndpi",
        flavour="ndpi",
        byte_order="<",
        size_bytes=source.size_bytes,
        pages=found,
        places=tuple(_with_keys(places)),
        slack=slack,
        mpp_x=_microns(source, first, 282),
        mpp_y=_microns(source, first, 283),
        objective=_lens(source, first),
    )


def _read_page(source: ByteSource, structure: Structure, index: int) -> Page:
    directory = structure.directories[index]
    page = pages.read_page(source, structure, index, _role(source, directory))
    if page.role != "level":
        return page
    if page.compression != 7:
        raise FormatUnsupported(f"a Hamamatsu slide with TIFF compression {page.compression}")
    if len(page.pixels) != 1 or page.tile_width:
        raise StructureInvalid("a level is not one strip")
    if page.pixels.counts[0] > _STRIP_LIMIT:
        # OpenSlide reads a level's length as 32 bits; nobody could prove such a slide.
        raise FormatUnsupported("a Hamamatsu level above 4 GiB")
    return msgspec.structs.replace(page, restarts=_restarts(source, directory, page))


def _role(source: ByteSource, directory: Directory) -> Role:
    lens = _lens(source, directory)
    if lens > 0:
        return "level"
    return "overview" if lens == -1 else "map" if lens == -2 else "other"


def _lens(source: ByteSource, directory: Directory) -> float:
    tag = directory.tags.get(SOURCE_LENS)
    if tag is None or tag.count != 1 or tag.kind not in (11, 12):
        raise StructureInvalid("a page does not say through which lens it was taken")
    return float(read_value(source, "<", tag)[0])


def _restarts(source: ByteSource, directory: Directory, page: Page) -> array[int]:
    """Positions of the first byte after each restart marker, relative to the strip; they only rise."""
    low = directory.tags.get(MCU_STARTS)
    if low is None:
        return array("Q")
    starts = read_integers(source, "<", low)
    high = directory.tags.get(MCU_STARTS_HIGH)
    positions = np.frombuffer(starts, "u8").copy()
    if high is not None:
        if high.count != low.count:
            raise StructureInvalid("the restart positions and their high words do not pair up")
        positions += np.frombuffer(read_integers(source, "<", high), "u8") << np.uint64(32)
    if positions[0] < 4 or positions[-1] >= page.pixels.counts[0] or (positions[1:] <= positions[:-1]).any():
        raise StructureInvalid("the restart positions do not rise inside their strip")
    return array("Q", positions.tobytes())


def _check_levels(levels: list[Page]) -> None:
    first = levels[0]
    for page in levels:
        if page.width > first.width or page.height > first.height:
            raise StructureInvalid("a level larger than the first")
        wanted = first.height * page.width / first.width
        if abs(page.height - wanted) > max(2.0, 0.02 * wanted):
            raise PlaceUnknown("a level has other proportions than the slide")


def _with_keys(places: list[Place]) -> list[Place]:
    apart: list[Place] = []
    for place in places:
        apart.append(place)
        if place.tag != PROPERTY_MAP or not isinstance(place.value, bytes):
            continue
        for line in re.split(rb"[\r\n]+", place.value.split(b"\0", 1)[0]):
            key, found, value = line.partition(b"=")
            name = key.strip().decode("latin-1") if found else "?"
            if line.strip():
                apart.append(
                    Place(place.page, place.role, PROPERTY_MAP, name or "?", 2, (value if found else key).strip())
                )
    return apart


def _microns(source: ByteSource, directory: Directory, code: int) -> float | None:
    """Micrometres per pixel when the resolution is given per centimetre, as OpenSlide reads it."""
    tag, unit = directory.tags.get(code), directory.tags.get(296)
    if tag is None or unit is None or tag.kind != 5 or tuple(read_value(source, "<", unit)) != (3,):
        return None
    above, below = read_value(source, "<", tag)[:2]
    return 10000 * below / above if above and below else None
