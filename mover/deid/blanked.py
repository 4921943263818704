"""Comments inside compressed tiles: read as zeros, and written as zeros.

A JPEG can carry comments and application segments beside its picture. Taking them out would move every tile behind;
overwriting them with zeros of the same length leaves each offset, each length and each byte of the picture where it
was. `Blanked` shows a source as the output will be, so that whoever draws or compares sees no more than that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from mover.model.recipe import Copy, Literal, Segment
from mover.model.source import ByteSource

Range = tuple[int, int]


class Blanked:
    """A ByteSource in which these ranges (offset, length; in order, apart) are zeros."""

    def __init__(self, source: ByteSource, ranges: Iterable[Range]) -> None:
        self._source = source
        self._ranges = sorted(ranges)
        self._starts = [start for start, _ in self._ranges]

    @property
    def size_bytes(self) -> int:
        return self._source.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        data = self._source.read(offset, length)
        found = list(self._inside(offset, offset + length))
        if not found:
            return data
        out = bytearray(data)
        for start, end in found:
            out[start - offset : end - offset] = bytes(end - start)
        return bytes(out)

    def _inside(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        index = max(0, bisect_right(self._starts, begin) - 1)
        for start, length in self._ranges[index:]:
            if start >= end:
                return
            if start + length > begin:
                yield max(start, begin), min(start + length, end)


def blank_out(segments: list[Segment], ranges: Iterable[Range]) -> list[Segment]:
    """The same recipe with zeros where its copies would bring these ranges of the source."""
    ordered = sorted(ranges)
    if not ordered:
        return segments
    starts = [start for start, _ in ordered]
    out: list[Segment] = []
    for segment in segments:
        if isinstance(segment, Literal):
            out.append(segment)
            continue
        at, end = segment.offset, segment.offset + segment.length
        for start, length in ordered[bisect_right(starts, at - 1) :]:
            if start >= end:
                break
            out += [Copy(at, start - at), Literal(bytes(length))]
            at = start + length
        out.append(Copy(at, end - at))
    return out


def joined(placed: Iterable[tuple[int, Segment]]) -> tuple[list[tuple[int, Copy]], list[Range]]:
    """Undo `blank_out`: copies that only zeros of just their distance part become one again, with the ranges of the
    source that the zeros stand for."""
    copies: list[tuple[int, Copy]] = []
    ranges: list[Range] = []
    zeros = 0
    for at, segment in placed:
        if isinstance(segment, Literal):
            zeros = len(segment.data) if not any(segment.data) else 0
            continue
        last_at, last = copies[-1] if copies else (0, None)
        if last is not None and zeros and _follows(last_at, last, at, segment, zeros):
            ranges.append((segment.offset - zeros, zeros))
            copies[-1] = (last_at, Copy(last.offset, last.length + zeros + segment.length))
        else:
            copies.append((at, segment))
        zeros = 0
    return copies, ranges


def _follows(last_at: int, last: Copy, at: int, segment: Copy, zeros: int) -> bool:
    return last.offset + last.length + zeros == segment.offset and last_at + last.length + zeros == at
