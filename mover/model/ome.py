"""Words about OME-XML: which directories of the TIFF an image's planes stand in (OME schema 2008-02 to 2016-06)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from mover.errors import FormatUnsupported, StructureInvalid
from mover.model.xmltext import Element

NAMESPACE: Final = re.compile(r"http://www\.openmicroscopy\.org/Schemas/OME/[0-9]{4}-[0-9]{2}")
PLANES: Final = 4096
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,2})?")
# Micrometres in one of each unit; without a unit a length is in micrometres.
UNITS: Final = {"": 1.0, "µm": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "km": 1e9}


class Run(Struct, frozen=True):
    """Planes that stand one behind another: the first's directory, how many, and where in the stack they begin."""

    ifd: int
    count: int
    first: tuple[tuple[str, int], ...]


class Image(Struct, frozen=True):
    """`number` is the element's place among its likes; `spacing` micrometres per pixel, None where nothing says."""

    number: int
    element: Element
    pixels: Element
    width: int
    height: int
    spacing: tuple[float | None, float | None]
    runs: tuple[Run, ...]

    def directories(self) -> Iterator[int]:
        for run in self.runs:
            yield from range(run.ifd, run.ifd + run.count)


def local(name: str) -> str:
    return name.rpartition(":")[2]


def plain(element: Element) -> Element:
    """The same tree without prefixes of names."""
    attributes = tuple((name if name == "xmlns" else local(name), value) for name, value in element.attributes)
    return Element(local(element.name), attributes, element.text, tuple(plain(child) for child in element.children))


def namespace(root: Element) -> str:
    """The OME namespace of a document, "" for any other."""
    prefix = root.name.rpartition(":")[0]
    value = root.get(f"xmlns:{prefix}" if prefix else "xmlns")
    return value if local(root.name) == "OME" and NAMESPACE.fullmatch(value) else ""


def images_of(root: Element) -> tuple[Image, ...]:
    """The images of a tree without prefixes that have planes in this file.

    Raises StructureInvalid for numbers that are none, FormatUnsupported for planes in other files."""
    _refuse_other_files(root)
    found = []
    for number, element in enumerate(root.named("Image")):
        for pixels in element.named("Pixels")[:1]:
            spacing = (length(pixels, "PhysicalSizeX"), length(pixels, "PhysicalSizeY"))
            size = (whole(pixels, "SizeX"), whole(pixels, "SizeY"))
            found.append(Image(number, element, pixels, *size, spacing, tuple(_runs(pixels))))
    return tuple(found)


def _refuse_other_files(root: Element) -> None:
    own = {root.get("UUID")} - {""}
    named = {one.text for one in root.walk() if one.name == "UUID" and one.text}
    if len(named | own) > 1:
        raise FormatUnsupported("an OME-TIFF of several files: no writer exists for it yet")


def _runs(pixels: Element) -> Iterator[Run]:
    samples = [whole(channel, "SamplesPerPixel", 1) for channel in pixels.named("Channel")] or [1]
    total = whole(pixels, "SizeC", 1) // max(1, samples[0]) * whole(pixels, "SizeZ", 1) * whole(pixels, "SizeT", 1)
    left = PLANES
    for data in pixels.named("TiffData"):
        given = data.get("IFD") != ""
        count = whole(data, "PlaneCount", whole(data, "NumPlanes", 1 if given else total))
        left -= count
        if left < 0:
            raise StructureInvalid(f"an OME image of more than {PLANES} planes")
        first = tuple((name, whole(data, name, 0)) for name in ("FirstZ", "FirstC", "FirstT") if data.get(name))
        yield Run(whole(data, "IFD", 0), count, first)


def whole(element: Element, name: str, default: int | None = None) -> int:
    text = element.get(name)
    if not text and default is not None:
        return default
    if not _WHOLE.fullmatch(text):
        raise StructureInvalid(f"{name} of an OME image is no number")
    return int(text)


def length(element: Element, name: str) -> float | None:
    """In micrometres; None for no length, or one in a unit that is none."""
    text, unit = element.get(name), element.get(name + "Unit")
    if not _DECIMAL.fullmatch(text) or unit not in UNITS:
        return None
    return float(text) * UNITS[unit] or None
