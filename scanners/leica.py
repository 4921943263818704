"""Leica SCN: a BigTIFF whose first description is XML that says what every directory is.

A collection is the glass; its images are what was scanned of it. An image that covers the whole glass is the
overview ("macro"), all others are tissue. Each image lists its resolutions as `dimension` elements with the number of
their directory (`ifd`), so directories keep their numbers: one that is no level stands blank. Which image is the
overview is decided by its view, as OpenSlide does, and by its resolution: nothing scanned as coarsely as an overview
is tissue, whatever it calls itself. Names decide nothing.

Identity hides in names and uuids of collection and images, the creation date, the device's serial number, the barcode
(base64), any element or attribute a site adds, comments, DateTime and the other text tags of every directory, and in
the overview, which shows the label.
"""

from __future__ import annotations

import re
from typing import Final

from mover.errors import FormatUnsupported, StructureInvalid
from mover.model.slides import Page, Place, Role, SlideScan
from mover.model.source import ByteSource
from mover.model.xmltext import Element, XmlText
from scanners import pages
from scanners.tiff import Structure, read_value
from scanners.xmltext import parse

XMLNS: Final = "http://www.leica-microsystems.com/scn/2010/10/01"
DESCRIPTION: Final = 270
# Nanometres per pixel: tissue is scanned at 5000 and finer, overviews at 15000 and coarser.
COARSEST: Final = 10_000
_INTEGER: Final = re.compile(r"-?[0-9]{1,15}")
_CENTIMETRE: Final = 3


def is_mine(source: ByteSource, structure: Structure) -> bool:
    first = structure.directories[0]
    return structure.flavour != "ndpi" and 322 in first.tags and XMLNS in _description(source, structure)


def scan(source: ByteSource, structure: Structure) -> SlideScan:
    document = parse(_description(source, structure).encode("latin-1"), page=0, tag=DESCRIPTION)
    roles = _roles(document, len(structure.directories))
    found = tuple(
        pages.read_page(source, structure, index, roles.get(index, "other"))
        for index in range(len(structure.directories))
    )
    _check_levels(found, document)
    slack = pages.check_layout(source, structure, found)
    first = next(page for page in found if page.role == "level")
    return SlideScan(
        family="leica-scn",
        vendor="leica",
        extension="scn",
        flavour=structure.flavour,
        byte_order=structure.byte_order,
        size_bytes=source.size_bytes,
        pages=found,
        places=tuple(_places(source, structure, found)),
        slack=slack,
        mpp_x=_microns(source, structure, first, 282),
        mpp_y=_microns(source, structure, first, 283),
        objective=_objective(document),
        documents=(document,),
    )


def _description(source: ByteSource, structure: Structure) -> str:
    return pages.text_tag(source, structure, structure.directories[0], DESCRIPTION)


def _places(source: ByteSource, structure: Structure, found: tuple[Page, ...]) -> list[Place]:
    return [place for page in found for place in pages.read_places(source, structure, page)]


def collection_of(document: XmlText) -> Element:
    if document.root.name != "scn" or document.root.get("xmlns") != XMLNS:
        raise StructureInvalid("the description is not Leica's XML")
    collections = document.root.named("collection")
    if len(collections) != 1:
        raise StructureInvalid("not one collection where one must be")
    return collections[0]


def is_overview(collection: Element, image: Element) -> bool:
    view = _view(image)
    covers = (number(view, "sizeX"), number(view, "sizeY")) == (
        number(collection, "sizeX"),
        number(collection, "sizeY"),
    )
    if covers and (number(view, "offsetX"), number(view, "offsetY")) == (0, 0):
        return True
    widest = max((number(one, "sizeX") for one in dimensions_of(image)), default=0)
    return widest < 1 or number(view, "sizeX") / widest > COARSEST


def _view(image: Element) -> Element:
    views = image.named("view")
    if len(views) != 1:
        raise StructureInvalid("an image without its one view")
    return views[0]


def dimensions_of(image: Element) -> tuple[Element, ...]:
    return tuple(one for pixels in image.named("pixels") for one in pixels.named("dimension"))


def number(element: Element, name: str) -> int:
    text = element.get(name)
    if not _INTEGER.fullmatch(text):
        raise StructureInvalid(f"the description gives no whole number for {name}")
    return int(text)


def _roles(document: XmlText, directories: int) -> dict[int, Role]:
    """What each directory is, by the images that name it."""
    collection, roles = collection_of(document), dict[int, Role]()
    for image in collection.named("image"):
        role: Role = "overview" if is_overview(collection, image) else "level"
        for dimension in dimensions_of(image):
            index = number(dimension, "ifd")
            if not 0 <= index < directories:
                raise StructureInvalid("the description names a directory that is not there")
            if roles.setdefault(index, role) != role:
                raise StructureInvalid("one directory is both tissue and overview")
    if "level" not in roles.values():
        raise StructureInvalid("no image of tissue in the description")
    return roles


def _check_levels(found: tuple[Page, ...], document: XmlText) -> None:
    for page in found:
        if page.role == "level":
            if page.compression not in (7, 33003, 33005):
                raise FormatUnsupported(f"a Leica slide with TIFF compression {page.compression}")
            pages.check_tile_grid(page)
    for image in collection_of(document).named("image"):
        for dimension in dimensions_of(image):
            page = found[number(dimension, "ifd")]
            if (number(dimension, "sizeX"), number(dimension, "sizeY")) != (page.width, page.height):
                raise StructureInvalid("a directory has another size than the description says")


def _objective(document: XmlText) -> float | None:
    collection = collection_of(document)
    for image in collection.named("image"):
        if is_overview(collection, image):
            continue
        for text in (one.text for one in image.walk() if one.name == "objective"):
            try:
                return float(text)
            except ValueError:
                return None
    return None


def _microns(source: ByteSource, structure: Structure, page: Page, code: int) -> float | None:
    tags = structure.directories[page.index].tags
    tag = tags.get(code)
    if tag is None or tag.kind != 5 or tag.count != 1:
        return None
    if pages.number(source, structure, structure.directories[page.index], 296, 2) != _CENTIMETRE:
        return None
    above, below = read_value(source, structure.byte_order, tag)[:2]
    return 10000 * below / above if above and below else None
