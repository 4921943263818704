"""What may stand in an output of no vendor, written a second time: numbers only."""

from __future__ import annotations

from typing import Final

import tifffile

from mover.deid.secondlook.rules import Family, Pages

TAGS: Final = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 274, 277, 282, 283, 284, 296, 317, 322, 323, 324, 325, 330, 338, 339, 347,
     530, 531, 532, 32997, 34675}
)  # fmt: skip


def levels(pages: Pages) -> frozenset[int]:
    """The first page; tiled pages that call themselves reduced and are like it, or are it halved, beside it or in its
    SubIFDs; planes of its very size."""
    return frozenset(number for number, page in enumerate(pages) if number == 0 or _is_level(page, pages[0]))


def _is_level(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    chain = page.treeindex[:-1]
    if not page.is_tiled or chain not in ((), first.treeindex):
        return False
    if page.subfiletype == 1:
        return alike(page, first)
    if page.subfiletype != 0:
        return False
    same = (page.imagewidth, page.imagelength) == (first.imagewidth, first.imagelength)
    return (same and not chain) or _halved(page, first)


def _halved(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """To the pixel, in the same tiles and codec."""
    made = [(one.tilewidth, one.tilelength, one.compression) for one in (page, first)]
    times = max(1, round(first.imagewidth / page.imagewidth)).bit_length() - 1
    return made[0] == made[1] and any(
        abs(page.imagewidth - first.imagewidth / 2**n) <= 1 and abs(page.imagelength - first.imagelength / 2**n) <= 1
        for n in range(max(1, times - 1), min(15, times + 2) + 1)
    )


def alike(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Of the same proportions, to two pixels or two in a hundred, and no larger."""
    wide, high, across, down = first.imagewidth, first.imagelength, page.imagewidth, page.imagelength
    off_high, off_wide = abs(down - high * across / wide), abs(across - wide * down / high)
    near = off_high <= max(2, high * across / wide / 50) or off_wide <= 2
    return near and across <= wide and down <= high


RULES: Final = Family(tags=TAGS, texts={}, levels=levels, children=True)
