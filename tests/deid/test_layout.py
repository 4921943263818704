"""Who may claim the same bytes of a source: what is dropped, anybody; a level's tiles, nobody else."""

from __future__ import annotations

import struct

import pytest

from mover.deid.search import Seeker
from mover.deid.slides import plan_slide
from mover.deid.verify import verify_slide
from mover.errors import StructureInvalid
from mover.model.source import MemorySource
from scanners.tiff import Directory, read_structure
from tests.support import slides


def with_entry(data: bytes, directory: Directory, code: int, value: int) -> bytes:
    """The same slide with another number in one entry of a classic directory."""
    codes = list(directory.tags)
    at = directory.offset + 2 + 12 * codes.index(code) + 8
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def test_a_labels_strip_that_reaches_into_other_structures_is_dropped_like_any_other() -> None:
    """Writers count strips generously; none of the label's bytes is copied, so nothing can come of it."""
    data = slides.svs(label="S24-771001 Quincy")
    label = read_structure(MemorySource(data)).directories[3]
    start = int.from_bytes(label.tags[273].inline or b"", "little")
    longer = with_entry(data, label, 279, len(data) - start)
    source = MemorySource(longer)
    plan = plan_slide(source, suffix=".svs")
    verify_slide(source, plan)
    output = slides.run_recipe(longer, plan.recipe.segments)
    assert Seeker(["S24-771001", "SS7719"]).find(output) == 0


def test_a_levels_tile_that_reaches_into_another_structure_is_refused() -> None:
    """That is how a label, or a text, could be smuggled into the tissue."""
    data = slides.svs(size=(64, 64), leave_out=frozenset({1, 2}))
    first = read_structure(MemorySource(data)).directories[0]
    start = int.from_bytes(first.tags[324].inline or b"", "little")
    count = int.from_bytes(first.tags[325].inline or b"", "little")
    assert start and count
    with pytest.raises(StructureInvalid):
        plan_slide(MemorySource(with_entry(data, first, 325, count + 100)), suffix=".svs")
