"""Tiles of a run's slides with OpenSlide, in an order that a seed gives.

    python examples/tiles.py /flash/runs/run-01J… 100

`tiles` yields arrays; a slide is opened once and closed before the next, so that a worker holds one at a time.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
from run_root import Slide, Slides

SIZE, PER_SLIDE = 256, 16


class Tile(NamedTuple):
    number: str
    at: tuple[int, int]
    pixels: np.ndarray  # SIZE x SIZE x 3


def tiles(slides: Slides, *, seed: int, per_slide: int = PER_SLIDE) -> Iterator[Tile]:
    """Every slide once, in an order of the seed's, and some of its tiles."""
    chance = random.Random(seed)
    for index in chance.sample(range(len(slides)), len(slides)):
        yield from _of(slides[index], chance, per_slide)


def _of(slide: Slide, chance: random.Random, count: int) -> Iterator[Tile]:
    with _as_file(slide) as path, openslide.OpenSlide(path) as opened:
        width, height = opened.dimensions
        places = [(x, y) for y in range(0, height - SIZE + 1, SIZE) for x in range(0, width - SIZE + 1, SIZE)]
        for at in chance.sample(places, min(count, len(places))):
            pixels = np.asarray(opened.read_region(at, 0, (SIZE, SIZE)).convert("RGB"))
            yield Tile(slide.number, at, pixels)


@contextmanager
def _as_file(slide: Slide) -> Iterator[Path]:
    """OpenSlide wants a file of its own: of a slide in a tar a copy, for as long as it is read."""
    if not slide.offset:
        yield slide.path
        return
    with tempfile.NamedTemporaryFile(suffix=Path(slide.facts["path"]).suffix) as copy:
        copy.write(slide.read())
        copy.flush()
        yield Path(copy.name)


def main(root: str, wanted: str = "100") -> int:
    """Tiles as a training loop would take them: how many, and how bright they are."""
    brightness = [float(tile.pixels.mean()) for tile in islice(tiles(Slides(root), seed=7), int(wanted))]
    print(f"{len(brightness)} tiles, mean brightness {np.mean(brightness):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
