"""What a family's second look is made of: the words, and what one page by one may hold.

Each family's lists stand in a module of their own and are written a second time on purpose: an error in the
writer's lists must not pass by being shared. Nothing here imports from `mover.decide` or `scanners`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import tifffile
from msgspec import Struct

from mover.errors import RedactionUnproven

Pages = Sequence[tifffile.TiffPage]

# Bytes a reader needs and no text rule can describe: JPEG tables, which the tile search walks, and the ICC profile.
OPAQUE_TAGS: Final = frozenset({347, 34675})


class SeenPage(Struct, frozen=True):
    """One page as tifffile reports it: where its pixels lie, how one tile or strip of them is encoded, and what decodes
    one (its bytes and its number given) in grey or colours. `pieces` are offsets and lengths of what is decoded at once
    where that is less than a strip: Hamamatsu's restart intervals."""

    width: int
    height: int
    offsets: np.ndarray
    counts: np.ndarray
    segment_size: tuple[int, int] = (0, 0)
    compression: int = 0
    samples: int = 0
    decode: Callable[[bytes, int], np.ndarray] | None = None
    pieces: tuple[np.ndarray, np.ndarray] | None = None


def nothing(pages: Pages) -> frozenset[int]:
    return frozenset()


def no_more(pages: Pages) -> None:
    return None


class Family(Struct, frozen=True):
    """The second lists of one family. Pages are numbered depth first: a page, its SubIFDs, the next page.

    - `tags` may stand; text (and byte) tags only with a value of the full form `texts` gives for them.
    - `levels` says which pages are levels, of a source or of an output; `blanks` which pages of an output must show
      one blank tile throughout. An output has no other page, but for the one `thumbnail` names, which is held
      against the `thumbnail_rules` instead.
    - `whole` looks at all pages of an output together and raises RedactionUnproven.
    """

    tags: frozenset[int]
    texts: Mapping[int, re.Pattern[str]]
    levels: Callable[[Pages], frozenset[int]]
    blanks: Callable[[Pages], frozenset[int]] = nothing
    whole: Callable[[Pages], None] = no_more
    children: bool = False
    is_ndpi: bool = False
    thumbnail: Callable[[Pages], int | None] = lambda pages: None
    thumbnail_rules: Family | None = None
    check_thumbnail: Callable[[tifffile.TiffPage, tifffile.TiffPage], None] | None = None


def tiled(pages: Pages) -> frozenset[int]:
    return frozenset(number for number, page in enumerate(pages) if page.is_tiled)


def check_tags(page: tifffile.TiffPage, rules: Family) -> None:
    """Every tag is listed, stands once, and is a number, one of OPAQUE_TAGS or a text of its form."""
    seen: set[int] = set()
    for tag in page.tags:
        if tag.code not in rules.tags or tag.code in seen:
            raise RedactionUnproven(f"tag {tag.code} may not stand in the output")
        seen.add(tag.code)
        if tag.code == 347:
            _check_tables(bytes(tag.value))
        if tag.code not in OPAQUE_TAGS and (int(tag.dtype) in (2, 7) or tag.code in rules.texts):
            _check_text(tag, rules)


def _check_tables(data: bytes) -> None:
    """Quantisation and Huffman tables, a restart interval and Adobe's colour word, from the first byte to the last."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        raise RedactionUnproven("the JPEG tables are not whole")
    at = 2
    while at < len(data) - 2:
        head, length = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        short = {b"\xff\xdd": 4, b"\xff\xe0": 16, b"\xff\xee": 14}.get(head, 0)
        if head not in (b"\xff\xdb", b"\xff\xc4") and (not short or length != short):
            raise RedactionUnproven("the JPEG tables hold a segment that is no table")
        if length < 2:
            raise RedactionUnproven("the JPEG tables are not whole")
        at += 2 + length
    if at != len(data) - 2:
        raise RedactionUnproven("the JPEG tables are not whole")


def _check_text(tag: tifffile.TiffTag, rules: Family) -> None:
    value = tag.value
    if isinstance(value, bytes):
        value = value.decode("latin-1").rstrip("\0")
    rule = rules.texts.get(tag.code)
    if rule is None or not isinstance(value, str) or not rule.fullmatch(value):
        raise RedactionUnproven(f"the text of tag {tag.code} is not of its allowed form")
