"""One graph of patients, cases, blocks and slides over all images and tables of the folder.

Keys named together in one file or one row are tied. From it come the subject of a row or file that names no patient
itself, and the words every file of a patient is searched for: what one table knows of a patient is sought in each of
the patient's slides.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from typing import Final

from mover.decide.filenames import may_name, telling
from mover.decide.kinship import kinship, words_by_patient
from mover.deid.identity import ENTITIES, Identity, entity_key

# of one file's dictionary: a knot of wrong rows may tie half a hospital together, and is not followed to its end
WORDS_PER_FILE: Final = 4000
KEYS_PER_FILE: Final = 400
# a folder with few words lets every file be searched for all of them
WORDS_FOR_ALL: Final = 400
# of all: more would not fit a machine beside its work, and a folder that has them is no folder for this command
WORDS_KEPT: Final = 2_000_000
_DIGITS: Final = re.compile("[0-9]{5,}")


class Graph:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ties: dict[str, set[str]] = {}
        self._words: dict[str, dict[str, None]] = {}
        self._all: dict[str, None] = {}
        self._times: set[str] = set()
        self._folded: set[str] = set()
        self._rows: dict[tuple[str, ...], None] = {}
        self._spoken: dict[str, dict[str, None]] = {}
        self.patient_of: dict[str, str] = {}

    def add(self, identity: Identity, extra: Iterable[str] = ()) -> None:
        """What one file or one row says. Only its first patient is tied to the rest: a second one (a referral, a
        mother) is nobody whom the file belongs to. `extra` keys, read from names, tie words but settle no kinship."""
        words = dict.fromkeys(telling(identity.words))
        with self._lock:
            own = (*identity.of("patient")[:1], *(key for key in identity.entities if not key.startswith("patient|")))
            self._rows.setdefault(own)
            if len(self._times) < WORDS_KEPT:
                self._times.update(identity.times)
            if len(self._all) < WORDS_KEPT:
                self._spoken.setdefault(own[0] if own else "", {}).update(dict.fromkeys(identity.words))
            keys = (*own, *extra)
            for key in keys:
                self._ties.setdefault(key, set()).update(other for other in keys if other != key)
                self._remember(key, words)
            for key in identity.entities:
                self._ties.setdefault(key, set())
            if not keys:
                self._remember("", words)

    def _remember(self, key: str, words: dict[str, None]) -> None:
        if len(self._all) < WORDS_KEPT:
            self._words.setdefault(key, {}).update(words)
            self._all.update(words)
            self._folded.update(word.casefold() for word in words)

    def keys(self) -> list[str]:
        return list(self._ties)

    def known_word(self, word: str) -> bool:
        """Whether some file or row holds it as a name or number."""
        return word.casefold() in self._folded

    def keys_in(self, name_words: Iterable[str]) -> list[str]:
        """Keys that the words of a file's name spell out: the case in `D19-293983_1`, the patient in a folder."""
        found: dict[str, None] = {}
        for word in name_words:
            for kind in ENTITIES:
                key = entity_key(kind, word)
                if key in self._ties:
                    found.setdefault(key)
        return list(found)

    def words(self, keys: Iterable[str]) -> tuple[str, ...]:
        """All words known of whoever these keys belong to, and in a small folder all there are."""
        found: dict[str, None] = {}
        for key in self._near(keys):
            found.update(self._words.get(key, {}))
            if len(found) > WORDS_PER_FILE:
                break
        if len(self._all) <= WORDS_FOR_ALL:
            found.update(dict.fromkeys(word for word in self._all if len(word) >= 8 and may_name(word)))
        return tuple(found)[:WORDS_PER_FILE]

    def _near(self, keys: Iterable[str]) -> Iterator[str]:
        """Breadth first from the keys themselves, so that the nearest are taken before a bound is met."""
        wave = [key for key in dict.fromkeys(keys) if key in self._ties]
        seen = set(wave)
        while wave and len(seen) <= KEYS_PER_FILE:
            yield from wave
            wave = list(dict.fromkeys(other for key in wave for other in sorted(self._ties[key]) if other not in seen))
            seen.update(wave)

    def settle(self) -> None:
        """After the last `add`: whose case, block or slide each is, where all sources agree on one patient. What no
        patient is known of belongs to nobody by name, one nobody for each case: its dates move together. What two
        patients claim belongs to none."""
        with self._lock:
            found = kinship(self._rows)
            self.patient_of = dict(found.patient_of)
            torn = set(found.torn)
            for key in self._ties:
                if not key.startswith("patient|") and key not in found.patient_of and key not in torn:
                    self._own_by_nobody(key)

    def _own_by_nobody(self, key: str) -> None:
        cases = {other for other in (key, *self._ties[key]) if other.startswith("case|")}
        if len(cases) < 2:
            # no text makes such a key: what entity_key folds never begins with a space
            self.patient_of[key] = f"patient| {cases.pop() if cases else key}"

    def digits(self) -> Iterator[str]:
        """Runs of digits that are somebody's: parts of record numbers, ZIP codes, telephones; times of examinations."""
        groups: list[Iterable[str]] = [self._ties, *self._spoken.values()]
        for words in groups:
            for word in words:
                yield from _DIGITS.findall(word)
        yield from sorted(self._times)

    def words_by_patient(self) -> dict[str, tuple[str, ...]]:
        """All that is known of each patient, "" what belongs to nobody, for free text in tables."""
        return words_by_patient([{key: tuple(words) for key, words in self._spoken.items()}], self.patient_of)
