"""What of a Philips TIFF may pass: the slide's own geometry from the XML, written anew from a list of attributes.

The document is a tree of `Attribute` elements that hold a value or an array of `DataObject`s. Attributes pass when
their Name is listed where they stand and their text has the listed form. Of the scanned images only the one of type
WSI passes: label and overview go with their pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from mover.decide.redaction.desk import Desk, OutTag
from mover.decide.redaction.generic import GENERIC
from mover.decide.redaction.markup import render, values_of
from mover.decide.redaction.texts import decode_text
from mover.errors import PlaceUnknown
from mover.model.slides import Page, Place, SlideScan
from mover.model.xmltext import Element

_SMALL: Final = re.compile(r"[0-9]{1,2}")
_SIZE: Final = re.compile(r"[0-9]{1,6}")
_SPACING: Final = re.compile(r'"?0\.[0-9]{1,12}"? "?0\.[0-9]{1,12}"?')  # millimetres
_RATIO: Final = re.compile(r'"?[0-9]{1,3}(\.[0-9]{1,6})?"?( "?[0-9]{1,3}(\.[0-9]{1,6})?"?)?')
_POSITION: Final = re.compile(r'"?-?[0-9]{1,3}(\.[0-9]{1,9})?"?( "?-?[0-9]{1,3}(\.[0-9]{1,9})?"?){0,2}')
_DECIMAL: Final = re.compile(r'"?[0-9]{1,6}(?:\.[0-9]{1,12})?(?:[eE]-?[0-9]{1,2})?"?')
_HEX: Final = re.compile(r"0x[0-9A-Fa-f]{4}")
_KIND: Final = re.compile(r"I(String|Double|U?Int(16|32|64)|DataObject|Byte|Float)(Array)?")

Rules = Mapping[str, "re.Pattern[str] | Nested"]


class Nested(Struct, frozen=True):
    """An attribute that holds an array of objects of this type."""

    kind: str
    rules: Rules


_LEVELS: Final = Nested("PixelDataRepresentation", {
    "DICOM_PIXEL_SPACING": _SPACING,
    "PIIM_DP_PIXEL_DATA_REPRESENTATION_POSITION": _POSITION,
    "PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS": _SIZE,
    "PIIM_PIXEL_DATA_REPRESENTATION_NUMBER": _SMALL,
    "PIIM_PIXEL_DATA_REPRESENTATION_ROWS": _SIZE,
})  # fmt: skip
_IMAGES: Final = Nested("DPScannedImage", {
    "DICOM_BITS_ALLOCATED": _SMALL,
    "DICOM_BITS_STORED": _SMALL,
    "DICOM_HIGH_BIT": _SMALL,
    "DICOM_LOSSY_IMAGE_COMPRESSION": re.compile(r'"?0[01]"?'),
    "DICOM_LOSSY_IMAGE_COMPRESSION_METHOD": re.compile(r'"?PHILIPS_(DP|TIFF)_1_0"?( "?PHILIPS_(DP|TIFF)_1_0"?)?'),
    "DICOM_LOSSY_IMAGE_COMPRESSION_RATIO": _RATIO,
    "DICOM_PHOTOMETRIC_INTERPRETATION": re.compile(r"RGB|YBR_FULL|YBR_FULL_422|MONOCHROME2"),
    "DICOM_PIXEL_REPRESENTATION": _SMALL,
    "DICOM_PIXEL_SPACING": _SPACING,
    "DICOM_PLANAR_CONFIGURATION": _SMALL,
    "DICOM_SAMPLES_PER_PIXEL": _SMALL,
    "PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE": _LEVELS,
    "PIM_DP_IMAGE_COLUMNS": _SIZE,
    "PIM_DP_IMAGE_ROWS": _SIZE,
    "PIM_DP_IMAGE_TYPE": re.compile(r"WSI"),
})  # fmt: skip
_ROOT: Final[Rules] = {
    "DICOM_MANUFACTURER": re.compile(r"PHILIPS|Philips"),
    "DICOM_MANUFACTURERS_MODEL_NAME": re.compile(r"UFS Scanner|Philips UFS|IntelliSite Ultra Fast Scanner"),
    "PIM_DP_SCANNED_IMAGES": _IMAGES,
    "PIM_DP_UFS_INTERFACE_VERSION": re.compile(r"[0-9]{1,2}\.[0-9]{1,2}"),
}
_SOFTWARE: Final = re.compile(r"Philips DP v[0-9]{1,2}\.[0-9]{1,2}")
_LEVEL: Final = re.compile(r"level=[0-9]{1,2} mag=[0-9]{1,3}(\.[0-9]{1,6})? quality=[0-9]{1,3}")


def _names(rules: Rules) -> Iterator[str]:
    for name, rule in rules.items():
        yield name
        if isinstance(rule, Nested):
            yield rule.kind
            yield from _names(rule.rules)


# What the writer itself puts into the output: a removed string of these words proves nothing.
WORDS: Final = (
    *sorted(set(_names(_ROOT))), "DataObject", "ObjectType", "DPUfsImport", "Attribute", "Array", "Group", "Element",
    "PMSVR", "IString", "IStringArray", "IDouble", "IDoubleArray", "IDataObjectArray", "IUInt16", "IUInt32", "PHILIPS",
    "PHILIPS_TIFF_1_0", "PHILIPS_DP_1_0", "UFS Scanner", "Philips UFS", "IntelliSite Ultra Fast Scanner",
    "YBR_FULL_422", "MONOCHROME2", "Philips DP v1.0", "quality", "level", "encoding", "version", "UTF-8",
)  # fmt: skip


class PhilipsDesk(Desk):
    rules = GENERIC

    def __init__(self, scan: SlideScan, known: Iterable[str]) -> None:
        super().__init__(scan, known)
        found = scan.documents[0]
        for text in found.strays:
            self.remove(text)
        self.document = self._object(found.root, "DPUfsImport", _ROOT)
        images = [one for one in self.document.walk() if one.get("ObjectType") == "DPScannedImage"]
        if len(images) != 1:
            raise PlaceUnknown("the XML does not speak of exactly one slide")

    # -- the document

    def _object(self, element: Element, kind: str, rules: Rules) -> Element:
        kept = []
        for child in element.children:
            rule = rules.get(child.get("Name")) if child.name == "Attribute" else None
            if rule is None:
                self._drop(child)
            elif isinstance(rule, Nested):
                kept.append(self._array(child, rule))
            elif rule.fullmatch(child.text) and self._fits(child.get("Name"), child.text):
                kept.append(Element("Attribute", tuple(self._facts(child)), child.text))
                self._drop_inside(child)
            else:
                self._drop(child)
        self._drop_rest(element, {"ObjectType"})
        return Element("DataObject", (("ObjectType", kind),), "", tuple(kept))

    def _fits(self, name: str, text: str) -> bool:
        """A number of columns or rows is at most the first level's."""
        first = self.scan.levels[0]
        limit = {"_COLUMNS": first.width, "_ROWS": first.height}
        return all(int(text) <= most for end, most in limit.items() if name.endswith(end))

    def _array(self, element: Element, rule: Nested) -> Element:
        objects = []
        for array in element.children:
            for one in array.children:
                if array.name == "Array" and self._is_kept(one, rule):
                    objects.append(self._object(one, rule.kind, rule.rules))
                else:
                    self._drop(one)
            self._drop_rest(array, set())
        self._drop_rest(element, {"Name", "Group", "Element", "PMSVR"})
        return Element("Attribute", tuple(self._facts(element)), "", (Element("Array", (), "", tuple(objects)),))

    def _is_kept(self, element: Element, rule: Nested) -> bool:
        """Of scanned images the slide alone: what says WSI, once, and nothing else."""
        if element.name != "DataObject" or element.get("ObjectType") != rule.kind:
            return False
        types = [child.text for child in element.children if child.get("Name") == "PIM_DP_IMAGE_TYPE"]
        return rule is not _IMAGES or types == ["WSI"]

    def _facts(self, element: Element) -> Iterator[tuple[str, str]]:
        yield "Name", element.get("Name")
        for name, form in (("Group", _HEX), ("Element", _HEX), ("PMSVR", _KIND)):
            if form.fullmatch(element.get(name)):
                yield name, element.get(name)

    def _drop(self, element: Element) -> None:
        """A whole branch. An attribute's name may be somebody's too."""
        name = element.get("Name")
        known = name if name in WORDS else "(unlisted)"
        self.note(f"page 0 (level) tag 270 {known}", "drop", "X", "not on the allow-list", element.text)
        for value in values_of(element):
            if not (_HEX.fullmatch(value) or _KIND.fullmatch(value)):  # numbers of DICOM attributes and their types
                self.remove(value)

    def _drop_inside(self, element: Element) -> None:
        for child in element.children:
            self._drop(child)
        self._drop_rest(element, {"Name", "Group", "Element", "PMSVR"}, text=False)

    def _drop_rest(self, element: Element, listed: set[str], *, text: bool = True) -> None:
        """Attributes of an element that nobody lists, and text where only elements belong."""
        for name, value in element.attributes:
            if name not in listed:
                self.remove(value)
        if text and element.text:
            self.remove(element.text)

    # -- the places

    def judge_own(self, page: Page, place: Place) -> bool:
        if place.tag not in (270, 305):
            return False
        text = decode_text(place.value)
        rule = _SOFTWARE if place.tag == 305 else _LEVEL
        if rule.fullmatch(text):
            self.tags[page.index].append(OutTag(place.tag, 2, text.encode("ascii") + b"\0"))
            self.note(place.name, "keep", "K", "a program's or level's text of the known form", "")
        elif place.tag == 305 and page.index == 0:
            self.tags[0].append(OutTag(305, 2, b"Philips DP v1.0\0"))
            self.note(place.name, "rebuild", "D", "the vendor's word alone: readers know the slide by it", place.value)
            self.remove(place.value)
        else:
            self.note(place.name, "drop", "X", "not on the allow-list", place.value)
            self.remove(place.value)
        return True

    def text_rule(self, tag: int) -> re.Pattern[str] | None:
        return {270: _LEVEL, 305: _SOFTWARE}.get(tag)

    def own_words(self) -> frozenset[str]:
        """Numbers that are kept: the dropped pictures' own spacing often is the same."""
        kept: set[str] = set()
        for value in values_of(self.document):
            parts = value.split()
            if all(_DECIMAL.fullmatch(part) for part in parts):
                kept |= {value, value.strip('"'), *parts, *(part.strip('"') for part in parts)}
        return super().own_words() | kept

    def removed(self) -> tuple[str, ...]:
        return tuple(text for text in super().removed() if not (_HEX.fullmatch(text) or _KIND.fullmatch(text)))

    def phrases(self) -> Iterable[str]:
        return (*super().phrases(), *WORDS)

    def describe(self, page: Page, kept: dict[str, str], header: str) -> OutTag | None:
        if page.index != 0:
            return None
        text = '<?xml version="1.0" encoding="UTF-8" ?>' + render(self.document)
        self.note("page 0 (level) tag 270", "rebuild", "D", "the XML written anew from listed attributes", "")
        return OutTag(270, 2, text.encode("ascii") + b"\0")
