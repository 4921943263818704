"""What the policies that packs and tables came under say of how many persons decide about them.

A policy that is followed no more has said its last word, and for what waits it holds on: whoever takes a policy away
decides no more alone than before.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec
from msgspec import Struct

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.quarantine import RECORDS, Reviewing
from mover.errors import ConfigError
from mover.model.policy import ImagesPolicy, RecordsPolicy
from mover.policy import PolicyBook, parse

IMAGES: Final = "images"
# what cannot be read any more may have said anything
_STRICTEST: Final = Reviewing(2)

_Q = load(__file__)

Said = dict[tuple[str, str], Reviewing]  # by kind and name


class _Words(Struct, frozen=True):
    """Of a policy's file these alone: all else may be of another release."""

    reviewers: int | None = None
    reviewers_of: dict[str, int] = {}


async def said_by(conn: Connection, book: PolicyBook, names: Collection[str]) -> Said:
    said = {
        (one.kind, one.name): Reviewing(one.policy.reviewers, one.policy.reviewers_of)
        for one in book.all()
        if isinstance(one.policy, ImagesPolicy | RecordsPolicy)
    }
    here = [f"{kind} {name}" for kind, name in said]
    for row in await _Q.many(conn, "last_words", names=sorted(names), here=here):
        said[row.kind, row.name] = _last(row.text)
    return said


def of_cause(said: Said, kind: str, names: Collection[str]) -> list[Reviewing]:
    """Of these policies, for this kind of what waits; one that nobody ever followed says nothing."""
    step = RECORDS if kind == RECORDS else IMAGES
    return [said[step, name] for name in sorted(names) if (step, name) in said]


def _last(text: str) -> Reviewing:
    try:
        words = msgspec.convert(parse(text, file="policy").value, _Words)
    except (ConfigError, msgspec.ValidationError):
        return _STRICTEST
    return Reviewing(words.reviewers, words.reviewers_of)
