"""Who may let bytes cross from an identified tier to a deidentified one (design D4).

A `Clearance` cannot be made by hand: `clear` runs a Verifier over one recipe and one open source, and the
clearance holds the digest of that recipe and the fingerprint of that source. The engine takes no other.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from blake3 import blake3

from mover.errors import ZoneCrossing
from mover.model.recipe import Copy, Recipe, compact
from mover.model.source import ByteSource
from mover.model.tiers import Fingerprint
from mover.tiers.staging import OpenEntry


class Verifier(Protocol):
    def verify(self, source: ByteSource, recipe: Recipe) -> object:
        """Return when the recipe's output of this source identifies nobody; raise an IdentityError if it
        does, or if that cannot be told."""


_BY_CLEAR = object()


class Clearance:
    """That a verifier passed exactly this recipe over exactly this source. Made by `clear` only."""

    __slots__ = ("recipe_digest", "source_fingerprint", "verifier")

    def __init__(self, made_by: object, *, recipe_digest: str, fingerprint: Fingerprint, verifier: str) -> None:
        if made_by is not _BY_CLEAR:
            raise ZoneCrossing("a clearance comes from running a verifier, never from a caller")
        self.recipe_digest = recipe_digest
        self.source_fingerprint = fingerprint
        self.verifier = verifier


def clear(verifier: Verifier, source: OpenEntry, recipe: Recipe) -> Clearance:
    """Run the verifier; its refusal is raised. The source must not change while it looks."""
    refuse_whole_copy(recipe)
    before = source.fingerprint()
    verifier.verify(source, recipe)
    if source.fingerprint() != before:
        raise ZoneCrossing("the source changed while its recipe was verified")
    return Clearance(
        _BY_CLEAR,
        recipe_digest=recipe_digest(recipe),
        fingerprint=before,
        verifier=f"{type(verifier).__module__}.{type(verifier).__qualname__}",
    )


def recipe_digest(recipe: Recipe) -> str:
    return blake3(msgspec.msgpack.encode(recipe)).hexdigest()


def refuse_crossing(recipe: Recipe, clearance: Clearance | None, *, fingerprint: Fingerprint, where: str) -> None:
    """ZoneCrossing unless this recipe was cleared over the source that is open now."""
    refuse_whole_copy(recipe)
    if not isinstance(clearance, Clearance):
        raise ZoneCrossing("no verifier has passed this recipe", where=where)
    if clearance.recipe_digest != recipe_digest(recipe):
        raise ZoneCrossing("another recipe was verified than the one to run", where=where)
    if clearance.source_fingerprint != fingerprint:
        raise ZoneCrossing("another source was verified than the one that is open", where=where)


def refuse_whole_copy(recipe: Recipe) -> None:
    """Nothing that still holds every byte of its source is de-identified, whatever a verifier says of it.

    Stricter than "no plain copy": reordering or adding literals changes nothing about that.
    """
    copies = sorted((s.offset, s.length) for s in recipe.segments if isinstance(s, Copy))
    covered = 0
    for offset, length in copies:
        if offset > covered:
            return
        covered = max(covered, offset + length)
    if covered >= recipe.source_bytes or compact(recipe.source_bytes, list(recipe.segments)).is_plain_copy:
        raise ZoneCrossing("the recipe copies its whole source")
