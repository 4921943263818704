"""What comes back from the parsing child: values only.

They stand apart from the code that makes them, so that the daemon knows the words and loads no parser (D16).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from mover.model.recipe import Recipe
from mover.model.slides import Decision, SlideFacts


class OutFile(Struct, frozen=True):
    """One file of a slide that has several. `name` is relative to the slide's folder, with `{number}` where the
    slide's number goes ("{number}/Data0000.dat"); `source` says which of the given files the recipe copies from,
    0 the main one."""

    name: str
    source: int
    recipe: Recipe

    def path(self, number: str) -> str:
        return self.name.replace("{number}", number)


class SlidePlan(Struct, frozen=True):
    """How a slide becomes de-identified. `removed` is the harvest of everything dropped or changed: it stays
    in memory and is what the second pass searches for. All else is safe for the catalog. `recipe` makes the main
    file, `{number}.{extension}`; `parts` are the files that belong to it, none for most families. `strangers` are the
    source's pages that have a level's form and show another picture: they are dropped. `around` are listed words that
    hold something removed as a part (Hamamatsu, of Mr Matsu): inside of these it is no trace."""

    family: str
    extension: str
    recipe: Recipe
    facts: SlideFacts
    decisions: tuple[Decision, ...]
    removed: tuple[str, ...]
    tile_count: int
    parts: tuple[OutFile, ...] = ()
    strangers: tuple[int, ...] = ()
    around: tuple[str, ...] = ()

    def files(self) -> Iterator[OutFile]:
        """Every file of the output, the main one first."""
        yield OutFile("{number}." + self.extension, 0, self.recipe)
        yield from self.parts


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
