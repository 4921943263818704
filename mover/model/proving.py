"""Digests of ranges of a stream, while it goes by: the files of a tar, as the tar is read."""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3


class Prover:
    """Compares ranges of a stream with the digests they should have. The stream comes in order, in any pieces."""

    def __init__(self, ranges: Iterable[tuple[str, int, int, str]]) -> None:
        """Each: name, offset, length, expected BLAKE3. They lie apart from each other."""
        self._ranges = sorted(ranges, key=lambda one: one[1])
        self._next, self._at = 0, 0
        self._hasher = blake3()
        self._wrong: list[str] = []

    def update(self, chunk: bytes | memoryview) -> None:
        view, start = memoryview(chunk), self._at
        self._at += len(view)
        while self._next < len(self._ranges):
            name, offset, length, expected = self._ranges[self._next]
            part = view[max(0, offset - start) : max(0, offset + length - start)]
            self._hasher.update(part)
            if self._at < offset + length:
                return
            if self._hasher.hexdigest() != expected:
                self._wrong.append(name)
            self._hasher, self._next = blake3(), self._next + 1

    def wrong(self) -> list[str]:
        """Names of ranges that hold other bytes, or that the stream ended before."""
        return self._wrong + [name for name, *_ in self._ranges[self._next :]]
