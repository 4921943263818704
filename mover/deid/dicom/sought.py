"""The words of one context as all their forms, ready to be sought in many values."""

from __future__ import annotations

import re
from typing import Final

from mover.deid.search import Seeker, coded_forms, plain_forms

_DIGITS_ONLY: Final = re.compile(rb"[-+0-9.eE ]{6,}")
SHORTEST: Final = 5
_DISTINCT: Final = 3  # a number 000000 stands in every 0.000000 and is nobody's


class Search:
    """`seeker` looks for everything, `people` for what names persons. In values that are digits only, such as DS, a
    word can stand only in forms that are digits, too, which are few: a number of five digits is too often a length."""

    def __init__(self, people: frozenset[str], places: frozenset[str]) -> None:
        self.seeker = Seeker(sorted(word for word in people | places if len(word) >= SHORTEST))
        self.people = Seeker(sorted(word for word in people if len(word) >= SHORTEST))
        words = self.people.strings
        forms = {form for word in words for form in (*plain_forms(word), *coded_forms(word))}
        digits = {re.sub(r"[^0-9]", "", word).encode() for word in words}
        found = (form for form in forms | digits if _DIGITS_ONLY.fullmatch(form))
        self._digit_forms = tuple(form for form in found if len(set(form)) >= _DISTINCT)

    def holds(self, value: bytes, digits_only: bool) -> bool:
        """Whether a word is in the value in any form."""
        if digits_only:
            return any(form in value for form in self._digit_forms)
        return self.seeker.find(value) > 0
