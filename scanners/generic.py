"""Pyramidal TIFF of no vendor: what libvips, ASAP, GDAL and many exporters write.

The first directory is the full-resolution level and tiled. Deeper levels are tiled directories that call themselves
reduced (NewSubfileType 1), or are the first one halved to the pixel, in the main chain as OpenSlide reads them, or in
the SubIFDs of the first, as libvips and QuPath can write them. Tiled directories of exactly the first one's size are
further planes of it. Everything else (a picture in strips, a mask, tiles of other proportions) is no level and is
dropped: there is no vendor here whose readers would miss it. A larger directory behind the first may be the
slide itself where it has as many reduced copies, or more pixels than any label: such a file is refused.

Identity hides in every text tag (ImageDescription, DocumentName, PageName, Artist, HostComputer, Copyright, DateTime),
XMP, IPTC, Photoshop, EXIF, GPS, geo and private tags, ICC text, dropped pictures, and between the structures.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mover.errors import FormatUnsupported, StructureInvalid
from mover.model.slides import Page, Place, Role, SlideScan
from mover.model.source import ByteSource
from scanners import pages
from scanners.tiff import SUBIFDS, Structure, read_value, with_children

COMPRESSIONS: Final = frozenset({1, 5, 7, 8, 32946, 33003, 33004, 33005, 34712, 50000, 50001})
HALVINGS: Final = 16
LABEL_PIXELS: Final = 4 << 20  # no label's picture has more
_REDUCED: Final = 1


def scan(source: ByteSource, structure: Structure) -> SlideScan:
    structure = with_children(source, structure)
    found = tuple(read_pages(source, structure))
    first = found[0]
    if not first.tile_width:
        raise FormatUnsupported("generic TIFF without tiles: recognised, and no writer exists for it yet")
    _check_first(found)
    roled = tuple(_with_role(source, structure, page, first) for page in found)
    slack = pages.check_layout(source, structure, roled)
    mpp_x, mpp_y = (microns(source, structure, code) for code in (282, 283))
    return SlideScan(
        family="generic-tiff",
        vendor="generic-tiff",
        extension="tif",
        flavour=structure.flavour,
        byte_order=structure.byte_order,
        size_bytes=source.size_bytes,
        pages=roled,
        places=tuple(read_places(source, structure, roled)),
        slack=slack,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
    )


def read_pages(source: ByteSource, structure: Structure) -> list[Page]:
    """Every directory as a page without a role yet."""
    return [pages.read_page(source, structure, index, "other") for index in range(len(structure.directories))]


def _check_first(found: tuple[Page, ...]) -> None:
    """Raises StructureInvalid where another directory may be the slide, and the first its label: one that is larger
    than it and than any label, or of which at least as many are reduced copies."""
    tiled = [page for page in found if page.tile_width]

    def copies(whole: Page) -> int:
        return sum(pages.is_reduced_copy(page, whole) for page in tiled if page.width < whole.width)

    first, others = found[0], [page for page in tiled[1:] if page.parent < 0]
    for page in others:
        pixels = page.width * page.height
        if pixels > first.width * first.height and (pixels > LABEL_PIXELS or copies(page) >= copies(first)):
            raise StructureInvalid("the first directory is not the slide at its full resolution")


def read_places(source: ByteSource, structure: Structure, found: tuple[Page, ...]) -> list[Place]:
    """Every tag of every page, except where its pixels and SubIFDs lie."""
    return [place for page in found for place in pages.read_places(source, structure, page) if place.tag != SUBIFDS]


def as_level(source: ByteSource, structure: Structure, page: Page) -> Page:
    """The page as a level. Raises FormatUnsupported for a codec without a rule, StructureInvalid for tiles that do
    not make up its picture."""
    if page.compression not in COMPRESSIONS:
        raise FormatUnsupported(f"a TIFF with compression {page.compression}: no rule for such tiles exists yet")
    directory = structure.directories[page.index]
    bits, planes = pages.pixel_layout(source, structure, directory)
    if page.tile_width:
        pages.check_tile_grid(page, planes=planes)
    else:
        pages.check_strips(page, rows=pages.number(source, structure, directory, 278, page.height), planes=planes)
    return msgspec.structs.replace(page, role="level", pixel_bits=bits)


def _with_role(source: ByteSource, structure: Structure, page: Page, first: Page) -> Page:
    if _role(source, structure, page, first) == "level":
        return as_level(source, structure, page)
    return page


def _role(source: ByteSource, structure: Structure, page: Page, first: Page) -> Role:
    if page.index == first.index:
        return "level"
    kind = pages.number(source, structure, structure.directories[page.index], 254, 0)
    if not page.tile_width or page.parent not in (-1, first.index):
        return "other"
    if kind == _REDUCED and pages.is_reduced_copy(page, first):
        return "level"
    same = (page.width, page.height, page.parent) == (first.width, first.height, -1)
    return "level" if kind == 0 and (same or _is_halved(page, first)) else "other"


def _is_halved(page: Page, first: Page) -> bool:
    """The first level halved some times to the pixel, in the same tiles and codec: a level of writers that do not say
    so. A label that meets all of this by chance is not to be expected."""
    if (page.tile_width, page.tile_height, page.compression) != (
        first.tile_width,
        first.tile_height,
        first.compression,
    ):
        return False
    halves = ((first.width / 2**times, first.height / 2**times) for times in range(1, HALVINGS))
    return any(abs(page.width - wide) <= 1 and abs(page.height - high) <= 1 for wide, high in halves)


def microns(source: ByteSource, structure: Structure, code: int) -> float | None:
    """Micrometres per pixel of the first directory, from its resolution, as OpenSlide reads it."""
    tags = structure.directories[0].tags
    tag, unit = tags.get(code), tags.get(296)
    if tag is None or tag.kind != 5 or tag.count != 1:
        return None
    per = {2: 25400, 3: 10000}.get(pages.number(source, structure, structure.directories[0], 296, 2) if unit else 2)
    above, below = (int(value) for value in read_value(source, structure.byte_order, tag)[:2])
    return per * below / above if per and above and below else None
