"""The words of one context as all their forms, ready to be sought in many values."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Final

from mover.deid.search import Seeker

_DIGITS_ONLY: Final = re.compile(rb"[-+0-9.eE ]{6,}")
SHORTEST: Final = 5
SHORT_VALUE: Final = 16  # what SH, CS and AE hold (PS3.5 6.2): a longer word stands there cut off
CONTEXTS: Final = 16
_DISTINCT: Final = 3  # a number 000000 stands in every 0.000000 and is nobody's


class Search:
    """`seeker` looks for everything, `people` for what names persons. In values that are digits only, such as DS, a
    word can stand only in forms that are digits, too, which are few: a number of five digits is too often a length."""

    def __init__(self, people: frozenset[str], places: frozenset[str]) -> None:
        self._people = sorted(_and_cut(people))
        self.seeker = Seeker(sorted({*self._people, *_and_cut(places)}))
        found = {form for word in self._people for form in _digit_forms(word) if _DIGITS_ONLY.fullmatch(form)}
        self._digit_forms = tuple(form for form in found if len(set(form)) >= _DISTINCT)

    @cached_property
    def people(self) -> Seeker:
        return Seeker(self._people)

    def holds(self, value: bytes, digits_only: bool) -> bool:
        """Whether a word is in the value in any form."""
        if digits_only:
            return any(form in value for form in self._digit_forms)
        return self.seeker.find(value) > 0


@lru_cache(maxsize=CONTEXTS)
def search_of(people: frozenset[str], places: frozenset[str]) -> Search:
    """One search for all who look for the same words: making the forms costs more than many looks."""
    return Search(people, places)


def _and_cut(words: frozenset[str]) -> set[str]:
    return {form for word in words if len(word) >= SHORTEST for form in (word, word[:SHORT_VALUE].rstrip())}


def _digit_forms(word: str) -> tuple[bytes, ...]:
    """What of a word's forms can consist of digits: itself, backwards, its digits alone, and hexadecimal."""
    digits = re.sub("[^0-9]", "", word)
    raw = word.encode()
    shapes = (raw, word[::-1].encode(), digits.encode(), digits[::-1].encode())
    return (*shapes, *(shape.hex().encode() for shape in shapes))
