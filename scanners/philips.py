"""Philips TIFF: the export of an iSyntax slide. Software begins with "Philips" and the first description is a
`DataObject` of type DPUfsImport, as OpenSlide tells it.

Tiled directories are levels, each padded to whole tiles; a tile without bytes is background. Label and overview are
directories in strips, pictures in base64 inside the XML (`DPScannedImage`), or both. A level is known by its tiles and
its size, never by a word: the first level's own XML speaks of LABELIMAGE.

Identity hides in the XML (acquisition time, serial number, operator, rack and slot, calibration dates, source file,
the barcode in base64, both pictures), in the texts of every page, in DateTime, ICC text and between the structures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.slides import Page, SlideScan
from mover.model.source import ByteSource
from mover.model.xmltext import Element, XmlText
from scanners import generic, pages, xmltext
from scanners.tiff import VALUE_BYTES, Structure, read_value

DESCRIPTION: Final = 270
_HALVINGS: Final = 16
_NUMBER: Final = re.compile(r"[0-9]{1,3}\.?[0-9]{0,12}(?:[eE]-?[0-9]{1,2})?")


def document(source: ByteSource, structure: Structure) -> XmlText | None:
    """The XML of the first directory; None for a file that OpenSlide would not take for a Philips TIFF either."""
    first = structure.directories[0]
    if not pages.text_tag(source, structure, first, 305).startswith("Philips"):
        return None
    tag = first.tags.get(DESCRIPTION)
    if tag is None or tag.kind != 2 or tag.size_bytes > VALUE_BYTES:
        return None
    try:
        value = bytes(read_value(source, structure.byte_order, tag))  # type: ignore[arg-type]
        found = xmltext.parse(value, page=0, tag=DESCRIPTION)
    except (StructureInvalid, PlaceUnknown):
        return None
    return found if found.root.name == "DataObject" and found.root.get("ObjectType") == "DPUfsImport" else None


def is_mine(source: ByteSource, structure: Structure) -> bool:
    return document(source, structure) is not None


def scan(source: ByteSource, structure: Structure) -> SlideScan:
    found = document(source, structure)
    if found is None:
        raise StructureInvalid("a Philips TIFF without its XML")
    bare = generic.read_pages(source, structure)
    if not bare[0].tile_width:
        raise StructureInvalid("no level where the first must stand")
    roled = tuple(_with_role(source, structure, page, bare[0]) for page in bare)
    slack = pages.check_layout(source, structure, roled)
    places = (one for one in generic.read_places(source, structure, roled) if (one.page, one.tag) != (0, DESCRIPTION))
    spacing = next(_spacings(found.root), None)
    return SlideScan(
        family="philips-tiff",
        vendor="philips",
        extension="tiff",
        flavour=structure.flavour,
        byte_order=structure.byte_order,
        size_bytes=source.size_bytes,
        pages=roled,
        places=tuple(places),
        slack=slack,
        mpp_x=spacing[1] if spacing else None,
        mpp_y=spacing[0] if spacing else None,
        documents=(found,),
    )


def _with_role(source: ByteSource, structure: Structure, page: Page, first: Page) -> Page:
    """OpenSlide takes every tiled directory for a level, so one that is none stops the slide."""
    if not page.tile_width:
        return page
    if not _is_halved(page, first):
        raise PlaceUnknown("a tiled page has other proportions than the slide")
    return generic.as_level(source, structure, page)


def _is_halved(page: Page, first: Page) -> bool:
    """The first level halved some times, with less than a tile of padding in either direction."""
    for times in range(_HALVINGS):
        wide, high = first.width / 2**times, first.height / 2**times
        if abs(page.width - wide) < page.tile_width and abs(page.height - high) < page.tile_height:
            return True
    return False


def _spacings(root: Element) -> Iterator[tuple[float, float]]:
    """Micrometres per pixel down and across, from the first pixel spacing (in millimetres) of the slide itself."""
    for one in root.walk():
        if one.name == "Attribute" and one.get("Name") == "DICOM_PIXEL_SPACING":
            numbers = [float(text) for text in _NUMBER.findall(one.text)[:2]]
            if len(numbers) == 2 and all(numbers):
                yield 1000 * numbers[0], 1000 * numbers[1]
