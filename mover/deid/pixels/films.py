"""Which frames of a film the detector is shown.

A short film is looked at frame by frame. Of a longer one the first, the middle and the last frame are, and two made-up
ones: the brightest and the darkest that each pixel was in the whole film, where a line that any frame shows stands
out from what moves behind it. A word on one frame alone may drown there, so every frame gets the cheap look for edges
besides: those with a run of busy blocks where no shown frame has any are shown too, the most telling first. Where
tissue moves that is nearly every frame, hence `SUSPECTS`; a profile that wants certainty says `films: every` or
`films: refuse`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mover.deid.pixels.look import busy
from mover.deid.pixels.samples import Frame, frame_bytes, read_frame
from mover.deid.pixels.words import PixelFacts
from mover.errors import LimitExceeded, RedactionUnproven
from mover.model.deid import PixelRules
from mover.model.source import ByteSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW_PIXELS: Final = 2 << 20  # of all frames together: then each frame is looked at
SAMPLED: Final = 3
SUSPECTS: Final = 8  # frames that are shown because of their edges
RUN: Final = 5  # half-blocks in a row with edges where no shown frame has any: three letters of the smallest writing
SHOWN_BYTES: Final = 1 << 30  # of frames that stand in memory together; the child that reads them has four times that
MAX_FRAMES: Final = 8192  # a longer film is not looked at in the time of one object


def shown(source: ByteSource, facts: PixelFacts, rules: PixelRules) -> Iterator[Frame]:
    """Raises RedactionUnproven for a film that the profile, or the bound, does not let pass by samples, LimitExceeded
    for one that would have to be read whole and is too large for it."""
    count = len(facts.frames)
    few = count * facts.rows * facts.columns <= FEW_PIXELS or count <= SAMPLED
    if not few and rules.films == "refuse":
        raise RedactionUnproven("the profile refuses films of which not every frame is looked at")
    if count > MAX_FRAMES:
        raise RedactionUnproven(f"a film of more than {MAX_FRAMES} frames")
    if not few and rules.films == "every" and count * frame_bytes(facts) > SHOWN_BYTES:
        raise LimitExceeded(f"a film of more than {SHOWN_BYTES >> 20} MiB, of which every frame is to be read")
    if few or rules.films == "every":
        yield from (read_frame(source, facts, index) for index in range(count))
    else:
        yield from _of_film(source, facts)


def _of_film(source: ByteSource, facts: PixelFacts) -> Iterator[Frame]:
    count = len(facts.frames)
    first = read_frame(source, facts, 0)
    bright, dark = first.samples.copy(), first.samples.copy()
    colours = first.photometric
    edges = Edges()
    for index in range(count):
        samples = read_frame(source, facts, index).samples
        np.maximum(bright, samples, out=bright)
        np.minimum(dark, samples, out=dark)
        edges.add(_edges(samples, colours))
    chosen = (0, count // 2, count - 1)
    seen = np.logical_or.reduce([*(edges[index] for index in chosen), _edges(bright, colours), _edges(dark, colours)])
    for index in (*chosen, *suspects(edges, seen)):
        yield read_frame(source, facts, index)
    yield Frame(bright, colours)
    yield Frame(dark, colours)


class Edges:
    """The busy blocks of every frame, a bit each: thousands of frames fit into few megabytes."""

    def __init__(self) -> None:
        self._packed: list[NDArray[np.uint8]] = []
        self._shape = (0, 0)

    def add(self, blocks: NDArray[np.bool_]) -> None:
        self._shape = blocks.shape
        self._packed.append(np.packbits(blocks))

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        high, wide = self._shape
        return np.unpackbits(self._packed[index], count=high * wide).reshape(high, wide).astype(bool)


def suspects(edges: Edges, seen: NDArray[np.bool_]) -> list[int]:
    """The frames with the most edges where none were seen, each judged after what the ones before it showed."""
    found: list[int] = []
    # what was new of a frame only gets less while more is shown, so an old count is good enough to pass it by
    most = [_new(edges[index], seen) for index in range(len(edges))]
    while len(found) < SUSPECTS and (best := int(np.argmax(most))) >= 0 and most[best]:
        now = _new(edges[best], seen)
        if now == most[best]:
            found.append(best)
            seen = seen | edges[best]
            now = 0
        most[best] = now
    return found


def _new(blocks: NDArray[np.bool_], seen: NDArray[np.bool_]) -> int:
    return _in_runs(blocks & ~_around(seen))


def _edges(samples: NDArray[Any], photometric: str) -> NDArray[np.bool_]:
    """The busy blocks of the plane that carries most of the light, over the frame's own range."""
    plane = samples if samples.ndim == 2 else samples[:, :, 0 if photometric.startswith("YBR") else 1]
    if plane.dtype != np.uint8:
        low, high = float(plane.min()), float(plane.max())
        plane = ((plane - low) * (255 / max(1.0, high - low))).astype(np.uint8)
    return busy(plane)


def _around(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The blocks and their neighbours: an edge that trembles is none that is new."""
    wide = np.pad(blocks, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def _in_runs(blocks: NDArray[np.bool_]) -> int:
    """How many runs of `RUN` blocks there are, along rows and along columns."""
    if not blocks.any():
        return 0
    sums = 0
    for lines in (blocks, blocks.T):
        if lines.shape[1] >= RUN:
            summed = np.cumsum(np.pad(lines, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
            sums += int((summed[:, RUN:] - summed[:, :-RUN] == RUN).sum())
    return sums
