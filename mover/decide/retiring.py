"""Which of the oldest audit records may leave the catalog for a pack: facts in, the ends of the chains out, with
reasons.

A chain loses its beginning only: from its first record on, all older than the day, none that a signed copy on every
tier does not cover, and no more than one pack holds. The database asks the same of its own rows and its own clock
before anything goes (`mover.audit_check_retired`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

# HIPAA 164.316(b)(2); nothing makes it less, and the database holds it by itself
FLOOR_YEARS = 6


class Oldest(Struct, frozen=True):
    """The beginning of a chain: its first record that stands, the last before which all are older than the day, and the
    last that checkpoints on every tier cover. An `older` before `first` is none."""

    node: str
    first: int
    older: int
    covered: int


class Piece(Struct, frozen=True):
    """The records of a chain after `after`, up to `upto`."""

    node: str
    after: int
    upto: int


class Kept(Struct, frozen=True):
    """A chain that keeps records older than the day, and why."""

    node: str
    reason: str


class Retiring(Struct, frozen=True):
    pieces: tuple[Piece, ...]
    kept: tuple[Kept, ...]

    @property
    def records(self) -> int:
        return sum(one.upto - one.after for one in self.pieces)


def years_before(now: datetime, years: int) -> datetime:
    """As PostgreSQL counts: from the last of February on where that year has no 29th."""
    try:
        return now.replace(year=now.year - years)
    except ValueError:
        return now.replace(year=now.year - years, day=28)


def why_not(before: datetime, *, now: datetime, years: int | None) -> str | None:
    """Why nothing before this day may leave at all; `years` is what the site keeps, None for ever."""
    if years is None:
        return "this site keeps its records for ever"
    if before > years_before(now, max(years, FLOOR_YEARS)):
        return f"records younger than {max(years, FLOOR_YEARS)} years stay"
    return None


def retiring(chains: Sequence[Oldest], *, limit: int) -> Retiring:
    """Chain by chain in the order of their names, until `limit` records are named."""
    pieces: list[Piece] = []
    kept: list[Kept] = []
    for one in sorted(chains, key=lambda chain: chain.node):
        room = limit - sum(piece.upto - piece.after for piece in pieces)
        upto = min(one.older, one.covered, one.first - 1 + room)
        if upto >= one.first:
            pieces.append(Piece(one.node, one.first - 1, upto))
        if max(upto, one.first - 1) < one.older:
            uncovered = min(one.older, one.first - 1 + room) > one.covered
            why = "not covered by a checkpoint on every tier" if uncovered else "more than one pack holds"
            kept.append(Kept(one.node, why))
    return Retiring(tuple(pieces), tuple(kept))
