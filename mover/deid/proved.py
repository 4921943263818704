"""The transfer engine's Verifier for files whose proof was made in the parsing child."""

from __future__ import annotations

from mover.errors import ChangedWhileReading, RedactionUnproven
from mover.model.recipe import Copy, Literal, Recipe
from mover.model.source import ByteSource
from mover.model.tiers import Fingerprint

_SOI = b"\xff\xd8"


def with_own_start(recipe: Recipe, source: ByteSource) -> Recipe:
    """The same output, with a JPEG's first marker as our own two bytes.

    A picture without one foreign segment is proved to be nothing but a picture, and its recipe copies it whole; the
    engine rightly lets no whole copy over a zone's border, whoever proved it. What every JPEG begins with is nobody's.
    """
    first = recipe.segments[0] if recipe.segments else None
    if not isinstance(first, Copy) or first.offset or first.length < len(_SOI) or source.read(0, len(_SOI)) != _SOI:
        return recipe
    rest = Copy(len(_SOI), first.length - len(_SOI))
    return Recipe(recipe.source_bytes, (Literal(_SOI), rest, *recipe.segments[1:]))


class ProvedRecipe:
    """Lets pass one proved recipe over one source and no other. `seen` is the source's fingerprint from *before* the
    proof, so that a source exchanged between proof and clearance is noticed."""

    def __init__(self, recipe: Recipe, *, seen: Fingerprint) -> None:
        self._recipe = recipe
        self._seen = seen

    def verify(self, source: ByteSource, recipe: Recipe) -> None:
        if recipe != self._recipe or source.size_bytes != recipe.source_bytes:
            raise RedactionUnproven("the recipe to run is not the one that was proved")
        fingerprint = getattr(source, "fingerprint", None)
        if fingerprint is None or fingerprint() != self._seen:
            raise ChangedWhileReading("the source is not the one that was proved")
