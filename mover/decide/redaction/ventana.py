"""What of a Ventana slide may pass."""

from __future__ import annotations

import re
from typing import Final

from mover.decide.redaction.documents import DECIMAL, INTEGER, SMALL, VERSION, DocumentDesk
from mover.decide.redaction.markup import Shape
from mover.decide.redaction.texts import decode_text
from mover.decide.redaction.words import OutTag
from mover.model.slides import Page, Place

_COUNT: Final = re.compile(r"[0-9]{1,6}")
_OVERLAP: Final = re.compile(r"-?[0-9]{1,5}(\.[0-9]{1,9})?")
_AOI: Final = Shape(
    {name: INTEGER for name in ("Left", "Top", "Right", "Bottom", "AOIScanned", "OriginX", "OriginY")}, empty=False
)
_ISCAN: Final = Shape(
    {
        "ScanRes": re.compile(r"[0-9]{1,2}(\.[0-9]{1,9})?"),
        "Magnification": re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?"),
        "Mode": re.compile(r"Brightfield|BrightField|Fluorescence|Darkfield|Standard|[0-9]{1,2}"),
        "Z-layers": SMALL,
        "ZLayers": SMALL,
        "Z-spacing": _OVERLAP,
        "ZSpacing": _OVERLAP,
        "ScanMode": SMALL,
        "ScanWhitePoint": SMALL,
        "FocusMode": SMALL,
        "FocusQuality": SMALL,
        "BuildVersion": VERSION,
        "ScannerModel": re.compile(r"VENTANA (DP 200|DP 600)|iScan (Coreo|HT)( Au)?"),
    },
    children={"AOI#": _AOI},
)
_JOINT: Final = Shape(
    {
        "FlagJoined": SMALL,
        "Confidence": SMALL,
        "Direction": re.compile(r"RIGHT|LEFT|UP|DOWN"),
        "Tile1": _COUNT,
        "Tile2": _COUNT,
        "OverlapX": _OVERLAP,
        "OverlapY": _OVERLAP,
    },
    vital=frozenset({"Tile1", "Tile2", "Direction", "OverlapX", "OverlapY"}),
)
_FRAME: Final = Shape({"XY": re.compile(r"-?[0-9]{1,6}, ?-?[0-9]{1,6}"), "Z": SMALL, "Col": SMALL, "Row": SMALL})
_IMAGE_INFO: Final = Shape(
    {
        "AOIScanned": SMALL, "AOIIndex": SMALL, "NumRows": _COUNT, "NumCols": _COUNT, "Width": _COUNT,
        "Height": _COUNT, "Pos-X": DECIMAL, "Pos-Y": DECIMAL,
    },
    children={"TileJointInfo": _JOINT},
    vital=frozenset({"AOIScanned", "NumRows", "NumCols", "Width", "Height"}),
)  # fmt: skip
_ENCODE_INFO: Final = Shape(
    {"Ver": SMALL},
    children={
        "SlideStitchInfo": Shape(
            children={
                "ImageInfo": _IMAGE_INFO,
                "FrameInfo": Shape({"AOI": SMALL}, children={"Frame": _FRAME}, empty=False),
            }
        ),
        "AoiOrigin": Shape(children={"AOI#": _AOI}),
    },
)
_LEVEL: Final[dict[str, re.Pattern[str]]] = {
    "level": re.compile(r"[0-9]{1,2}"),
    "mag": re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?"),
    "quality": re.compile(r"[0-9]{1,3}"),
}
_LABEL: Final = re.compile(r"Label[ _]Image")
_DROPPED: Final = re.compile(
    r"Label[ _]Image|Thumbnail|Probability_Image|level=[0-9]{1,2}( [a-z]{3,7}=[0-9.]{1,6}){0,2}"
)
_SOFTWARE: Final = re.compile(r"ScanOutputManager( [0-9]{1,3}(\.[0-9]{1,6}){1,4})?")


class VentanaDesk(DocumentDesk):
    shapes = {"iScan": _ISCAN, "Metadata": Shape(children={"iScan": _ISCAN}), "EncodeInfo": _ENCODE_INFO}
    words = (
        "Brightfield", "Fluorescence", "Darkfield", "Standard", "VENTANA DP 200", "VENTANA DP 600", "iScan Coreo Au",
        "iScan HT", "RIGHT", "Label_Image", "Label Image", "ScanOutputManager", "level=", "quality=", "Thumbnail",
        "Probability_Image",
    )  # fmt: skip

    def stands(self, page: Page) -> bool:
        """The first directory holds the XMP that tells readers what the file is."""
        return page.index == 0

    def judge_own(self, page: Page, place: Place) -> bool:
        if place.tag not in (270, 305) or page.index not in self.tags:
            return super().judge_own(page, place)
        text = decode_text(place.value)
        rule = _SOFTWARE if place.tag == 305 else _LABEL
        if rule.fullmatch(text):
            kept, reason = text, "a fixed word of the format, or a program's version"
        else:
            kept, reason = self._level(text) if place.tag == 270 and page.role == "level" else "", "not of its form"
        if kept:
            self.tags[page.index].append(OutTag(place.tag, 2, kept.encode("ascii") + b"\0"))
        if kept != text:
            self.note(place.name, "rebuild" if kept else "drop", "D" if kept else "X", reason, text)
            self.remove_rest(text, kept)
        else:
            self.note(place.name, "keep", "K", "a fixed word of the format, or listed numbers", "")
        return True

    def _level(self, text: str) -> str:
        """Level, magnification and quality, in their order, and nothing else of the description."""
        pairs = [part.partition("=") for part in text.split("\0")[0].split(" ")]
        told = [(key, value) for key, _, value in pairs if key in _LEVEL and _LEVEL[key].fullmatch(value)]
        return " ".join(f"{key}={value}" for key, value in dict(told).items())

    def text_rule(self, tag: int) -> re.Pattern[str] | None:
        return {270: _DROPPED, 305: _SOFTWARE}.get(tag)

    def remove_rest(self, text: str, kept: str) -> None:
        stay = set(kept.split(" "))
        self.remove(" ".join(part for part in text.replace("\0", " ").split(" ") if part not in stay))
