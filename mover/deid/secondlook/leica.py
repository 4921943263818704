"""What may stand in a Leica output, written a second time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree

from mover.deid.secondlook.rules import Family, Pages
from mover.errors import RedactionUnproven

_SPACE: Final = "{http://www.leica-microsystems.com/scn/2010/10/01}"
_TAGS: Final = frozenset(
    {254, 256, 257, 258, 259, 262, 274, 277, 278, 282, 283, 284, 296, 317, 322, 323, 324, 325, 339, 347, 530, 531, 532,
     32997, 34675, 270, 273, 279}
)  # fmt: skip
_WHOLE: Final = r'"-?[0-9]{1,12}"'
_NUMBER: Final = r'"-?[0-9]{1,9}(\.[0-9]{1,17})?"'
_TEXT: Final = re.compile(
    r'<\?xml version="1\.0" encoding="UTF-8"\?>'
    r'<scn xmlns="http://www\.leica-microsystems\.com/scn/2010/10/01">'
    rf"<collection( size[XY]={_WHOLE}){{2}}>"
    r"(?:</?(image|pixels|scanSettings|objectiveSettings|illuminationSettings|channelSettings)/?>"
    rf"|<pixels( (size[XYCZR]|firstIFD)={_WHOLE})*/?>"
    rf"|<dimension( (size[XY]|r|c|z|ifd)={_WHOLE})+/>"
    rf"|<view( (size[XY]|offset[XY])={_WHOLE}| spacingZ={_NUMBER})+/>"
    r'|<device( model="Leica SCN[0-9]{3,4}[A-Z]?"| version="[0-9]{1,3}(\.[0-9]{1,6}){1,4}")+/>'
    r"|<(objective|numericalAperture)>-?[0-9]{1,9}(\.[0-9]{1,17})?</(objective|numericalAperture)>"
    r"|<illuminationSource>(brightfield|fluorescence|darkfield|polarized|transmitted)</illuminationSource>"
    r'|<channel( index="[0-9]{1,3}"| rgb="\#[0-9a-fA-F]{6}")+/>'
    r")+</collection></scn>"
)
# Nanometres: nothing scanned coarser than this per pixel is tissue.
_COARSEST: Final = 10_000


def _levels(pages: Pages) -> frozenset[int]:
    found, overviews = set[int](), set[int]()
    for number, is_overview in _directories(pages[0].description):
        (overviews if is_overview else found).add(number)
    if found & overviews or not found or max(found) >= len(pages):
        raise RedactionUnproven("the description names impossible directories")
    return frozenset(found)


def _directories(text: str) -> Iterator[tuple[int, bool]]:
    """(directory, whether its image is the overview) as the description tells."""
    (collection,) = ElementTree.fromstring(text).findall(f"{_SPACE}collection")
    glass = tuple(int(collection.attrib[name]) for name in ("sizeX", "sizeY"))
    for image in collection.findall(f"{_SPACE}image"):
        (view,) = image.findall(f"{_SPACE}view")
        spread = [int(view.attrib[name]) for name in ("sizeX", "sizeY", "offsetX", "offsetY")]
        dimensions = image.findall(f"{_SPACE}pixels/{_SPACE}dimension")
        finest = max((int(one.attrib["sizeX"]) for one in dimensions), default=0)
        whole = spread == [*glass, 0, 0] or not finest or spread[0] / finest > _COARSEST
        for one in dimensions:
            yield int(one.attrib["ifd"]), whole


def _blanks(pages: Pages) -> frozenset[int]:
    return frozenset(range(len(pages))) - _levels(pages)


def _whole(pages: Pages) -> None:
    if any(270 in page.tags for page in pages[1:]):
        raise RedactionUnproven("a description stands where only the first directory may have one")


RULES: Final = Family(tags=_TAGS, texts={270: _TEXT}, levels=_levels, blanks=_blanks, whole=_whole)
