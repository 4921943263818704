"""What was decided about the places of a slide of several files, and the harvest of everything dropped."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import msgspec
from msgspec import Struct

from mover.decide.folding import Vocabulary
from mover.decide.redaction.desk import HARVEST_STRINGS
from mover.decide.redaction.texts import SCANNER_WORDS, shape_of, strings_of
from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.folders import KeySection, KeyText
from mover.model.slides import Decision, Value

Rule = re.Pattern[str]
WORDS_OF_A_TEXT: Final = 500
WHOLE: Final = re.compile(r"[0-9]{1,9}")
DECIMAL: Final = re.compile(r"-?[0-9]{1,7}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?")
_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,9}|[-+]?[0-9]{1,7}\.[0-9]{1,20}")


class FolderRedaction(Struct, frozen=True):
    """The output's index text, section by section, and what may not be found in any byte of the output."""

    decisions: tuple[Decision, ...]
    sections: tuple[KeySection, ...]
    removed: tuple[str, ...]
    around: tuple[str, ...] = ()


class Ledger:
    def __init__(self, known: Iterable[str]) -> None:
        self.decisions: dict[Decision, int] = {}
        self.harvest: dict[str, None] = {}
        # (section, key) of the output whose values stand in the source, and whether the picture needs them
        self.copied: dict[tuple[str, str], bool] = {}
        for text in known:
            self.remove(text)
        self.known = frozenset(self.harvest)

    def note(
        self, place: str, action: Literal["keep", "drop", "rebuild"], code: Literal["K", "X", "Z", "D", "C"],
        reason: str, value: Value | str = "", times: int = 1,
    ) -> None:  # fmt: skip
        decision = Decision(place, action, code, reason, shape_of(value))
        self.decisions[decision] = self.decisions.get(decision, 0) + times

    def remove(self, value: Value | str) -> None:
        for text in strings_of(value):
            if len(self.harvest) >= HARVEST_STRINGS:
                raise PlaceUnknown(f"more than {HARVEST_STRINGS} removed strings")
            self.harvest.setdefault(text)

    def remove_some(self, value: bytes) -> None:
        """Of a long text that is dropped as a whole (a profile, a list of measures), its first words: what names a
        person stands in many places, and a search for a million numbers ends nowhere."""
        for count, text in enumerate(strings_of(value)):
            if count >= WORDS_OF_A_TEXT or len(self.harvest) >= HARVEST_STRINGS // 2:
                return
            self.harvest.setdefault(text)

    def drop(self, place: str, reason: str, value: Value | str) -> None:
        self.note(place, "drop", "X", reason, value)
        self.remove(value)

    def keep(
        self, text: KeyText, section: str, rules: dict[str, Rule], place: str, vital: Collection[str] = (),
        *, written: str = "",
    ) -> list[tuple[str, str]]:  # fmt: skip
        """The listed keys of a section whose values are of their type, in the list's order; `written` is what the
        section is called in the output. A vital one that is not is a refusal."""
        kept = []
        for key, rule in rules.items():
            value = text.get(section, key)
            if value is not None and rule.fullmatch(value):
                kept.append((key, value))
                self.copied[(written or section, key)] = key in vital
                self.note(f"{place} key {key}", "keep", "K", "a listed key with a value of its type")
            elif key in vital:
                raise StructureInvalid(f"{place} lacks key {key}, or its value is outside its type")
        return kept

    def drop_others(self, text: KeyText, kept: Mapping[str, Collection[str]], place: str, own: Collection[str]) -> None:
        """Every line that is not kept, and what is no line: values join the harvest, and keys that nobody lists."""
        for line in text.lines:
            if line.key in kept.get(line.section, ()) and text.get(line.section, line.key) == line.value:
                continue
            listed = line.key in own
            self.drop(f"{place} key {line.key if listed else '(unlisted)'}", "not on the allow-list", line.value)
            if not listed:
                self.remove(line.key)
        for section in text.sections:
            if section not in kept and section not in own:
                self.drop(f"{place} section", "not on the allow-list", section)
        for words in text.rest:
            self.drop(f"{place} line", "no key and value", words)

    def close(
        self, sections: tuple[KeySection, ...], *, names: Iterable[str] = (), made: Collection[str] = ()
    ) -> FolderRedaction:
        """Words that the writer itself puts into an index text or the names of files (`names`) prove nothing when they
        are found; nor does a number that is kept because the picture needs it. What came from outside as an identifier
        counts in any case, and a text that must stay may not repeat it. Values of the keys in `made` are random: what
        they hold by chance counts as well."""
        copied = {value.casefold() for one in sections for key, value in one.lines if (one.name, key) in self.copied}
        fixed = [f"[{one.name}]\n{key}" for one in sections for key, _ in one.lines]
        for one in sections:
            fixed += [value for key, value in one.lines if (one.name, key) not in self.copied and key not in made]
        own = Vocabulary([*SCANNER_WORDS, *fixed, *names])
        kept = Vocabulary(value for value in copied if not _NUMBER.fullmatch(value))
        removed = tuple(
            text for text in self.harvest
            if text not in own and (text in self.known or not (text in kept or text.casefold() in copied))
        )  # fmt: skip
        listed = Vocabulary([*own.words, *(word for word in kept.words if word.isalpha())])
        folded = [text.casefold() for text in removed]
        sections = tuple(self._without_repetitions(one, folded, listed) for one in sections)
        decisions = (msgspec.structs.replace(one, times=times) for one, times in self.decisions.items())
        return FolderRedaction(tuple(decisions), sections, removed, tuple(sorted(listed.around(removed))))

    def _without_repetitions(self, section: KeySection, removed: list[str], listed: Vocabulary) -> KeySection:
        """What repeats something removed is dropped, or refused where the picture needs it."""
        lines = []
        for key, value in section.lines:
            vital = self.copied.get((section.name, key))
            if vital is None or not listed.repeats(value, removed):
                lines.append((key, value))
                continue
            if vital:
                raise PlaceUnknown("a value the picture needs repeats something removed elsewhere")
            self.note(f"index text key {key}", "drop", "X", "repeats something removed elsewhere", value)
        return KeySection(section.name, tuple(lines))
