"""Ventana BIF, and the TIFF of the same scanners: the first directory's XMP holds an iScan element.

Directories: the label with part of the overview ("Label_Image", in strips), a thumbnail or probability map, then the
levels, tiled, each with a description `level=0 mag=40 quality=90`. A BIF's first level has an XMP of its own,
EncodeInfo: which areas of interest were scanned and how their tiles overlap. OpenSlide stitches by those numbers.

A level is a tiled directory with such a description that is the first level made smaller; the first directory must
stand because it holds the XMP, and it stands blank. Everything else is dropped.

Identity hides in iScan's attributes (UserName, UnitNumber, Barcode1D, Barcode2D in base64, BaseName, JP2FileName,
BuildDate, whatever a site adds), in EncodeInfo (operator, server directory, rack and slot), DateTime and the other text
tags of every directory, and in label, thumbnail and probability map.
"""

from __future__ import annotations

import re
from typing import Final

from mover.errors import FormatUnsupported, PlaceUnknown, StructureInvalid
from mover.model.slides import Page, Role, SlideScan
from mover.model.source import ByteSource
from mover.model.xmltext import Element, XmlText
from scanners import pages
from scanners.tiff import Structure, read_value
from scanners.xmltext import XML_BYTES, parse

XMP: Final = 700
DESCRIPTION: Final = 270
_LEVEL: Final = re.compile(r"(?:^|.* )level=([0-9]{1,2})(?: |$)")


def is_mine(source: ByteSource, structure: Structure) -> bool:
    return structure.flavour != "ndpi" and b"<iScan" in _xmp(source, structure, 0)


def scan(source: ByteSource, structure: Structure) -> SlideScan:
    first = parse(_xmp(source, structure, 0), page=0, tag=XMP)
    iscan = iscan_of(first)
    roles = {index: _role(source, structure, index) for index in range(len(structure.directories))}
    found = tuple(pages.read_page(source, structure, index, role) for index, role in roles.items())
    levels = [page for page in found if page.role == "level"]
    _check_levels(levels)
    slack = pages.check_layout(source, structure, found)
    return SlideScan(
        family="ventana-bif",
        vendor="ventana",
        extension="bif" if XMP in structure.directories[levels[0].index].tags else "tif",
        flavour=structure.flavour,
        byte_order=structure.byte_order,
        size_bytes=source.size_bytes,
        pages=found,
        places=tuple(place for page in found for place in pages.read_places(source, structure, page)),
        slack=slack,
        mpp_x=_float(iscan.get("ScanRes")),
        mpp_y=_float(iscan.get("ScanRes")),
        objective=_float(iscan.get("Magnification")),
        documents=(first, *_stitching(source, structure, levels[0])),
    )


def _xmp(source: ByteSource, structure: Structure, index: int) -> bytes:
    tag = structure.directories[index].tags.get(XMP)
    if tag is None or tag.kind not in (1, 2, 7):
        return b""
    value = read_value(source, structure.byte_order, tag, limit=XML_BYTES)
    return value if isinstance(value, bytes) else bytes(int(item) for item in value)


def iscan_of(document: XmlText) -> Element:
    """The iScan element: the root, or the one child of a root called Metadata."""
    root = document.root
    if root.name == "iScan":
        return root
    inner = root.named("iScan")
    if root.name != "Metadata" or len(inner) != 1:
        raise StructureInvalid("the first directory's XMP is not Ventana's")
    return inner[0]


def _role(source: ByteSource, structure: Structure, index: int) -> Role:
    directory = structure.directories[index]
    if _LEVEL.match(pages.text_tag(source, structure, directory, DESCRIPTION)) and 322 in directory.tags:
        return "level"
    return "label" if index == 0 else "other"


def _check_levels(levels: list[Page]) -> None:
    if not levels:
        raise StructureInvalid("no level in a Ventana slide")
    if levels[0].index == 0:
        raise FormatUnsupported("a Ventana slide whose first directory is a level")
    for page in levels:
        if page.compression not in (7, 33003, 33005):
            raise FormatUnsupported(f"a Ventana slide with TIFF compression {page.compression}")
        pages.check_tile_grid(page)
        # levels are padded to whole tiles, so small ones keep their proportions roughly
        tall = abs(page.height * levels[0].width - levels[0].height * page.width) / levels[0].width
        if page.width > levels[0].width or page.height > levels[0].height or tall > 2 * page.tile_height:
            raise PlaceUnknown("a tiled page has other proportions than the slide")


def _stitching(source: ByteSource, structure: Structure, first: Page) -> list[XmlText]:
    data = _xmp(source, structure, first.index)
    return [parse(data, page=first.index, tag=XMP)] if data else []


def _float(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
