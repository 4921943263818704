"""Is a file that claims to be de-identified already what it claims to be?

It is judged as if it were a source. Where our own de-identification of it would be, byte for byte, the file itself, it
is clean, and the second look has proved it. Where the container would be written otherwise but nothing would be
dropped or replaced, it is clean as well. Everything else is suspect, with the places that would go; what is not
understood at all is refused. Names are judged like contents: one that could be an accession number is suspect, unless
somebody who knows the names answers for them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct

from mover.decide.filenames import words_of_name
from mover.decide.survey import PlaceSeen, masked_key
from mover.model.ids import is_number

Verdict = Literal["clean", "suspect", "refused", "unjudged"]
VERDICTS: Final[tuple[Verdict, ...]] = ("clean", "suspect", "refused", "unjudged")
PLACES_MAX: Final = 50  # of one file; a suspect one needs no more
_RANDOM: Final = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE
)
# what is written anew without anything being lost: values of a type, from structure
_HARMLESS: Final = frozenset(
    {
        "written anew from structure", "listed elements and attributes with values of their types",
        "OME-XML written anew from its schema's numbers", "the XML written anew from listed attributes",
    }
)  # fmt: skip


class CleanLook(Struct, frozen=True):
    """What one look found. `same`: our output of this file is the file; `removed` counts texts that would go."""

    family: str
    code: str = ""
    what: str = ""
    same: bool = False
    removed: int = 0
    places: tuple[PlaceSeen, ...] = ()


class Judged(Struct, frozen=True):
    verdict: Verdict
    reasons: tuple[PlaceSeen, ...] = ()


def judge_clean(look: CleanLook, key: str, *, trust_names: bool) -> Judged:
    """`key` is the file's name below the adopted prefix."""
    names = () if trust_names else tuple(_telling(key))
    if look.code:
        refused = PlaceSeen("file", "unknown", f"{look.code}: {look.what}")
        return Judged("refused", (refused, *names))
    places = () if look.same else tuple(one for one in look.places if not _harmless(one))
    if look.removed and not look.same and not places:
        places = (PlaceSeen("texts", "dropped", "texts that would not stay", "", look.removed),)
    reasons = (*names, *places)[:PLACES_MAX]
    return Judged("suspect" if reasons else "clean", reasons)


def _harmless(place: PlaceSeen) -> bool:
    return place.fate == "kept" or (place.fate == "rewritten" and place.reason in _HARMLESS)


def _telling(key: str) -> Iterable[PlaceSeen]:
    """Words of the name that may be somebody's: neither a number of ours nor random by its form."""
    for word in words_of_name(key):
        if not is_number(word.upper()) and not _RANDOM.fullmatch(word) and not _inside(word, key):
            yield PlaceSeen("name", "unknown", "a name that may be somebody's", masked_key(word))


def _inside(word: str, key: str) -> bool:
    """A piece of a number or of a random name, which words are cut from as well."""
    parts = [part for piece in key.split("/") for part in (piece, piece.split(".")[0])]
    random = [part for part in parts if is_number(part) or _RANDOM.fullmatch(part)]
    return any(word.casefold() in part.casefold() for part in random)


def summary(reasons: Sequence[PlaceSeen]) -> list[dict[str, str]]:
    """For the catalog and the report: places by masked shape."""
    return [{"place": one.place, "fate": one.fate, "reason": one.reason, "shape": one.shape} for one in reasons]
