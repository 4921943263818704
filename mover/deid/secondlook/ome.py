"""What may stand in an OME-TIFF output, written a second time.

The XML of an output is a row of elements without any text between them; each attribute has a form of its own.
Which pages are levels is asked of the XML as the standard library's tree reads it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

import tifffile

from mover.deid.secondlook import generic
from mover.deid.secondlook.rules import Family, Pages
from mover.errors import RedactionUnproven

_N: Final = r"[0-9]{1,9}"
_D: Final = r"[0-9]{1,6}(?:\.[0-9]{1,20})?(?:[eE]-?[0-9]{1,2})?"
_W: Final = r"[A-Za-z0-9&;.\- ]{1,24}"
_LENGTH: Final = r"(?:nm|mm|cm|m|pm|km)"
_FORMS: Final = {
    "xmlns": r"http://www\.openmicroscopy\.org/Schemas/OME/[0-9]{4}-[0-9]{2}",
    "ID": r"(?:Image|Pixels|Instrument|Channel|Objective)(?::[0-9]{1,4}){1,2}",
    "DimensionOrder": r"XY[CZT]{3}", "Type": r"[a-z\-]{3,14}[0-9]{0,2}", "PixelType": r"[a-z\-]{3,14}[0-9]{0,2}",
    "Interleaved": r"(?:true|false)", "BigEndian": r"(?:true|false)", "Color": r"-?[0-9]{1,10}", "Name": _W,
    "Immersion": r"[A-Za-z]{3,12}", "Correction": r"[A-Za-z]{2,16}", "IlluminationType": r"[A-Za-z]{5,16}",
    "ContrastMethod": r"[A-Za-z]{3,20}", "AcquisitionMode": r"[A-Za-z]{5,32}", "TimeIncrementUnit": r"[a-z]{1,3}",
    **{name: _N for name in ("SizeX", "SizeY", "SizeC", "SizeZ", "SizeT", "SignificantBits", "SamplesPerPixel", "IFD",
                             "FirstZ", "FirstC", "FirstT", "PlaneCount")},
    **{name: _D for name in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ", "TimeIncrement", "EmissionWavelength",
                             "ExcitationWavelength", "NominalMagnification", "CalibratedMagnification", "LensNA")},
    **{name + "Unit": _LENGTH for name in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ", "EmissionWavelength",
                                           "ExcitationWavelength")},
}  # fmt: skip
_ELEMENTS: Final = r"(?:OME|Instrument|Objective|Image|InstrumentRef|ObjectiveSettings|Pixels|Channel|TiffData)"
_ATTRIBUTE: Final = "|".join(f'{name}="{form}"' for name, form in _FORMS.items())
_XML: Final = re.compile(
    rf'<\?xml version="1\.0" encoding="UTF-8"\?>(?:</?{_ELEMENTS}(?: (?:{_ATTRIBUTE}))*/?>)+', re.ASCII
)
COARSEST_UM: Final = 10.0
_UNITS: Final = {"nm": 0.001, "mm": 1000.0, "cm": 10_000.0, "m": 1_000_000.0, "pm": 1e-6, "km": 1e9}


def _levels(pages: Pages) -> frozenset[int]:
    chain = [number for number, page in enumerate(pages) if len(page.treeindex) == 1]
    kept = {chain[number] for number in _planes(pages, chain)}
    for number, page in enumerate(pages):
        parent = chain[page.treeindex[0]] if len(page.treeindex) == 2 else -1
        if parent in kept and page.subfiletype == 1 and generic.alike(page, pages[parent]):
            kept.add(number)
    return frozenset(kept)


def _planes(pages: Pages, chain: Sequence[int]) -> set[int]:
    """The places in the chain that hold planes of the slide, or of an image as finely and deeply taken."""
    images = [_image(pixels) for pixels in _parse(pages[0].description).iter() if _name(pixels) == "Pixels"]
    images = [image for image in images if image[2]]
    firsts = [pages[chain[min(image[2])]] for image in images]

    def rank(one: int) -> tuple[bool, int, bool, int, int]:
        (wide, high), spacing, _ = images[one]
        page = firsts[one]
        return page.is_tiled, _told_fine(spacing), bool(page.subifds), wide * high, -one

    best = max(range(len(images)), key=rank)
    kept: set[int] = set()
    for image, first in zip(images, firsts, strict=True):
        if image[0] == images[best][0] or _as_fine(image[1], first, images[best][1], firsts[best]):
            kept |= set(image[2])
    return kept


def _told_fine(spacing: tuple[float, float]) -> int:
    """2 for what says it was scanned more finely than any label is photographed, 0 for what says it was not."""
    coarsest = max(spacing)
    return 1 if coarsest <= 0 else 2 if coarsest < COARSEST_UM else 0


def _as_fine(
    spacing: tuple[float, float], page: tifffile.TiffPage, wanted: tuple[float, float], main: tifffile.TiffPage
) -> bool:
    near = all(one > 0 and two > 0 and abs(one - two) <= two * 1e-4 for one, two in zip(spacing, wanted, strict=True))
    tiles = page.is_tiled and (page.tilewidth, page.tilelength) == (main.tilewidth, main.tilelength)
    return near and tiles and 0 < len(page.subifds or ()) == len(main.subifds or ())


def _image(pixels: ElementTree.Element) -> tuple[tuple[int, int], tuple[float, float], list[int]]:
    numbers = {key.rpartition("}")[2]: value for key, value in pixels.attrib.items()}
    channels = [one for one in pixels if _name(one) == "Channel"]
    samples = int(channels[0].get("SamplesPerPixel", "1")) if channels else 1
    planes = int(numbers.get("SizeC", "1")) // max(1, samples)
    planes *= int(numbers.get("SizeZ", "1")) * int(numbers.get("SizeT", "1"))
    found: list[int] = []
    for data in (one for one in pixels if _name(one) == "TiffData"):
        count = int(data.get("PlaneCount") or data.get("NumPlanes") or (1 if data.get("IFD") else planes))
        if count > 4096:
            raise RedactionUnproven("an OME image of too many planes")
        found += range(int(data.get("IFD", "0")), int(data.get("IFD", "0")) + count)
    size = int(numbers["SizeX"]), int(numbers["SizeY"])
    return size, (_microns(numbers, "PhysicalSizeX"), _microns(numbers, "PhysicalSizeY")), found


def _microns(numbers: dict[str, str], name: str) -> float:
    unit = numbers.get(name + "Unit", "")
    if name not in numbers or unit not in (*_UNITS, "", "µm", "\u03bcm"):
        return 0.0
    return float(numbers[name]) * _UNITS.get(unit, 1.0)


def _parse(text: str) -> ElementTree.Element:
    """The source's document was parsed before by a reader that knows no document types; here none may stand."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise RedactionUnproven("an OME-XML with a document type")
    try:
        return ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise RedactionUnproven("the OME-XML cannot be read") from error


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2].rpartition(":")[2]


def _whole(pages: Pages) -> None:
    """tifffile must take it for OME, and find every page of the main chain in a series."""
    tiff = pages[0].parent
    chain = [page for page in pages if len(page.treeindex) == 1]
    series = tiff.series if tiff.is_ome else []
    planes = sum(len(one.levels[0].pages) for one in series if one.kind == "ome")
    if planes != len(chain) or any(270 in page.tags for page in pages[1:]):
        raise RedactionUnproven("the OME-XML does not name the output's directories")


RULES: Final = Family(
    tags=generic.TAGS | {270, 273, 278, 279},
    texts={270: _XML},
    levels=_levels,
    whole=_whole,
    children=True,
)
