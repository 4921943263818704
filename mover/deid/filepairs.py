"""A file of the output beside the source file it is made of, and what may be missing between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np
from msgspec import Struct

from mover.deid.outcome import SlidePlan
from mover.deid.skeleton import Output
from mover.errors import RedactionUnproven
from mover.model.recipe import Copy, Recipe
from mover.model.source import ByteSource


class FilePair(Struct, frozen=True):
    """A file of the output and the source file it is made of."""

    source: ByteSource
    recipe: Recipe
    output: Output


def pair_files(main: ByteSource, files: Mapping[str, ByteSource], plan: SlidePlan) -> list[FilePair]:
    sources = [main, *files.values()]
    pairs = []
    for one in plan.files():
        if not 0 <= one.source < len(sources) or one.recipe.source_bytes != sources[one.source].size_bytes:
            raise RedactionUnproven("a recipe was made for another source")
        pairs.append(FilePair(sources[one.source], one.recipe, Output(one.recipe)))
    return pairs


def literal_of(pair: FilePair) -> bytes:
    """The bytes of a file that holds nothing of its source."""
    if any(isinstance(segment, Copy) for segment in pair.recipe.segments):
        raise RedactionUnproven("a file that must be written anew copies bytes of the source")
    return b"".join(data for _, data in pair.output.literals)


def pieces_of(output: Output, at: int, length: int) -> Iterator[tuple[int, int]]:
    """(source offset, length) of what makes up a range of the output; every byte of it is a copy."""
    while length:
        one = output.origin(np.array([at], "u8"), np.array([1], "u8"))
        room = min(length, output.run_from(at))
        yield int(one[0]), room
        at, length = at + room, length - room


def whole_gaps(data: bytes, pieces: list[tuple[int, int]], gap: Callable[[bytes, int], int]) -> bool:
    """Whether only whole ancillary parts are missing between the pieces, and the last one is the picture's end."""
    for (first, size), (second, _) in pairwise(pieces):
        at = first + size
        while at < second and (step := gap(data, at)):
            at += step
        if at != second:
            return False
    at = sum(pieces[-1])
    return pieces[0][0] == 0 and data[:at].endswith((b"\xff\xd9", b"IEND\xaeB`\x82"))


def jpeg_gap(data: bytes, at: int) -> int:
    """The length of a comment or application segment that stands here, 0 for anything else."""
    marker = data[at : at + 4]
    foreign = len(marker) == 4 and marker[0] == 0xFF and (marker[1] == 0xFE or 0xE0 <= marker[1] <= 0xEF)
    return 2 + int.from_bytes(marker[2:], "big") if foreign else 0


def png_gap(data: bytes, at: int) -> int:
    """The length of an ancillary chunk that stands here, 0 for anything else."""
    return 12 + int.from_bytes(data[at : at + 4], "big") if data[at + 4 : at + 5].islower() else 0


def words_before_pixels(data: bytes) -> bytes:
    """The bytes of an encoded picture that could be read as text."""
    if data[:2] != b"\xff\xd8":
        end = data.find(b"IDAT")
        return data[: end if end > 0 else 64]
    kept, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] not in (0xC4, 0xDB):
            kept.append(data[at : at + 2 + length])
        at += 2 + max(2, length)
    return b"".join(kept)
