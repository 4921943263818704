"""When two texts say the same: the foldings every comparison uses, and lists of words that are met whole or not at all.

Would a person call it the same entry (`fold`: case and gaps aside)? The same patient (`one_gap`)? The same name,
however its accents were typed (`plain`)? The same file (`canonical_name`)? Some of the answers stand sealed in vaults
and crosswalk files, so none of them may change; `deid.search` folds for itself, because a proof shares no code with
what it proves.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

_GAPS: Final = re.compile("[ _]+")
_SPELT: Final = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ı": "i"})
# a word of a format may hold dots and hyphens: nobody is called White because a scanner says target.white.intensity
_WORD: Final = re.compile(r"[^\W_]+(?:[.-][^\W_]+)*")
_PIECE: Final = re.compile(r"[^\W_]+")


def fold(text: str) -> str:
    """Equal for what a person would call the same word or key: NFC, case-folded, trimmed, inner gaps as single spaces.
    Folding can leave a text decomposed, hence NFC twice."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    folded = text.casefold()
    return " ".join((folded if folded.isascii() else unicodedata.normalize("NFC", folded)).split())


def one_gap(key: str) -> str:
    """A folded key with every gap, underscores too, as one space: tables leave underscores in a patient's key where
    images have spaces, and it is one patient."""
    return _GAPS.sub(" ", key)


def without_marks(text: str) -> str:
    """Letters without the accents that stand on them."""
    if text.isascii():
        return text
    return "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))


def plain(text: str) -> str:
    """Case and accents aside; letters that carry no separate accent are spelt out as people type them. Taking a sign
    apart can leave capitals and such letters, hence both come after it."""
    return without_marks(text.casefold()).casefold().translate(_SPELT)


def canonical_name(path: str) -> str:
    """The last part of a path of either slash: NFC, trimmed, case-folded."""
    return unicodedata.normalize("NFC", path.replace("\\", "/").rpartition("/")[2]).strip().casefold()


class Vocabulary:
    """Listed phrases, met by whole words. A text is `in` it when each of its words is listed; a part of a
    listed word is none."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self.words = frozenset(word for phrase in phrases for word in _WORD.findall(fold(phrase)))
        self._joined = "\n".join(self.words)

    def __contains__(self, text: str) -> bool:
        found = _WORD.findall(fold(text))
        return bool(found) and all(word in self.words or self._is_compound(word) for word in found)

    def _is_compound(self, word: str) -> bool:
        return all(piece in self.words for piece in _PIECE.findall(word))

    def around(self, texts: Iterable[str]) -> frozenset[str]:
        """The listed words that hold one of these texts as a part: inside of these it is no trace of anybody."""
        folded = {text.casefold() for text in texts}
        inside = [text for text in folded if text in self._joined]
        return frozenset(word for word in self.words if any(text in word and text != word for text in inside))

    def repeats(self, text: str, removed: Iterable[str]) -> bool:
        """Whether a text says something that was removed elsewhere (folded), as more than a part of a listed word."""
        folded = text.casefold()
        return any(one in folded and one in _without(folded, self.around([one])) for one in removed)


def _without(text: str, words: Iterable[str]) -> str:
    """The text with these words, where they stand as whole ones, made blank."""
    some = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.sub(rf"(?<![^\W_])(?:{some})(?![^\W_])", " ", text) if some else text
