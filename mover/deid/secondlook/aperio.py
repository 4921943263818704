"""What may stand in an Aperio output, written a second time."""

from __future__ import annotations

import re
from typing import Final

import tifffile

from mover.deid.secondlook.rules import Family, Pages, tiled
from mover.errors import RedactionUnproven

_TEXT: Final = re.compile(
    r"Aperio (Image Library|Leica Biosystems GT450( ?DX)?)( v[0-9.]{1,12})?\r\n"
    r"[0-9]+x[0-9]+ \[0,0 [0-9]+x[0-9]+\] \([0-9]+x[0-9]+\)( -> [0-9]+x[0-9]+)? "
    r"(JPEG|J2K)/[A-Z0-9]{3,5}( Q=[0-9]{1,3})?"
    r"(\|(AppMag|MPP|StripeWidth|Left|Top|LineCameraSkew|LineArea[XY]Offset|Exposure Time|Exposure Scale|DisplayColor"
    r"|Gamma|OriginalWidth|Original[Hh]eight|Filtered) = -?[0-9]{1,7}(\.[0-9]{1,17})?"
    r"|\|Parmset = (USM Filter|COVERSLIP|Coverslip)"
    r"|\|ICC Profile = (ScanScope|AT2|GT450|GT450 DX|CS2|VERSA)( v[0-9]{1,2})?)*"
)
_THUMBNAIL_TEXT: Final = re.compile(
    r"Aperio (Image Library|Leica Biosystems GT450( ?DX)?)( v[0-9.]{1,12})?\r\n"
    r"(?P<whole>[0-9]+x[0-9]+) -> (?P<small>[0-9]+x[0-9]+) - "
    r"(\|(AppMag|MPP) = [0-9]{1,3}(\.[0-9]{1,17})?){0,2}"
)


def _thumbnail(pages: Pages) -> int | None:
    return 1 if len(pages) > 1 and not pages[1].is_tiled else None


def _check_thumbnail(page: tifffile.TiffPage, first: tifffile.TiffPage) -> None:
    """One strip of 8-bit YCbCr JPEG, of the size its text says, beside a slide of the size its text says."""
    layout = (page.compression, page.photometric, page.samplesperpixel, page.bitspersample, page.rowsperstrip)
    if layout != (7, 6, 3, 8, page.imagelength) or page.subfiletype or len(page.dataoffsets) != 1:
        raise RedactionUnproven("the thumbnail is not one strip of JPEG")
    told = _THUMBNAIL_TEXT.fullmatch(page.description)
    if not told or told["whole"] != f"{first.imagewidth}x{first.imagelength}":
        raise RedactionUnproven("the thumbnail's text tells of another slide")
    if told["small"] != f"{page.imagewidth}x{page.imagelength}":
        raise RedactionUnproven("the thumbnail's text tells of another picture")


RULES: Final = Family(
    tags=frozenset(
        {254, 256, 257, 258, 259, 262, 270, 274, 277, 282, 283, 284, 296, 317, 322, 323, 324, 325, 339, 347, 530,
         531, 532, 32997, 34675}
    ),
    texts={270: _TEXT},
    levels=tiled,
    thumbnail=_thumbnail,
    thumbnail_rules=Family(
        tags=frozenset({254, 256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 284, 530}),
        texts={270: _THUMBNAIL_TEXT},
        levels=tiled,
    ),
    check_thumbnail=_check_thumbnail,
)  # fmt: skip
