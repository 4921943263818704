"""What comes back from the parsing child: values only.

They stand apart from the code that makes them, so that the daemon knows the words and loads no parser (D16).
"""

from __future__ import annotations

from msgspec import Struct

from mover.model.recipe import Recipe
from mover.model.slides import Decision, SlideFacts


class SlidePlan(Struct, frozen=True):
    """How a slide becomes de-identified. `removed` is the harvest of everything dropped or changed: it stays
    in memory and is what the second pass searches for. All else is safe for the catalog."""

    family: str
    extension: str
    recipe: Recipe
    facts: SlideFacts
    decisions: tuple[Decision, ...]
    removed: tuple[str, ...]
    tile_count: int


class SlideEvidence(Struct, frozen=True):
    """What was looked at, in numbers. Holds no value of the source."""

    verifier: str
    methods: tuple[str, ...]
    strings_sought: int
    forms_sought: int
    bytes_searched: int
    tags_checked: int
    levels: int
    tiles: int
    tiles_decoded: int
    tile_list_blake3: str


class Prepared(Struct, frozen=True):
    """A plan that has passed the second look, the evidence of it, and a thumbnail when one was asked for."""

    plan: SlidePlan
    evidence: SlideEvidence
    thumbnail: bytes
