"""Read a file's structure with somebody else's parser.

tifffile shares no code with `scanners.tiff`. What it says of the output is held against allow-lists that are
written down a second time here, a module per family, on purpose: an error in the writer's lists must not pass by
being shared. Read `rules.Family` first.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile
from msgspec import Struct

from mover.deid.secondlook import aperio, colour, generic, hamamatsu, leica, ome, philips, ventana
from mover.deid.secondlook.rules import Family, SeenPage, check_tags
from mover.errors import RedactionUnproven

__all__ = ["FAMILIES", "Seen", "SeenPage", "look", "unaccounted"]

PAGES: Final = 256
PAGES_IN_ALL: Final = 4096
_HEADER_BYTES: Final = {"classic": 8, "big": 16, "ndpi": 12}
_LOCATION_TAGS: Final = frozenset({273, 279, 324, 325, 330, 65426, 65432})
_SIZE_TAGS: Final = frozenset({256, 257, 322, 323, 278})

PARSER_ERRORS: Final = (
    tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, OSError,
    RuntimeError, AssertionError, ZeroDivisionError, OverflowError, ElementTree.ParseError,
)  # fmt: skip

FAMILIES: Final[dict[str, Family]] = {
    "aperio-svs": aperio.RULES,
    "generic-tiff": generic.RULES,
    "hamamatsu-ndpi": hamamatsu.RULES,
    "leica-scn": leica.RULES,
    "ome-tiff": ome.RULES,
    "philips-tiff": philips.RULES,
    "ventana-bif": ventana.RULES,
}


class Seen(Struct, frozen=True):
    """`pages` are the levels; `ranges` all byte ranges of structures, the thumbnail's strip included; `texts` every
    decoded value as text; `thumbnail` the one picture that may stand beside the levels, in one strip; `blanks` pages
    that stand without a picture of their own."""

    pages: tuple[SeenPage, ...]
    ranges: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]
    tags: int
    thumbnail: SeenPage | None = None
    blanks: tuple[SeenPage, ...] = ()


def look(path: str, *, family: str, strict: bool, without: frozenset[int] = frozenset()) -> Seen:
    """Read every page. `strict` holds tags and texts against the allow-list (for outputs); without it only
    level pages are reported (for sources, whose other pages are nobody's business here), but for those `without`
    names by their number, depth first.

    Raises RedactionUnproven when tifffile cannot read it or finds what may not be there.
    """
    rules = FAMILIES[family]
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # its warnings quote values
    try:
        # As an open file: tifffile would resolve the path to a name that does not exist.
        is_ndpi = True if rules.is_ndpi else None
        with open(path, "rb") as file, tifffile.TiffFile(file, is_ndpi=is_ndpi) as tiff:
            if len(tiff.pages) > PAGES:
                raise RedactionUnproven("the second parser found too many pages")
            pages = _pages_of(tiff, rules)
            return _gather_output(tiff, pages, rules) if strict else _gather_source(pages, rules, without)
    except PARSER_ERRORS as error:
        raise RedactionUnproven("the second parser cannot read the structure") from error


def _pages_of(tiff: tifffile.TiffFile, rules: Family) -> list[tifffile.TiffPage]:
    """Depth first: a page, its SubIFDs, the next page. Deeper ones are nobody's level."""
    found: list[tifffile.TiffPage] = []
    for number in range(len(tiff.pages)):
        page = tiff.pages[number]
        children = page.pages if rules.children and page.subifds and isinstance(page, tifffile.TiffPage) else ()
        for one in (page, *children):  # type: ignore[misc]
            if not isinstance(one, tifffile.TiffPage):
                raise RedactionUnproven("the second parser skips a page")
            if len(found) >= PAGES_IN_ALL:
                raise RedactionUnproven("the second parser found too many pages")
            found.append(one)
    return found


def _gather_source(pages: list[tifffile.TiffPage], rules: Family, without: frozenset[int]) -> Seen:
    levels = [pages[number] for number in sorted(rules.levels(pages) - without)]
    return Seen(tuple(map(_pixels, levels)), (), (), sum(len(page.tags) for page in levels))


def _gather_output(tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], rules: Family) -> Seen:
    flavour = "ndpi" if rules.is_ndpi else "big" if tiff.is_bigtiff else "classic"
    ranges = [(0, _HEADER_BYTES[flavour])]
    levels, blanks, small = rules.levels(pages), rules.blanks(pages), rules.thumbnail(pages)
    texts: list[str] = []
    for number, page in enumerate(pages):
        expected = rules.thumbnail_rules if number == small else rules
        if expected is None or (number != small and (number in levels) == (number in blanks)):
            raise RedactionUnproven("a picture that is no level stands in the output")
        check_tags(page, expected)
        ranges += _structure_ranges(page, flavour)
        texts += _texts_of(page)
    rules.whole(pages)
    thumbnail = _thumbnail(pages, small, rules)
    if thumbnail is not None:
        ranges.append((int(thumbnail.offsets[0]), int(thumbnail.counts[0])))
    return Seen(
        tuple(_pixels(pages[number]) for number in sorted(levels)),
        tuple(ranges),
        tuple(texts),
        sum(len(page.tags) for page in pages),
        thumbnail,
        tuple(_pixels(pages[number]) for number in sorted(blanks)),
    )


def _pixels(page: tifffile.TiffPage) -> SeenPage:
    where, how_long = (324, 325) if 324 in page.tags else (273, 279)  # tifffile reads NDPI strips as tiles
    offsets = np.atleast_1d(np.asarray(page.tags[where].value, "u8"))
    counts = np.atleast_1d(np.asarray(page.tags[how_long].value, "u8"))
    if len(offsets) != len(counts):
        raise RedactionUnproven("offsets and byte counts do not pair up")
    size = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    encoding = int(page.compression), int(page.samplesperpixel)
    pieces = None
    if page.parent.is_ndpi and page.is_tiled:
        pieces = np.asarray(page.dataoffsets, "u8"), np.asarray(page.databytecounts, "u8")
    return SeenPage(
        page.imagewidth, page.imagelength, offsets, counts, size, *encoding, _decoder(page), pieces
    )  # fmt: skip


def _decoder(page: tifffile.TiffPage) -> Callable[[bytes, int], np.ndarray]:
    """Decodes after the file is closed. JPEG gives grey at once, which costs half; where it cannot, and for all other
    codecs, tifffile gives what the page's tags say."""
    tables, head = page.jpegtables, page.jpegheader if page.parent.is_ndpi else None
    as_grey = page.compression == 7 and head is None and int(page.samplesperpixel) == 3
    colours = "RGB" if page.photometric == 2 else None
    _ = page.compression == 7 and page.is_jfif  # tifffile asks the file once and remembers

    def decode(data: bytes, number: int) -> np.ndarray:
        try:
            if as_grey:
                with suppress(imagecodecs.Jpeg8Error):  # of a kind that gives no grey: tifffile knows more kinds
                    grey = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=colours, outcolorspace="GRAYSCALE")
                    return np.asarray(grey)
            given = {"jpegheader": head} if head is not None else {}
            decoded = page.decode(data, number, jpegtables=tables, **given)[0]
        except PARSER_ERRORS as error:
            raise RedactionUnproven("the second parser cannot decode a tile") from error
        if decoded is None:
            raise RedactionUnproven("the second parser cannot decode a tile")
        return np.asarray(decoded)

    return decode


def _thumbnail(pages: list[tifffile.TiffPage], number: int | None, rules: Family) -> SeenPage | None:
    if number is None or rules.check_thumbnail is None:
        return None
    page = pages[number]
    rules.check_thumbnail(page, pages[0])
    offsets, counts = np.asarray(page.dataoffsets, "u8"), np.asarray(page.databytecounts, "u8")
    return SeenPage(page.imagewidth, page.imagelength, offsets, counts)


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
        elif tag.code == 34675:
            texts += colour.check(bytes(value))
        elif not isinstance(value, bytes):
            numbers = np.atleast_1d(np.asarray(value)).ravel()[:4096].tolist()
            texts += [f"{number}" for number in numbers if len(f"{number}") >= 6]
    return texts


def unaccounted(seen: Seen, size_bytes: int) -> list[tuple[int, int]]:
    """Gaps between the structures and pixels of an output. Raises RedactionUnproven where two overlap; one
    tile that many entries name counts once."""
    pages = (*seen.pages, *seen.blanks)
    pixels = _sorted(np.concatenate([np.stack([page.offsets, page.counts], axis=1) for page in pages]))
    fresh = np.append(True, (pixels[1:] != pixels[:-1]).any(axis=1)) & (pixels[:, 1] > 0)
    found = _sorted(np.concatenate([np.array(seen.ranges, "u8").reshape(-1, 2), pixels[fresh]]))
    at, ends = found[:, 0], found.sum(axis=1)
    if (at[1:] < ends[:-1]).any():
        raise RedactionUnproven("two structures of the output overlap")
    before, end = np.append(np.uint64(0), ends[:-1]), int(ends[-1])
    holes = np.flatnonzero(at > before)
    gaps = [(int(before[hole]), int(at[hole] - before[hole])) for hole in holes]
    if end > size_bytes:
        raise RedactionUnproven("a structure leaves the output")
    if end < size_bytes:
        gaps.append((end, size_bytes - end))
    return gaps


def _sorted(pairs: np.ndarray) -> np.ndarray:
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
