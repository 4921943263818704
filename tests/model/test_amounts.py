"""How many, in words."""

from __future__ import annotations

from mover.model.amounts import counted


def test_one_is_one_and_more_are_more() -> None:
    """`1 packs` in a plan reads as a mistake, and makes people doubt the number."""
    said = [counted(n, "slide") for n in (0, 1, 1200)] + [counted(n, "batch", "batches") for n in (1, 2)]
    assert said == ["0 slides", "1 slide", "1,200 slides", "1 batch", "2 batches"]
