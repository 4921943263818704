"""OME-TIFF: a TIFF whose first description is OME-XML (openmicroscopy.org, schemas 2008-02 to 2016-06).

The XML lists images; an image's planes stand in directories of the main chain, its pyramid in the SubIFDs of each.
The slide is the largest tiled image that says it was scanned finely and has a pyramid, as far as they say and have.
Another image is kept when structure says that it is the same glass through the same lens: it has the slide's very
size, or it says the same micrometres per pixel, has the same tiles and a pyramid of as many levels. All others (label,
overview, thumbnail, whatever they call themselves) are dropped. Names and words decide nothing.

Identity hides in the XML (experimenters with names and addresses, image names and descriptions, dates, UUIDs and file
names, annotations of any kind, the creator), in every other text tag, in ICC text, in dropped images and between the
structures.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.ome import Image, images_of, length, namespace, plain
from mover.model.slides import Page, SlideScan
from mover.model.source import ByteSource
from mover.model.xmltext import Element, XmlText
from scanners import generic, pages, xmltext
from scanners.tiff import VALUE_BYTES, Structure, read_value, with_children

DESCRIPTION: Final = 270
COARSEST_UM: Final = 10.0  # as of Leica's slides: overviews are scanned at 15 and coarser
_SAME_SPACING: Final = 1e-4


def document(source: ByteSource, structure: Structure) -> XmlText | None:
    """The OME-XML of the first directory; None where there is none that can be parsed, as readers too take such a
    file for a TIFF without OME."""
    tag = structure.directories[0].tags.get(DESCRIPTION)
    if tag is None or tag.kind != 2 or tag.size_bytes > VALUE_BYTES:
        return None
    value = bytes(read_value(source, structure.byte_order, tag))  # type: ignore[arg-type]
    if not value.rstrip(b"\0 \r\n\t").endswith(b"OME>"):
        return None
    try:
        found = xmltext.parse(value, page=0, tag=DESCRIPTION)
    except (StructureInvalid, PlaceUnknown):
        return None
    return found if namespace(found.root) else None


def is_mine(source: ByteSource, structure: Structure) -> bool:
    return document(source, structure) is not None


def scan(source: ByteSource, structure: Structure) -> SlideScan:
    found = document(source, structure)
    if found is None:
        raise StructureInvalid("an OME-TIFF without its XML")
    structure = with_children(source, structure)
    bare = generic.read_pages(source, structure)
    root = plain(found.root)
    kept, main = _kept_pages(root, bare)
    roled = tuple(_with_role(source, structure, page, bare, kept) for page in bare)
    slack = pages.check_layout(source, structure, roled)
    places = (one for one in generic.read_places(source, structure, roled) if (one.page, one.tag) != (0, DESCRIPTION))
    mpp_x, mpp_y = (length(main.pixels, name) for name in ("PhysicalSizeX", "PhysicalSizeY"))
    return SlideScan(
        family="ome-tiff",
        vendor="ome",
        extension="ome.tif",
        flavour=structure.flavour,
        byte_order=structure.byte_order,
        size_bytes=source.size_bytes,
        pages=roled,
        places=tuple(places),
        slack=slack,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        objective=_objective(root),
        documents=(found,),
    )


def _kept_pages(root: Element, bare: list[Page]) -> tuple[set[int], Image]:
    """The indexes of all base pages of kept images, and the slide itself."""
    chain = [page for page in bare if page.parent < 0]
    bases: dict[int, list[Page]] = {}
    taken: set[int] = set()
    images = [image for image in images_of(root) if image.runs]
    for image in images:
        numbers = list(image.directories())
        if any(number >= len(chain) or number in taken for number in numbers) or len(set(numbers)) != len(numbers):
            raise StructureInvalid("an OME image's planes are not in directories of their own")
        taken.update(numbers)
        bases[image.number] = [chain[number] for number in numbers]
    images = [image for image in images if bases[image.number]]
    if not images:
        raise StructureInvalid("an OME-TIFF without any image of its own")
    pyramids = Counter(page.parent for page in bare)

    def rank(image: Image) -> tuple[bool, int, bool, int]:
        first = bases[image.number][0]
        return (first.tile_width > 0, _fineness(image), pyramids[first.index] > 0, image.width * image.height)

    main = max(images, key=rank)
    kept = [image for image in images if _is_like(image, main, bases, pyramids)]
    for image in kept:
        if any((page.width, page.height) != (image.width, image.height) for page in bases[image.number]):
            raise StructureInvalid("an OME image is of another size than its directories")
    return {page.index for image in kept for page in bases[image.number]}, main


def _fineness(image: Image) -> int:
    """Tissue is scanned more finely than labels and overviews: an image that says it was before one that says nothing,
    and both before one that says it was not. A small piece of tissue has fewer pixels than its label."""
    told = [one for one in image.spacing if one]
    return 1 if not told else 2 if max(told) < COARSEST_UM else 0


def _is_like(image: Image, main: Image, bases: dict[int, list[Page]], pyramids: Counter[int]) -> bool:
    if (image.width, image.height) == (main.width, main.height):
        return True
    first, other = bases[main.number][0], bases[image.number][0]
    return (
        other.tile_width > 0
        and (other.tile_width, other.tile_height) == (first.tile_width, first.tile_height)
        and pyramids[other.index] == pyramids[first.index] > 0
        and all(map(_same_spacing, image.spacing, main.spacing))
    )


def _same_spacing(one: float | None, other: float | None) -> bool:
    return bool(one and other) and abs(one / other - 1) <= _SAME_SPACING  # type: ignore[operator]


def _with_role(source: ByteSource, structure: Structure, page: Page, bare: list[Page], kept: set[int]) -> Page:
    if page.parent < 0:
        return generic.as_level(source, structure, page) if page.index in kept else page
    kind = pages.number(source, structure, structure.directories[page.index], 254, 0)
    if page.parent in kept and kind == 1 and pages.is_reduced_copy(page, bare[page.parent]):
        return generic.as_level(source, structure, page)
    return msgspec.structs.replace(page, role="other")


def _objective(root: Element) -> float | None:
    for one in root.walk():
        if one.name == "Objective":
            return length(Element("", (("m", one.get("NominalMagnification")),)), "m")
    return None
