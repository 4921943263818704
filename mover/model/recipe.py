"""Recipes: how output bytes are made from source bytes (design D5).

A recipe is an ordered list of `Copy(offset, length)` and `Literal(bytes)`. What no segment refers to cannot
get through. A plain copy is one segment.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from mover.errors import StructureInvalid

STEP_BYTES = 32 * 1024 * 1024
SEGMENT_BYTES = 16 * 1024 * 1024


class Copy(Struct, frozen=True, tag="copy", array_like=True):
    """`length` bytes of the source from `offset`, untouched."""

    offset: int
    length: int


class Literal(Struct, frozen=True, tag="literal", array_like=True):
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)


Segment = Copy | Literal


class Placed(Struct, frozen=True):
    """A segment and where it lands in the output."""

    at: int
    segment: Segment


class Recipe(Struct, frozen=True):
    source_bytes: int
    segments: tuple[Segment, ...]

    @property
    def size_bytes(self) -> int:
        return sum(segment.length for segment in self.segments)

    @property
    def copied_bytes(self) -> int:
        return sum(s.length for s in self.segments if isinstance(s, Copy))

    @property
    def is_plain_copy(self) -> bool:
        return self.segments == (Copy(0, self.source_bytes),) or (
            self.source_bytes == 0 and not self.segments
        )

    def placed(self) -> Iterator[Placed]:
        at = 0
        for segment in self.segments:
            yield Placed(at, segment)
            at += segment.length


def literal_ranges(recipe: Recipe) -> tuple[tuple[int, int], ...]:
    """Where in the output bytes stand that no copy brought, as (offset, length); zeros say nothing and are left out.
    Neighbours are one range, so that no word is cut by the seam between two literals."""
    found: list[tuple[int, int]] = []
    for placed in recipe.placed():
        if not isinstance(placed.segment, Literal) or not placed.segment.data.strip(b"\0"):
            continue
        if found and sum(found[-1]) == placed.at:
            found[-1] = (found[-1][0], found[-1][1] + placed.segment.length)
        else:
            found.append((placed.at, placed.segment.length))
    return tuple(found)


def plain_copy(size_bytes: int) -> Recipe:
    return Recipe(size_bytes, (Copy(0, size_bytes),) if size_bytes else ())


def compact(source_bytes: int, segments: list[Segment]) -> Recipe:
    """A recipe with neighbouring segments joined and every copy checked against the source's bounds.

    Raises StructureInvalid when a copy leaves the source.
    """
    joined: list[Segment] = []
    pending: list[bytes] = []
    for segment in segments:
        if segment.length == 0:
            continue
        if isinstance(segment, Literal):
            pending.append(segment.data)
            continue
        if segment.offset < 0 or segment.offset + segment.length > source_bytes:
            raise StructureInvalid("a copy segment leaves the source")
        if pending:
            joined.append(Literal(b"".join(pending)))
            pending.clear()
        last = joined[-1] if joined else None
        if isinstance(last, Copy) and last.offset + last.length == segment.offset:
            joined[-1] = Copy(last.offset, last.length + segment.length)
        else:
            joined.append(segment)
    if pending:
        joined.append(Literal(b"".join(pending)))
    return Recipe(source_bytes, tuple(joined))
