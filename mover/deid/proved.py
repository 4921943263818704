"""The transfer engine's Verifier for files whose proof was made in the parsing child."""

from __future__ import annotations

from mover.errors import ChangedWhileReading, RedactionUnproven
from mover.model.recipe import Recipe
from mover.model.source import ByteSource
from mover.model.tiers import Fingerprint


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
