"""What the TIFF families share: pages from directories, places from tags, and the map of a file's bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

import numpy as np

from mover.errors import StructureInvalid
from mover.model.slides import Page, Pixels, Place, Role, Value
from mover.model.source import ByteSource
from scanners.tiff import Directory, Structure, Tag, read_integers, read_value

# Values above this stay unread: they are dropped, and what they say is not needed to drop them.
HARVEST_BYTES: Final = 1 << 20
SEGMENT_BYTES: Final = 256 << 20
LOCATIONS: Final = frozenset({273, 279, 324, 325, 65426, 65432})
SAMPLES: Final = 64
_NUMBERS: Final = 24
_PIXEL_LIMIT: Final = 1 << 31


def number(
    source: ByteSource, structure: Structure, directory: Directory, code: int, default: int | None = None
) -> int:
    """A tag that must hold exactly one unsigned number."""
    tag = directory.tags.get(code)
    if tag is None:
        if default is None:
            raise StructureInvalid(f"a directory lacks tag {code}")
        return default
    if tag.count != 1 or tag.kind not in (1, 3, 4, 13, 16, 18):
        raise StructureInvalid(f"tag {code} does not hold one number")
    return int(read_value(source, structure.byte_order, tag)[0])


def read_pixels(source: ByteSource, structure: Structure, directory: Directory) -> Pixels:
    """The page's tiles or strips; every one lies inside the file. A page without any has none."""
    tiled = 322 in directory.tags
    where, how_long = directory.tags.get(324 if tiled else 273), directory.tags.get(325 if tiled else 279)
    if where is None and how_long is None:
        return Pixels(array("Q"), array("Q"))
    if where is None or how_long is None or where.count != how_long.count:
        raise StructureInvalid("a page's offsets and byte counts do not pair up")
    pixels = Pixels(
        read_integers(source, structure.byte_order, where), read_integers(source, structure.byte_order, how_long)
    )
    offsets, counts = np.frombuffer(pixels.offsets, "u8"), np.frombuffer(pixels.counts, "u8")
    used = counts > 0
    if used.any():
        inside = (offsets[used] >= structure.header_bytes) & (offsets[used] < source.size_bytes)
        inside &= counts[used] <= source.size_bytes - np.minimum(offsets[used], source.size_bytes)
        if not inside.all():
            raise StructureInvalid("a tile or strip leaves the file")
    return pixels


def read_page(source: ByteSource, structure: Structure, index: int, role: Role) -> Page:
    directory = structure.directories[index]
    width = number(source, structure, directory, 256)
    height = number(source, structure, directory, 257)
    if not (0 < width < _PIXEL_LIMIT and 0 < height < _PIXEL_LIMIT):
        raise StructureInvalid("a page of impossible size")
    tiled = 322 in directory.tags
    return Page(
        index,
        role,
        width,
        height,
        number(source, structure, directory, 322) if tiled else 0,
        number(source, structure, directory, 323) if tiled else 0,
        number(source, structure, directory, 259, 1),
        read_pixels(source, structure, directory),
        array("Q"),
        directory.parent,
    )


def check_tile_grid(page: Page, *, planes: int = 1) -> None:
    if not (0 < page.tile_width <= 16384 and 0 < page.tile_height <= 16384):
        raise StructureInvalid("a level with impossible tiles")
    across, down = -(-page.width // page.tile_width), -(-page.height // page.tile_height)
    if len(page.pixels) != across * down * planes:
        raise StructureInvalid(f"a level lists {len(page.pixels)} tiles where {across * down * planes} belong")


def check_strips(page: Page, *, rows: int, planes: int = 1) -> None:
    if not rows or len(page.pixels) != -(-page.height // min(rows, page.height)) * planes:
        raise StructureInvalid("a level lists another number of strips than its rows make")


def pixel_layout(source: ByteSource, structure: Structure, directory: Directory) -> tuple[int, int]:
    """(bits of one pixel inside a segment, planes): samples stand together, or each in a plane of its own."""
    samples = number(source, structure, directory, 277, 1)
    tag = directory.tags.get(258)
    depths = {1} if tag is None else set(read_integers(source, structure.byte_order, tag, limit=SAMPLES))
    if len(depths) != 1 or not 0 < samples <= SAMPLES or not 0 < (depth := depths.pop()) <= 64:
        raise StructureInvalid("a page with samples of unequal or impossible depth")
    apart = number(source, structure, directory, 284, 1) == 2
    return (depth, samples) if apart else (depth * samples, 1)


def is_reduced_copy(page: Page, first: Page) -> bool:
    """No larger than the first and of its proportions, within two pixels or the fiftieth part."""
    if page.width > first.width or page.height > first.height:
        return False
    wanted = first.height * page.width / first.width
    across = first.width * page.height / first.height
    return abs(page.height - wanted) <= max(2.0, 0.02 * wanted) or abs(page.width - across) <= 2


def read_places(source: ByteSource, structure: Structure, page: Page) -> list[Place]:
    """Every tag of a page as a place, except where its pixels lie."""
    places = []
    directory = structure.directories[page.index]
    for tag in (*directory.tags.values(), *directory.repeats):
        if tag.code in LOCATIONS:
            continue
        value = _value_of(source, structure, tag)
        places.append(Place(page.index, page.role, tag.code, "", tag.kind, value))
    return places


def _value_of(source: ByteSource, structure: Structure, tag: Tag) -> Value:
    """Short lists are numbers; bytes and long lists stay bytes, so that text in them can be read as text."""
    if tag.size_bytes > HARVEST_BYTES and tag.code != 34675:
        return b""
    if tag.inline is None and (tag.kind in (1, 6) or tag.count > _NUMBERS):
        return source.read(tag.at, tag.size_bytes)
    return read_value(source, structure.byte_order, tag)


def check_layout(source: ByteSource, structure: Structure, pages: Iterable[Page]) -> tuple[tuple[int, int], ...]:
    """Map the whole file; returns the gaps nobody claims (at most the first thousand). Raises StructureInvalid where
    a level's pixels claim bytes that something else claims, too: that is how a label could be smuggled into a level.

    Of a level's tiles only an exact repetition is allowed: sparse slides name one blank tile many times. Structures and
    pictures that are dropped may overlap as they like (some writers share parts of values): none of their bytes is
    copied.
    """
    known = list(pages)
    levels, others = [page for page in known if page.role == "level"], [page for page in known if page.role != "level"]
    at, length = distinct(*_joined([(page.pixels.offsets, page.pixels.counts) for page in levels]))
    ranges = [(0, structure.header_bytes)]
    for directory in structure.directories:
        ranges.append((directory.offset, directory.size_bytes))
        tags = (*directory.tags.values(), *directory.repeats)
        ranges += [(tag.at, tag.size_bytes) for tag in tags if tag.inline is None]
    columns = [(array("Q", [one[0] for one in ranges]), array("Q", [one[1] for one in ranges]))]
    columns += [(page.pixels.offsets, page.pixels.counts) for page in others]
    rest_at, rest_length = distinct(*_joined(columns))
    if len(at):
        found = np.minimum(np.searchsorted(at, rest_at), len(at) - 1)
        other = (at[found] != rest_at) | (length[found] != rest_length)
        rest_at, rest_length = rest_at[other], rest_length[other]
    start, stop = _merged(rest_at, rest_length)
    at, length = np.concatenate([at, start]), np.concatenate([length, stop - start])
    order = np.argsort(at, kind="stable")
    at, end = at[order], at[order] + length[order]
    if (at[1:] < end[:-1]).any():
        raise StructureInvalid("a level's tiles and another structure claim the same bytes")
    before, after = np.insert(end, 0, 0), np.append(at, np.uint64(source.size_bytes))
    hole = np.nonzero(after > before)[0][:1000]
    return tuple((int(before[i]), int(after[i] - before[i])) for i in hole)


def _joined(parts: list[tuple[array[int], array[int]]]) -> tuple[np.ndarray, np.ndarray]:
    empty = np.zeros(0, "u8")
    columns = ([np.frombuffer(part[side], "u8") for part in parts if len(part[side])] for side in (0, 1))
    first, second = (np.concatenate([empty, *column]) for column in columns)
    return first, second


def _merged(at: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping and touching ranges as one; `at` is sorted."""
    reach = np.maximum.accumulate(at + length)
    first = np.append(True, at[1:] > reach[:-1])[: len(at)]
    last = np.append(first[1:], True)[: len(at)]
    return at[first], reach[last]


def distinct(at: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each range once, in the file's order; empty ones are none. np.unique over pairs takes ten times as long."""
    order = np.lexsort((length, at))
    at, length = at[order], length[order]
    fresh = length > 0
    fresh[1:] &= (at[1:] != at[:-1]) | (length[1:] != length[:-1])
    return at[fresh], length[fresh]


def text_tag(source: ByteSource, structure: Structure, directory: Directory, code: int) -> str:
    """An ASCII tag as text up to its first NUL, "" when absent; latin-1 so that no byte is lost."""
    tag: Tag | None = directory.tags.get(code)
    if tag is None or tag.kind != 2:
        return ""
    value = read_value(source, structure.byte_order, tag)
    return bytes(value).split(b"\0", 1)[0].decode("latin-1")  # type: ignore[arg-type]
