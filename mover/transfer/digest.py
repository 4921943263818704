"""BLAKE3 digests of sources, streams and recipes' outputs.

Sources are read into one reused buffer rather than mapped: a file that is truncated under a mapping ends the
whole process (SIGBUS), and somebody else's scanner may do that at any time. The extra copy stays in the
processor's cache; hashing and reading release the GIL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from blake3 import blake3

from mover.errors import ShortRead
from mover.model.proving import Prover
from mover.model.recipe import SEGMENT_BYTES, Copy, Recipe
from mover.model.source import ByteSource
from mover.model.tiers import Digest

BUFFER_BYTES = 1 << 20
RANGE_BYTES = 8 << 20
READ_AHEAD_BYTES = 64 << 20

Chunk = bytes | memoryview


class Hasher:
    """The digest of all bytes and, unless switched off, of each 16 MiB segment. `prover` sees them, too."""

    def __init__(self, *, segments: bool = True, prover: Prover | None = None) -> None:
        self._prover = prover
        self._whole = blake3()
        self._segment = blake3() if segments else None
        self._segments: list[str] = []
        self._room = SEGMENT_BYTES
        self.size_bytes = 0

    def update(self, chunk: Chunk) -> None:
        self._whole.update(chunk)
        if self._prover is not None:
            self._prover.update(chunk)
        self.size_bytes += len(chunk)
        rest = memoryview(chunk)
        while self._segment is not None and rest:
            part, rest = rest[: self._room], rest[self._room :]
            self._segment.update(part)
            self._room -= len(part)
            if self._room == 0:
                self._end_segment()

    def copy(self) -> Hasher:
        """One that goes on from here by itself."""
        twin = Hasher(segments=False)
        twin._whole = self._whole.copy()
        twin._segment = self._segment.copy() if self._segment is not None else None
        twin._segments, twin._room, twin.size_bytes = list(self._segments), self._room, self.size_bytes
        return twin

    def segments(self, first: int, last: int) -> tuple[str, ...]:
        """Of the segments from `first` up to and without `last`. Safe beside an `update` in another thread while
        these segments are complete; the one open at the end is only asked for when nothing more comes."""
        if last > len(self._segments):
            return self.digest().segments[first:last]
        return tuple(self._segments[first:last])

    def _end_segment(self) -> None:
        assert self._segment is not None
        self._segments.append(self._segment.hexdigest())
        self._segment, self._room = blake3(), SEGMENT_BYTES

    def digest(self) -> Digest:
        segments = list(self._segments)
        if self._segment is not None and self._room < SEGMENT_BYTES:
            segments.append(self._segment.hexdigest())
        return Digest(self._whole.hexdigest(), self.size_bytes, tuple(segments))


def digest_stream(chunks: Iterable[Chunk], *, segments: bool = True) -> Digest:
    hasher = Hasher(segments=segments)
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.digest()


def digest_source(source: ByteSource, *, segments: bool = False) -> Digest:
    """Of the whole source. ShortRead when it ends before its size."""
    hasher = Hasher(segments=segments)
    for chunk in pieces(source, 0, source.size_bytes):
        hasher.update(chunk)
    return hasher.digest()


def digest_recipe(recipe: Recipe, source: ByteSource, *, segments: bool = False) -> Digest:
    """Of what the recipe makes of the source, without making it."""
    hasher = Hasher(segments=segments)
    feed(recipe, source, hasher.update)
    return hasher.digest()


def feed(
    recipe: Recipe, source: ByteSource, take: Callable[[Chunk], None], *, stopped: Callable[[], bool] | None = None
) -> None:
    """Every byte of the recipe's output to `take`, in order; a chunk is valid during the call only."""
    for segment in recipe.segments:
        if isinstance(segment, Copy):
            for chunk in pieces(source, segment.offset, segment.length):
                take(chunk)
                if stopped is not None and stopped():
                    return
        else:
            take(segment.data)


def pieces(source: ByteSource, offset: int, length: int) -> Iterator[Chunk]:
    """The bytes of a range. By descriptor into one buffer where there is one, so a piece is valid until the
    next is asked for; else by range reads."""
    descriptor = descriptor_of(source)
    if descriptor is None:
        for at in range(offset, offset + length, RANGE_BYTES):
            yield source.read(at, min(RANGE_BYTES, offset + length - at))
        return
    view = memoryview(bytearray(min(BUFFER_BYTES, length)))
    ahead = offset
    while length:
        if offset >= ahead:
            ahead = offset + READ_AHEAD_BYTES // 2
            os.posix_fadvise(descriptor, offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        count = os.preadv(descriptor, [view[: min(len(view), length)]], offset)
        if count == 0:
            raise ShortRead("the source ended before its size")
        yield view[:count]
        offset, length = offset + count, length - count


def descriptor_of(source: ByteSource) -> int | None:
    fileno = getattr(source, "fileno", None)
    return fileno() if fileno is not None else None
