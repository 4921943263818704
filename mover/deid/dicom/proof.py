"""What a second look is told of an object, and the output as a file that exists nowhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from mover.deid.dicom.outcome import ObjectPlan
from mover.deid.identity import Subject
from mover.deid.pixels import PixelFacts, PixelVerdict, Span
from mover.model.recipe import Copy, Literal
from mover.model.source import ByteSource

# Little and big endian tags of pixel data; only a guess which reader serves, either proves the same.
_PIXEL_MARKS: Final = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10", b"\xe0\x7f\x08\0", b"\xe0\x7f\x09\0")


class Picture(Struct, frozen=True):
    """How a native picture's bytes lie, as the source says it."""

    rows: int
    columns: int
    samples: int
    sample_bytes: int
    planar: bool


class Proof(Struct, frozen=True):
    """What the output may say: the aliases, the words it must not hold, and where the source's frames lie."""

    subject: Subject
    uids: Mapping[str, str]
    keys: Mapping[str, str]
    number: str
    people: frozenset[str]
    places: frozenset[str]
    frames: tuple[tuple[Span, ...], ...]
    verdict: PixelVerdict | None
    timed: bool
    picture: Picture | None = None
    facts: PixelFacts | None = None


class WrittenFile:
    """The output as a file for a reader: literals from memory, copies from the source. Only what is asked is read."""

    def __init__(self, source: ByteSource, plan: ObjectPlan) -> None:
        self._source = source
        self._placed = [(one.at, one.segment) for one in plan.recipe.placed()]
        self._starts = [at for at, _ in self._placed]
        self.size = plan.recipe.size_bytes
        first = plan.recipe.segments[0]
        self.head = first.data if isinstance(first, Literal) else b""
        self._at = 0
        self.name = "output"

    @property
    def is_plain(self) -> bool:
        """Whether the first literal reaches as far as a pixel element's head, or the end."""
        ends = self.head[-40:]
        return len(self._placed) == 1 or any(mark in ends for mark in _PIXEL_MARKS)

    def rewound(self, at: int) -> WrittenFile:
        self._at = at
        return self

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0 if whence == 0 else self._at if whence == 1 else self.size)
        return self._at

    def read(self, length: int = -1) -> bytes:
        end = self.size if length < 0 else min(self.size, self._at + length)
        data = self.range(self._at, end)
        self._at = max(self._at, end)
        return data

    def range(self, at: int, end: int) -> bytes:
        if at >= end:
            return b""
        number = bisect_right(self._starts, at) - 1
        start, segment = self._placed[number]
        if end <= start + segment.length:
            return self._piece(segment, at - start, end - start)
        found = []
        while at < end:
            start, segment = self._placed[number]
            upto = min(end, start + segment.length)
            found.append(self._piece(segment, at - start, upto - start))
            at, number = upto, number + 1
        return b"".join(found)

    def _piece(self, segment: Literal | Copy, start: int, end: int) -> bytes:
        if isinstance(segment, Literal):
            return segment.data[start:end]
        return self._source.read(segment.offset + start, end - start)

    def origins(self, at: int, length: int) -> Iterator[tuple[int, int, bytes | None]]:
        """A range as pieces: (source offset, length, None) of copies, (-1, length, bytes) of literals."""
        first = max(0, bisect_right(self._starts, at) - 1)
        for number in range(first, len(self._placed)):
            start, segment = self._placed[number]
            if start >= at + length:
                return
            low, high = max(at, start), min(at + length, start + segment.length)
            if low >= high:
                continue
            if isinstance(segment, Literal):
                yield -1, high - low, segment.data[low - start : high - start]
            else:
                yield segment.offset + low - start, high - low, None
