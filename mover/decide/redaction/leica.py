"""What of a Leica SCN slide may pass."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from mover.decide.redaction.documents import INTEGER, NATURAL, SMALL, VERSION, DocumentDesk
from mover.decide.redaction.markup import Shape
from mover.model.slides import Page
from mover.model.xmltext import Element

XMLNS: Final = "http://www.leica-microsystems.com/scn/2010/10/01"
_LIGHT: Final = re.compile(r"brightfield|fluorescence|darkfield|polarized|transmitted")
_SMALL_DECIMAL: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,4})?")
_MODEL: Final = re.compile(r"Leica SCN[0-9]{3,4}[A-Z]?")

_PIXEL: Final = re.compile(r"[0-9]{1,7}")
_DIMENSION: Final = Shape(
    {"sizeX": _PIXEL, "sizeY": _PIXEL, "r": SMALL, "c": SMALL, "z": SMALL, "ifd": SMALL},
    vital=frozenset({"sizeX", "sizeY", "ifd"}),
)
_PIXELS: Final = Shape(
    {"sizeX": _PIXEL, "sizeY": _PIXEL} | dict.fromkeys(("sizeC", "sizeZ", "sizeR", "firstIFD"), SMALL),
    children={"dimension": _DIMENSION},
)
_VIEW: Final = Shape(
    {"sizeX": NATURAL, "sizeY": NATURAL, "offsetX": INTEGER, "offsetY": INTEGER, "spacingZ": _SMALL_DECIMAL},
    vital=frozenset({"sizeX", "sizeY", "offsetX", "offsetY"}),
)
_LEAF: Final = Shape(text=_SMALL_DECIMAL, empty=False)
_CHANNEL: Final = Shape({"index": SMALL, "rgb": re.compile(r"#[0-9a-fA-F]{6}")}, empty=False)
_SETTINGS: Final = Shape(
    children={
        "objectiveSettings": Shape(children={"objective": _LEAF}, empty=False),
        "illuminationSettings": Shape(
            children={"numericalAperture": _LEAF, "illuminationSource": Shape(text=_LIGHT, empty=False)}, empty=False
        ),
        "channelSettings": Shape(children={"channel": _CHANNEL}, empty=False),
    },
    empty=False,
)
_IMAGE: Final = Shape(
    children={
        "device": Shape({"model": _MODEL, "version": VERSION}, empty=False),
        "pixels": _PIXELS,
        "view": _VIEW,
        "scanSettings": _SETTINGS,
    }
)
_SCN: Final = Shape(
    {"xmlns": re.compile(re.escape(XMLNS))},
    children={
        "collection": Shape(
            {"sizeX": NATURAL, "sizeY": NATURAL}, children={"image": _IMAGE}, vital=frozenset({"sizeX", "sizeY"})
        )
    },
    vital=frozenset({"xmlns"}),
)


class LeicaDesk(DocumentDesk):
    shapes = {"scn": _SCN}
    words = (XMLNS, "brightfield", "fluorescence", "darkfield", "polarized", "transmitted", "Leica SCN400F")

    def before(self, root: Element) -> Element:
        """A device's model and serial number stand in one attribute, parted by a semicolon; the size of an image is
        one of its resolutions'."""
        if root.name == "pixels":
            return self._sized(root)
        if root.name != "device":
            return msgspec.structs.replace(root, children=tuple(self.before(child) for child in root.children))
        attributes = []
        for name, value in root.attributes:
            model, _, serial = value.partition(";")
            if name == "model" and _MODEL.fullmatch(model):
                self.remove(serial)
                attributes.append((name, model))
            else:
                attributes.append((name, value))
        return msgspec.structs.replace(root, attributes=tuple(attributes))

    def _sized(self, pixels: Element) -> Element:
        attributes = []
        for name, value in pixels.attributes:
            if name in ("sizeX", "sizeY") and value not in {one.get(name) for one in pixels.named("dimension")}:
                self.remove(value)
            else:
                attributes.append((name, value))
        return msgspec.structs.replace(pixels, attributes=tuple(attributes))

    def stands(self, page: Page) -> bool:
        """The description names directories by their number: those before the last level keep their place."""
        return page.index < max(level.index for level in self.scan.levels) or page.role == "overview"
