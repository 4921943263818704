"""Read a file's structure with somebody else's parser.

tifffile shares no code with `scanners.tiff`. What it says of the output is held against allow-lists that are
written down a second time here, on purpose: an error in the writer's lists must not pass by being shared.
"""

from __future__ import annotations

import logging
import re
import struct
from typing import Final

import numpy as np
import tifffile
from msgspec import Struct

from mover.errors import RedactionUnproven

PAGES: Final = 256
_HEADER_BYTES: Final = {"classic": 8, "big": 16, "ndpi": 12}
_LOCATION_TAGS: Final = frozenset({273, 279, 324, 325, 65426, 65432})
_SIZE_TAGS: Final = frozenset({256, 257, 322, 323, 278})

PARSER_ERRORS: Final = (
    tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, OSError,
    RuntimeError, AssertionError, ZeroDivisionError, OverflowError,
)  # fmt: skip

ALLOWED_TAGS: Final = {
    "aperio-svs": frozenset(
        {254, 256, 257, 258, 259, 262, 270, 274, 277, 282, 283, 284, 296, 317, 322, 323, 324, 325, 339, 347, 530,
         531, 532, 32997, 34675}
    ),
    "aperio-thumbnail": frozenset({254, 256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 284, 530}),
    "hamamatsu-ndpi": frozenset(
        {256, 257, 258, 259, 262, 271, 272, 273, 274, 277, 278, 279, 282, 283, 284, 296, 305, 339, 530, 531, 532,
         65420, 65421, 65422, 65423, 65424, 65426, 65432, 65435, 65436, 65437, 65438, 65441, 65444, 65449, 65451}
    ),
}  # fmt: skip

_APERIO_TEXT: Final = re.compile(
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
_ALLOWED_TEXT: Final = {
    270: _APERIO_TEXT,
    271: re.compile(r"Hamamatsu"),
    272: re.compile(r"C[0-9]{4,5}(-[0-9]{2})?|NanoZoomer [A-Z0-9]{1,5}"),
    305: re.compile(r"NDP\.scan( U[0-9]{1,2})? [0-9.]{3,14}"),
    65449: re.compile(
        r"((system\.version|Objective\.Lens\.Magnificant|ccd\.width|ccd\.height|target\.white\.intensity|cube\.kind"
        r"|variable\.exposuretime|colorfilterID)=-?[0-9]{1,5}(\.[0-9]{1,6}){0,2}(\r\n|$)"
        r"|Product=C[0-9]{4,5}(-[0-9]{2})?(\r\n|$))+"
    ),
}


class SeenPage(Struct, frozen=True):
    """One page as tifffile reports it: where its pixels lie."""

    width: int
    height: int
    offsets: np.ndarray
    counts: np.ndarray


class Seen(Struct, frozen=True):
    """`pages` are the levels; `ranges` all byte ranges of structures, the thumbnail's strip included; `texts` every
    decoded value as text; `thumbnail` the one picture that may stand beside the levels, in one strip."""

    pages: tuple[SeenPage, ...]
    ranges: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]
    tags: int
    thumbnail: SeenPage | None = None


def look(path: str, *, family: str, strict: bool) -> Seen:
    """Read every page. `strict` holds tags and texts against the allow-list (for outputs); without it only
    level pages are reported (for sources, whose other pages are nobody's business here).

    Raises RedactionUnproven when tifffile cannot read it or finds what may not be there.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # its warnings quote values
    try:
        # As an open file: tifffile would resolve the path to a name that does not exist.
        is_ndpi = True if family == "hamamatsu-ndpi" else None
        with open(path, "rb") as file, tifffile.TiffFile(file, is_ndpi=is_ndpi) as tiff:
            if len(tiff.pages) > PAGES:
                raise RedactionUnproven("the second parser found too many pages")
            return _gather(tiff, family=family, strict=strict)
    except PARSER_ERRORS as error:
        raise RedactionUnproven("the second parser cannot read the structure") from error


def _gather(tiff: tifffile.TiffFile, *, family: str, strict: bool) -> Seen:
    flavour = "ndpi" if family == "hamamatsu-ndpi" else "big" if tiff.is_bigtiff else "classic"
    ranges = [(0, _HEADER_BYTES[flavour])]
    pages: list[SeenPage] = []
    texts: list[str] = []
    thumbnail: SeenPage | None = None
    tags = 0
    for number in range(len(tiff.pages)):
        page = tiff.pages[number]
        if not isinstance(page, tifffile.TiffPage):
            raise RedactionUnproven("the second parser skips a page")
        if not strict and not _is_level(page, family):
            continue
        small = strict and number == 1 and family == "aperio-svs" and not page.is_tiled
        if strict:
            _check_tags(page, "aperio-thumbnail" if small else family)
            ranges += _structure_ranges(page, flavour)
            texts += _texts_of(page)
        tags += len(page.tags)
        if small:
            thumbnail = _thumbnail(page, pages[0])
            ranges.append((int(thumbnail.offsets[0]), int(thumbnail.counts[0])))
        else:
            pages.append(_pixels(page, family))
    return Seen(tuple(pages), tuple(ranges), tuple(texts), tags, thumbnail)


def _is_level(page: tifffile.TiffPage, family: str) -> bool:
    return page.tags.valueof(65421) > 0 if family == "hamamatsu-ndpi" else page.is_tiled


def _pixels(page: tifffile.TiffPage, family: str) -> SeenPage:
    where, how_long = (273, 279) if family == "hamamatsu-ndpi" else (324, 325)
    offsets = np.atleast_1d(np.asarray(page.tags[where].value, "u8"))
    counts = np.atleast_1d(np.asarray(page.tags[how_long].value, "u8"))
    if len(offsets) != len(counts):
        raise RedactionUnproven("offsets and byte counts do not pair up")
    return SeenPage(page.imagewidth, page.imagelength, offsets, counts)


def _thumbnail(page: tifffile.TiffPage, first: SeenPage) -> SeenPage:
    """One strip of 8-bit YCbCr JPEG, of the size its text says, beside a slide of the size its text says."""
    layout = (page.compression, page.photometric, page.samplesperpixel, page.bitspersample, page.rowsperstrip)
    if layout != (7, 6, 3, 8, page.imagelength) or page.subfiletype or len(page.dataoffsets) != 1:
        raise RedactionUnproven("the thumbnail is not one strip of JPEG")
    told = _THUMBNAIL_TEXT.fullmatch(page.description)
    if not told or told["whole"] != f"{first.width}x{first.height}":
        raise RedactionUnproven("the thumbnail's text tells of another slide")
    if told["small"] != f"{page.imagewidth}x{page.imagelength}":
        raise RedactionUnproven("the thumbnail's text tells of another picture")
    offsets, counts = np.asarray(page.dataoffsets, "u8"), np.asarray(page.databytecounts, "u8")
    return SeenPage(page.imagewidth, page.imagelength, offsets, counts)


def _check_tags(page: tifffile.TiffPage, family: str) -> None:
    seen: set[int] = set()
    for tag in page.tags:
        if tag.code not in ALLOWED_TAGS[family] or tag.code in seen:
            raise RedactionUnproven(f"tag {tag.code} may not stand in the output")
        seen.add(tag.code)
        if int(tag.dtype) != 2:
            continue
        rule = _THUMBNAIL_TEXT if family == "aperio-thumbnail" else _ALLOWED_TEXT.get(tag.code)
        if rule is None or not isinstance(tag.value, str) or not rule.fullmatch(tag.value):
            raise RedactionUnproven(f"the text of tag {tag.code} is not of its allowed form")
    if family != "aperio-thumbnail" and not _is_level(page, family):
        raise RedactionUnproven("a picture that is no level stands in the output")


def _structure_ranges(page: tifffile.TiffPage, flavour: str) -> list[tuple[int, int]]:
    entries = len(page.tags)
    size = {"classic": 2 + 12 * entries + 4, "big": 8 + 20 * entries + 8, "ndpi": 2 + 16 * entries + 8}[flavour]
    ranges = [(page.offset, size)]
    inline = 8 if flavour == "big" else 4
    for tag in page.tags:
        if tag.valuebytecount > inline:
            ranges.append((tag.valueoffset, tag.valuebytecount))
    return ranges


def _texts_of(page: tifffile.TiffPage) -> list[str]:
    """Decoded values as text: strings, and numbers of six digits and more as a person would write them."""
    texts = []
    for tag in page.tags:
        if tag.code in _LOCATION_TAGS or tag.code in _SIZE_TAGS:
            continue
        value = tag.value
        if isinstance(value, str):
            texts.append(value)
        elif not isinstance(value, bytes):
            numbers = np.atleast_1d(np.asarray(value)).ravel()[:4096].tolist()
            texts += [f"{number}" for number in numbers if len(f"{number}") >= 6]
    return texts


def unaccounted(seen: Seen, size_bytes: int) -> list[tuple[int, int]]:
    """Gaps between the structures and pixels of an output. Raises RedactionUnproven where two overlap; one
    tile that many entries name counts once."""
    pixels = {
        (int(at), int(length))
        for page in seen.pages
        for at, length in zip(page.offsets.tolist(), page.counts.tolist(), strict=True)
        if length
    }
    ordered = sorted([*seen.ranges, *pixels])
    gaps, end = [], 0
    for at, length in ordered:
        if at < end:
            raise RedactionUnproven("two structures of the output overlap")
        if at > end:
            gaps.append((end, at - end))
        end = at + length
    if end > size_bytes:
        raise RedactionUnproven("a structure leaves the output")
    if end < size_bytes:
        gaps.append((end, size_bytes - end))
    return gaps
