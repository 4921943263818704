"""Aperio SVS: tiled TIFF or BigTIFF whose first description begins with "Aperio".

Directories in order: the full-resolution level (tiled), a thumbnail (strips), more levels (tiled), then a
label and an overview ("macro", strips), which GT450 writes without any description. A level is therefore known
by its structure (tiled, of the first level's proportions), never by what a description says of it. Readers take
the second directory for the thumbnail without asking (tifffile, tiffslide, Bio-Formats), so an output must have one
there.

Identity hides in: every key of every ImageDescription (the thumbnail repeats the first), DateTime, Artist,
HostComputer, Copyright, DocumentName, XMP, EXIF, private tags, ICC text, the label and overview pictures, and
bytes between the structures.
"""

from __future__ import annotations

from typing import Final

from mover.errors import FormatUnsupported, PlaceUnknown, StructureInvalid
from mover.model.slides import Page, Place, Role, SlideScan
from mover.model.source import ByteSource
from scanners import pages
from scanners.tiff import Structure

COMPRESSIONS: Final = {7: "JPEG", 33003: "JPEG 2000 YCbCr", 33005: "JPEG 2000 RGB"}
_PROPORTION_SLACK: Final = 0.02


def is_mine(source: ByteSource, structure: Structure) -> bool:
    first = structure.directories[0]
    return (
        structure.flavour != "ndpi"
        and 322 in first.tags
        and 323 in first.tags
        and pages.text_tag(source, structure, first, 270).startswith("Aperio")
    )


def scan(source: ByteSource, structure: Structure) -> SlideScan:
    found = tuple(
        pages.read_page(source, structure, index, _role(source, structure, index))
        for index in range(len(structure.directories))
    )
    _check_levels(found)
    slack = pages.check_layout(source, structure, found)
    places: list[Place] = []
    for page in found:
        places += pages.read_places(source, structure, page)
    keys = description_keys(_description(places, 0))
    return SlideScan(
        family="aperio-svs",
        vendor="aperio",
        extension="svs",
        flavour=structure.flavour,
        byte_order=structure.byte_order,
        size_bytes=source.size_bytes,
        pages=found,
        places=tuple(_with_keys(places)),
        slack=slack,
        mpp_x=_float(keys.get("MPP")),
        mpp_y=_float(keys.get("MPP")),
        objective=_float(keys.get("AppMag")),
    )


def _role(source: ByteSource, structure: Structure, index: int) -> Role:
    directory = structure.directories[index]
    if 322 in directory.tags:
        return "level"
    lines = pages.text_tag(source, structure, directory, 270).replace("\r", "\n").split("\n")
    word = next((line.split(" ")[0] for line in lines[1:] if line), "")
    kind = pages.number(source, structure, directory, 254, 0)
    if word == "label" or (not word and kind == 1):
        return "label"
    if word == "macro" or kind == 9:
        return "overview"
    return "thumbnail" if index == 1 else "other"


def _check_levels(found: tuple[Page, ...]) -> None:
    """A tiled page that is not the first level made smaller is some other picture in a level's clothes."""
    levels = [page for page in found if page.role == "level"]
    first = levels[0]
    for page in levels:
        if page.compression not in COMPRESSIONS:
            raise FormatUnsupported(f"an Aperio slide with TIFF compression {page.compression}")
        pages.check_tile_grid(page)
        if page.width > first.width or page.height > first.height:
            raise StructureInvalid("a level larger than the first")
        across, down = page.width / first.width, page.height / first.height
        off = abs(across * first.height - down * first.height)
        if off > 2 and abs(across / down - 1) > _PROPORTION_SLACK:
            raise PlaceUnknown("a tiled page has other proportions than the slide")


def _description(places: list[Place], page: int) -> str:
    for place in places:
        if place.page == page and place.tag == 270 and isinstance(place.value, bytes):
            return place.value.split(b"\0", 1)[0].decode("latin-1")
    return ""


def description_keys(description: str) -> dict[str, str]:
    """`key = value` pairs after the first bar, as OpenSlide reads them: later ones win."""
    keys = {}
    for part in description.split("|")[1:]:
        key, found, value = part.partition("=")
        if found:
            keys[key.strip()] = value.strip()
    return keys


def _with_keys(places: list[Place]) -> list[Place]:
    """Descriptions taken apart into their keys; the part before the first bar is the key "header"."""
    apart: list[Place] = []
    for place in places:
        apart.append(place)
        if place.tag != 270 or not isinstance(place.value, bytes):
            continue
        header, _, rest = place.value.split(b"\0", 1)[0].partition(b"|")
        apart.append(Place(place.page, place.role, 270, "header", 2, header))
        for part in rest.split(b"|") if rest else ():
            key, found, value = part.partition(b"=")
            name = key.strip().decode("latin-1") if found else "?"
            apart.append(Place(place.page, place.role, 270, name or "?", 2, (value if found else key).strip()))
    return apart


def _float(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
