"""A sparse stand-in for a file, in memory: all of its structure, some of its tiles.

Parsers that want a file get one that exists nowhere: an anonymous memory file of the full size, of which only
the asked ranges are filled. It has no name on any disk, so nothing of an identified slide is left behind
wherever the process dies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Final

import numpy as np
from msgspec import Struct

from mover.deid.blanked import joined
from mover.errors import RedactionUnproven
from mover.model.recipe import Literal, Recipe
from mover.model.slides import Page
from mover.model.source import ByteSource

FILLED_BYTES: Final = 512 << 20
_STEP: Final = 8 << 20


class TilePair(Struct, frozen=True):
    """A level's tiles: where they lie in the source and in the output, in the level's own order."""

    page: Page
    source_at: np.ndarray
    output_at: np.ndarray
    counts: np.ndarray


class Skeleton:
    """Open one with `with`; `path` is valid inside. At most FILLED_BYTES are ever filled."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.filled_bytes = 0
        self._fd = os.memfd_create("skeleton", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError:
            os.close(self._fd)
            raise

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def move_to(self, slot: int) -> None:
        """Become this descriptor, which is nobody's yet."""
        os.dup2(self._fd, slot, inheritable=False)
        os.close(self._fd)
        self._fd = slot

    def duplicate(self) -> int:
        """Another descriptor of the same bytes; the caller closes it."""
        return os.dup(self._fd)

    def fill(self, at: int, data: bytes) -> None:
        self.filled_bytes += len(data)
        if self.filled_bytes > FILLED_BYTES:
            raise RedactionUnproven(f"the proof would need more than {FILLED_BYTES} bytes in memory")
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written

    def __enter__(self) -> Skeleton:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


class Output:
    """The output of a recipe as ranges: where each came from."""

    def __init__(self, recipe: Recipe) -> None:
        self.size_bytes = recipe.size_bytes
        placed = [(one.at, one.segment) for one in recipe.placed()]
        self.literals = [(at, segment.data) for at, segment in placed if isinstance(segment, Literal)]
        # zeros inside a tile stand for a comment of the source's: `blanked` are those ranges of it
        copies, self.blanked = joined(placed)
        self._at = np.array([at for at, _ in copies], "u8")
        self._from = np.array([copy.offset for _, copy in copies], "u8")
        self._length = np.array([copy.length for _, copy in copies], "u8")

    def origin(self, offsets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Where in the source these output ranges lie. Raises RedactionUnproven unless each is copied whole."""
        if not len(self._at):
            raise RedactionUnproven("a recipe that copies no tile")
        found = np.searchsorted(self._at, offsets, "right").astype("i8") - 1
        if (found < 0).any():
            raise RedactionUnproven("a tile of the output is not copied from the source")
        inside = offsets - self._at[found]
        if (inside + counts > self._length[found]).any():
            raise RedactionUnproven("a tile of the output is not copied from the source")
        return self._from[found] + inside

    def run_from(self, at: int) -> int:
        """How many bytes of the output from here on are one copy."""
        found = int(np.searchsorted(self._at, at, "right")) - 1
        if found < 0 or at >= int(self._at[found] + self._length[found]):
            raise RedactionUnproven("a tile of the output is not copied from the source")
        return int(self._at[found] + self._length[found]) - at

    def placed_at(self, offset: int) -> int:
        """Where a source byte that is copied lands in the output."""
        for at, start, length in zip(self._at.tolist(), self._from.tolist(), self._length.tolist(), strict=True):
            if start <= offset < start + length:
                return int(at + offset - start)
        raise RedactionUnproven("a level of the source is not copied to the output")

    def fill_literals(self, skeleton: Skeleton) -> None:
        for at, data in self.literals:
            skeleton.fill(at, data)

    def literal_between(self, start: int, end: int) -> bytes:
        """The bytes of an output range that must be literal."""
        for at, data in self.literals:
            if at <= start and end <= at + len(data):
                return data[start - at : end - at]
        raise RedactionUnproven("bytes outside every structure are copied from the source")


def fill_from(source: ByteSource, skeleton: Skeleton, ranges: Iterable[tuple[int, int, int]]) -> None:
    """Copy (source offset, skeleton offset, length) ranges."""
    for offset, at, length in ranges:
        for done in range(0, length, _STEP):
            step = min(_STEP, length - done)
            skeleton.fill(at + done, source.read(offset + done, step))


def fill_tiles(source: ByteSource, pair: TilePair, chosen: np.ndarray, skeleton: Skeleton) -> None:
    """Put these tiles' bytes where the output has them."""
    places = ((int(pair.source_at[one]), int(pair.output_at[one]), int(pair.counts[one])) for one in chosen.tolist())
    fill_from(source, skeleton, places)
