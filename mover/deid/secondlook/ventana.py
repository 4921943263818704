"""What may stand in a Ventana output, written a second time."""

from __future__ import annotations

import re
from typing import Final

import tifffile

from mover.deid.secondlook.rules import Family, Pages
from mover.errors import RedactionUnproven

_TAGS: Final = frozenset(
    {254, 256, 257, 258, 259, 262, 274, 277, 278, 282, 283, 284, 296, 305, 317, 322, 323, 324, 325, 339, 347, 530, 531,
     532, 700, 32997, 34675, 270, 273, 279}
)  # fmt: skip
_WHOLE: Final = r'"-?[0-9]{1,12}"'
_NUMBER: Final = r'"-?[0-9]{1,9}(\.[0-9]{1,17})?"'
_AREA: Final = rf"<AOI[0-9]{{1,4}}( (Left|Top|Right|Bottom|AOIScanned|Origin[XY])={_WHOLE})+/>"
_ISCAN: Final = (
    rf"<iScan( (ScanRes|Magnification|Z-?layers|ZLayers|Z-?[sS]pacing)={_NUMBER}"
    r'| (Mode|ScanMode|ScanWhitePoint|FocusMode|FocusQuality)="[0-9]{1,3}"'
    r'| Mode="(Bright[fF]ield|Fluorescence|Darkfield|Standard)"'
    r'| BuildVersion="[0-9]{1,3}(\.[0-9]{1,6}){1,4}"'
    r'| ScannerModel="(VENTANA DP [26]00|iScan (Coreo|HT)( Au)?)")*'
    rf"(/>|>({_AREA})*</iScan>)"
)
_ENCODE: Final = (
    r'<EncodeInfo( Ver="[0-9]{1,3}")?>'
    r"(?:</?(SlideStitchInfo|ImageInfo|FrameInfo|AoiOrigin|EncodeInfo)/?>"
    rf"|<ImageInfo( (AOIScanned|AOIIndex|NumRows|NumCols|Width|Height)={_WHOLE}| Pos-[XY]={_NUMBER})+/?>"
    rf"|<TileJointInfo( (FlagJoined|Confidence|Tile[12])={_WHOLE}| Overlap[XY]={_NUMBER}"
    r'| Direction="(RIGHT|LEFT|UP|DOWN)")+/>'
    rf"|<FrameInfo( AOI={_WHOLE})?/?>"
    rf'|<Frame( XY="-?[0-9]{{1,6}}, ?-?[0-9]{{1,6}}"| (Z|Col|Row)={_WHOLE})*/>'
    rf"|{_AREA})*+"
)
_XMP: Final = re.compile(
    rf'<\?xml version="1\.0" encoding="UTF-8"\?>(?:{_ISCAN}|<Metadata>{_ISCAN}</Metadata>|{_ENCODE})'
)
_LEVEL: Final = re.compile(
    r"level=[0-9]{1,2}( mag=[0-9]{1,3}(\.[0-9]{1,9})?)?( quality=[0-9]{1,3})?"
    r"|mag=[0-9]{1,3}(\.[0-9]{1,9})?( level=[0-9]{1,2})?( quality=[0-9]{1,3})?"
)
_TEXT: Final = re.compile(rf"Label[ _]Image|{_LEVEL.pattern}")


def _is_level(page: tifffile.TiffPage) -> bool:
    return page.is_tiled and re.search(r"(^| )level=[0-9]", page.description) is not None


def _levels(pages: Pages) -> frozenset[int]:
    return frozenset(number for number, page in enumerate(pages) if _is_level(page))


def _blanks(pages: Pages) -> frozenset[int]:
    return frozenset({0})


def _whole(pages: Pages) -> None:
    documents = [number for number, page in enumerate(pages) if 700 in page.tags]
    if not set(documents) <= {0, min(_levels(pages))} or 0 not in documents:
        raise RedactionUnproven("XMP stands where none may")
    for number, page in enumerate(pages):
        if number and not _LEVEL.fullmatch(page.description):
            raise RedactionUnproven("a level's description is not of its form")


RULES: Final = Family(
    tags=_TAGS,
    texts={
        270: _TEXT,
        305: re.compile(r"ScanOutputManager( [0-9]{1,3}(\.[0-9]{1,6}){1,4})?"),
        700: _XMP,
    },
    levels=_levels,
    blanks=_blanks,
    whole=_whole,
)
