"""Who stands for whom: the replacements a plan may write, and what a look at a file says about its people.

Both hold original identifiers. They live in memory, between the crosswalk (the vault, or the one-shot command's
file) and the parsing child; nothing of them is logged or stored elsewhere (D10).

One patient, case, block or slide has one key wherever it is named, in an image's header or in a table, so that it
gets one pseudonym (design: deidentification 3). `entity_key` makes the key.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from mover.decide.folding import fold, one_gap

Entity = Literal["patient", "case", "block", "slide"]
ENTITIES: Final[tuple[Entity, ...]] = ("patient", "case", "block", "slide")


class Subject(Struct, frozen=True):
    """What the site calls a patient, and by how many days all dates of that patient move."""

    pseudonym: str
    offset_days: int


class Aliases(Struct, frozen=True):
    """Everything a plan may write in the place of an identifier. `subjects` by patient key; `keys` by
    `entity_key` of a case, block or slide; `uids` by the original UID; `links` from the key of a case, block or slide
    to that of the patient it belongs to, where all sources agree on one (`decide.kinship`)."""

    number: str = ""
    subjects: dict[str, Subject] = {}
    keys: dict[str, str] = {}
    uids: dict[str, str] = {}
    links: dict[str, str] = {}


class Identity(Struct, frozen=True):
    """What one look at one file says about whom it belongs to. `entities` are `entity_key`s, the patient's first
    of its kind; `uids` are all that need a replacement; `words` are texts that name the patient or staff and join
    the dictionary every file of the patient is searched for; `times` are digits that are too common to be sought, and
    that a new UID shall not repeat by chance."""

    entities: tuple[str, ...] = ()
    uids: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    times: tuple[str, ...] = ()

    def of(self, kind: Entity) -> tuple[str, ...]:
        return tuple(key for key in self.entities if key.startswith(kind + "|"))


def entity_key(kind: Entity, text: str) -> str:
    """Equal for what a person calls the same: NFC, trimmed, case-folded, inner gaps as single spaces; an underscore is
    a gap too. A patient's key keeps a gap at its end, as it stands sealed in vaults since the first."""
    return f"{kind}|{one_gap(fold(text)) if kind == 'patient' else fold(text.replace('_', ' '))}"


class Refused(Struct, frozen=True):
    """Why one file of several may not pass: the error's code and words, which hold no value of the file."""

    code: str
    what: str
