"""What the adversary's packs found, one test for each fault, and packs of a few seeds scored end to end."""

from __future__ import annotations

import numpy as np

from mover.deid.pixels.blanking import ground_of
from mover.deid.pixels.samples import Frame
from mover.deid.pixels.words import PixelFacts
from mover.deid.slides import plan_slide
from mover.deid.verify import verify_slide
from mover.model.source import MemorySource
from tests.support import slides


def pixels_of(rows: int, columns: int, photometric: str) -> PixelFacts:
    return PixelFacts(
        rows=rows, columns=columns, frames=(), transfer_syntax="1.2.840.10008.1.2.1", sop_class="", samples=1,
        photometric=photometric, bits_allocated=16, bits_stored=16,
    )  # fmt: skip


def test_a_box_over_letters_is_never_of_the_letters_own_number() -> None:
    """In a radiograph whose high numbers are black (MONOCHROME1), a line written as the highest number was blanked
    with the highest number: the box was the line's own silhouette."""
    samples = np.full((40, 60), 900, np.uint16)
    samples[20:] = 300
    samples[5:12, 5:50:3] = 1000
    frame = Frame(samples, "MONOCHROME1")
    assert int(ground_of(frame, pixels_of(40, 60, "MONOCHROME1"), ())) == 300


def test_a_name_in_the_comment_of_a_hamamatsu_level_becomes_zeros_and_the_slide_passes() -> None:
    """The slide was refused: comments were blanked in tiles, and a level that is one strip counted as none."""
    name = b"Aurelienne Quillinghast 00447719"
    source = MemorySource(slides.ndpi(comment=name))
    plan = plan_slide(source, suffix=".ndpi")
    verify_slide(source, plan)
    written = slides.run_recipe(source.read(0, source.size_bytes), plan.recipe.segments)
    assert name in source.read(0, source.size_bytes)
    assert name not in written
    comment = written.index(b"\xff\xfe")
    assert written[comment + 4 : comment + 4 + len(name)] == bytes(len(name))
