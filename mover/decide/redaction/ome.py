"""What of an OME-TIFF may pass: the XML is written anew from a schema of numbers and enumerations.

Kept: geometry of the images that are levels, where their planes stand, channels' colours and wavelengths, a channel's
name where it is a known stain's, the objective's numbers. Dropped: everything else, names and dates and annotations
first of all. Identifiers inside the document are written anew (`Image:0`), and there is no UUID.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from mover.decide.redaction.desk import Desk, OutTag
from mover.decide.redaction.generic import GENERIC
from mover.decide.redaction.markup import Shape, names_of, prune, render, values_of
from mover.errors import PlaceUnknown
from mover.model.ome import NAMESPACE, UNITS, Image, images_of, namespace, plain
from mover.model.slides import Page, SlideScan
from mover.model.xmltext import Element

_EDGE: Final = re.compile(r"[0-9]{1,7}")
_WHOLE: Final = re.compile(r"[0-9]{1,4}")
_DECIMAL: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,20})?([eE]-?[0-9]{1,2})?")
_BOOLEAN: Final = re.compile(r"true|false")
_COLOUR: Final = re.compile(r"-?[0-9]{1,10}")
_LENGTH: Final = re.compile("|".join(sorted(unit for unit in UNITS if unit)))
_TIME: Final = re.compile(r"s|ms|min|h|ns|µs")
_ORDER: Final = re.compile(r"XY(CZT|CTZ|ZCT|ZTC|TCZ|TZC)")
_TYPE: Final = re.compile(r"u?int(8|16|32)|float|double|bit|complex|double-complex")
_STAIN: Final = re.compile(
    r"DAPI|Hoechst( 33342)?|FITC|TRITC|GFP|RFP|YFP|mCherry|Cy[23579](\.5)?|Texas Red|Alexa ?(Fluor)? ?[0-9]{3}"
    r"|AF[0-9]{3}|Opal ?[0-9]{3}|CD[0-9]{1,3}[a-z]?|FOXP3|Ki-?67|PanCK|Pan-?Cytokeratin|SMA|HLA-DR|PD-?L?1"
    r"|Auto-?fluorescence|AF|TL|TL Brightfield|Brightfield|[Rr]ed|[Gg]reen|[Bb]lue|RGB|R|G|B"
    r"|H&E|Hematoxylin|Haematoxylin|Eosin|DAB"
)
_ILLUMINATION: Final = re.compile(r"Transmitted|Epifluorescence|Oblique|NonLinear|Other")
_CONTRAST: Final = re.compile(
    r"Brightfield|Phase|DIC|HoffmanModulation|ObliqueIllumination|PolarizedLight|Darkfield|Fluorescence|Other"
)
_ACQUISITION: Final = re.compile(
    r"WideField|LaserScanningConfocalMicroscopy|SpinningDiskConfocal|SlitScanConfocal|MultiPhotonMicroscopy"
    r"|StructuredIllumination|BrightField|SlideScan|Other"
)
_IMMERSION: Final = re.compile(r"Oil|Water|WaterDipping|Air|Multi|Glycerol|Other|Unknown")
_CORRECTION: Final = re.compile(
    r"UV|PlanApo|PlanFluor|SuperFluor|VioletCorrected|Achro|Achromat|Fluor|Fl|Fluar|Neofluar|Fluotar|Apo|PlanNeofluar"
    r"|Other|Unknown"
)

_OBJECTIVE: Final = Shape(attributes={
    "NominalMagnification": _DECIMAL, "CalibratedMagnification": _DECIMAL, "LensNA": _DECIMAL,
    "Immersion": _IMMERSION, "Correction": _CORRECTION,
})  # fmt: skip
_CHANNEL: Final = Shape(attributes={
    "Name": _STAIN, "SamplesPerPixel": _WHOLE, "Color": _COLOUR, "EmissionWavelength": _DECIMAL,
    "EmissionWavelengthUnit": _LENGTH, "ExcitationWavelength": _DECIMAL, "ExcitationWavelengthUnit": _LENGTH,
    "IlluminationType": _ILLUMINATION, "ContrastMethod": _CONTRAST, "AcquisitionMode": _ACQUISITION,
})  # fmt: skip
_DATA: Final = Shape(attributes={name: _WHOLE for name in ("IFD", "FirstZ", "FirstC", "FirstT", "PlaneCount")})
_VITAL: Final = frozenset({"DimensionOrder", "Type", "SizeX", "SizeY", "SizeC", "SizeZ", "SizeT"})
_PIXELS: Final = Shape(
    attributes={
        "DimensionOrder": _ORDER, "Type": _TYPE, "PixelType": _TYPE, "SizeX": _EDGE, "SizeY": _EDGE,
        "SizeC": _WHOLE, "SizeZ": _WHOLE, "SizeT": _WHOLE, "SignificantBits": _WHOLE, "Interleaved": _BOOLEAN,
        "BigEndian": _BOOLEAN, "PhysicalSizeX": _DECIMAL, "PhysicalSizeXUnit": _LENGTH, "PhysicalSizeY": _DECIMAL,
        "PhysicalSizeYUnit": _LENGTH, "PhysicalSizeZ": _DECIMAL, "PhysicalSizeZUnit": _LENGTH,
        "TimeIncrement": _DECIMAL, "TimeIncrementUnit": _TIME,
    },
    children={"Channel": _CHANNEL, "TiffData": _DATA},
    vital=_VITAL - {"Type"},  # schemas before 2008-09 say PixelType
)  # fmt: skip
_IMAGE: Final = Shape(children={"Pixels": _PIXELS})
_ROOT: Final = Shape(
    attributes={"xmlns": NAMESPACE},
    children={"Instrument": Shape(children={"Objective": _OBJECTIVE}), "Image": _IMAGE},
)
# What the writer itself puts into the document: a removed string of these words proves nothing.
WORDS: Final = (
    *sorted(set(names_of(_ROOT))), "InstrumentRef", "ObjectiveSettings", "encoding", "version", "UTF-8",
    "http://www.openmicroscopy.org/Schemas/OME/", "true", "false", "uint8", "uint16", "uint32", "int16",
    "int32", "float", "double", "XYCZT", "XYZCT", "XYCTZ", "XYZTC", "XYTCZ", "XYTZC", "Transmitted", "Epifluorescence",
    "Fluorescence", "Brightfield", "BrightField", "WideField", "SlideScan", "Channel:0:0", "Image:0", "Pixels:0",
    "Instrument:0", "Objective:0:0",
)  # fmt: skip
_OWN_ID: Final = re.compile(r"(urn:lsid:[A-Za-z.]{1,40}:)?[A-Za-z]{1,20}(:[0-9]{1,3}){1,3}")
_SHAPES: Final = 500
_SOUGHT: Final = 8000
_DEFAULT_UNIT: Final = frozenset({"µm", "\u03bcm"})


class OmeDesk(Desk):
    """A kept image stays only while all its planes are levels; the numbers of their directories are the output's."""

    rules = GENERIC

    def __init__(self, scan: SlideScan, known: Iterable[str]) -> None:
        super().__init__(scan, known)
        root = plain(scan.documents[0].root)
        self.images = {image.number: image for image in images_of(root)}
        self.places_of_chain = _chain_numbers(scan)
        self.first = next(page for page in scan.pages if page.role == "level")
        self.document = self._prune(root)
        for text in scan.documents[0].strays:
            self.remove(text)

    def _prune(self, root: Element) -> Element:
        kept = prune(self._with_sure_colours(self._with_sure_lengths(root)), _ROOT, self._dropped)
        if kept is None:
            raise PlaceUnknown("the OME-XML has nothing that may pass")
        whole = [one for one in _with_numbers(kept, root) if one[0] is None or self._stays(one[0])]
        attributes = (("xmlns", namespace(self.scan.documents[0].root)),)
        return Element("OME", attributes, "", tuple(element for _, element in whole))

    def _with_sure_colours(self, element: Element) -> Element:
        """A colour is opaque or nothing at all; any other number is none (OME schema, Channel Color: RGBA)."""
        attributes = []
        for name, value in element.attributes:
            if name == "Color" and _COLOUR.fullmatch(value) and int(value) & 255 not in (0, 255):
                self._dropped(f"/{element.name}@Color", value, "a number that is no colour")
            else:
                attributes.append((name, value))
        children = tuple(self._with_sure_colours(child) for child in element.children)
        return Element(element.name, tuple(attributes), element.text, children)

    def _with_sure_lengths(self, element: Element) -> Element:
        """A number whose unit may not pass would say another length without it."""
        units = {name.removesuffix("Unit"): value for name, value in element.attributes if name.endswith("Unit")}
        unsure = {name for name, unit in units.items() if not (_LENGTH.fullmatch(unit) or _TIME.fullmatch(unit))}
        for name, value in element.attributes:
            if name.removesuffix("Unit") in unsure:
                self._dropped(f"/{element.name}@(unsure)", value, "a length in a unit that is not listed")
        attributes = tuple(one for one in element.attributes if one[0].removesuffix("Unit") not in unsure)
        children = tuple(self._with_sure_lengths(child) for child in element.children)
        return Element(element.name, attributes, element.text, children)

    def _stays(self, number: int) -> bool:
        image = self.images.get(number)
        stays = image is not None and self._holds(image)
        if not stays:
            self.note("page 0 (level) tag 270 OME/Image", "drop", "X", "an image that is not of the slide itself", "")
        return stays

    def _dropped(self, path: str, value: str, reason: str) -> None:
        """Converters write thousands of annotations: from some number on they are counted, and no more sought. What
        was removed from the places before them is."""
        many = len(self.decisions) >= _SHAPES
        self.note(f"page 0 (level) tag 270 {path}", "drop", "X", reason, "" if many else value)
        if not _OWN_ID.fullmatch(value) and len(self.harvest) < _SOUGHT:
            self.remove(value)

    def own_words(self) -> frozenset[str]:
        values = (value for value in values_of(self.document) if "." in value)
        return super().own_words() | {value for value in values if _DECIMAL.fullmatch(value)}

    def phrases(self) -> Iterable[str]:
        return (*super().phrases(), *WORDS, self.document.get("xmlns") or "")

    def _description(self, page: Page, removed: list[str]) -> OutTag | None:
        if page.index != self.first.index:
            return None
        document = _without(self.document, lambda value: self.vocabulary.repeats(value, removed))
        text = '<?xml version="1.0" encoding="UTF-8"?>' + render(self._write(document))
        self.note("page 0 (level) tag 270", "rebuild", "D", "OME-XML written anew from its schema's numbers", "")
        return OutTag(270, 2, text.encode("ascii") + b"\0")

    # -- the document as it will stand

    def _write(self, document: Element) -> Element:
        lenses = [one for instrument in document.named("Instrument") for one in instrument.named("Objective")]
        children: list[Element] = []
        if lenses:
            lens = Element("Objective", (("ID", "Objective:0:0"), *lenses[0].attributes))
            children.append(Element("Instrument", (("ID", "Instrument:0"),), "", (lens,)))
        numbers = [number for number in sorted(self.images) if self._holds(self.images[number])]
        for index, (number, image) in enumerate(zip(numbers, document.named("Image"), strict=True)):
            children.append(self._image(index, self.images[number], image.named("Pixels")[0], lens=bool(lenses)))
        return Element("OME", document.attributes, "", tuple(children))

    def _holds(self, image: Image) -> bool:
        return bool(image.runs) and all(one in self.places_of_chain for one in image.directories())

    def _image(self, index: int, image: Image, pixels: Element, *, lens: bool) -> Element:
        channels = [
            Element("Channel", (("ID", f"Channel:{index}:{number}"), *one.attributes))
            for number, one in enumerate(pixels.named("Channel"))
        ]
        inner = Element("Pixels", (("ID", f"Pixels:{index}"), *pixels.attributes), "", (*channels, *self._data(image)))
        through = [("InstrumentRef", "Instrument:0"), ("ObjectiveSettings", "Objective:0:0")] if lens else []
        settings = (Element(name, (("ID", target),)) for name, target in through)
        return Element("Image", (("ID", f"Image:{index}"),), "", (*settings, inner))

    def _data(self, image: Image) -> Iterator[Element]:
        for run in image.runs:
            if run.count:
                numbers = (("IFD", f"{self.places_of_chain[run.ifd]}"), *((name, f"{at}") for name, at in run.first))
                yield Element("TiffData", (*numbers, ("PlaneCount", f"{run.count}")))


def _chain_numbers(scan: SlideScan) -> dict[int, int]:
    """Where in the output's main chain each kept directory of the source's stands."""
    chain = [page for page in scan.pages if page.parent < 0]
    kept = [number for number, page in enumerate(chain) if page.role == "level"]
    return {number: index for index, number in enumerate(kept)}


def _with_numbers(kept: Element, root: Element) -> Iterator[tuple[int | None, Element]]:
    """The pruned children, images with their number. No image is lost on the way: `Shape.empty` lets them stand."""
    images = iter(range(len(root.named("Image"))))
    for child in kept.children:
        yield (next(images) if child.name == "Image" else None), child


def _without(element: Element, repeats: Callable[[str], bool]) -> Element:
    """Drop what repeats something removed elsewhere; lengths go with their units, and the default unit goes."""
    attributes = tuple(
        (name, value) for name, value in element.attributes
        if name in _VITAL or name == "xmlns" or not repeats(value)
    )  # fmt: skip
    told = {name for name, _ in attributes}
    attributes = tuple(
        (name, value) for name, value in attributes
        if not (name.endswith("Unit") and (value in _DEFAULT_UNIT or name.removesuffix("Unit") not in told))
    )  # fmt: skip
    children = tuple(_without(child, repeats) for child in element.children)
    return Element(element.name, attributes, element.text, children)
