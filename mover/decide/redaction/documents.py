"""The desk of families that write their facts as XML into a tag: the document is pruned by a shape and written anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

from mover.decide.redaction.desk import HARVEST_STRINGS, STRUCTURAL, Desk
from mover.decide.redaction.markup import Shape, names_of, prune, render, values_of, without
from mover.decide.redaction.texts import MIN_HARVEST, strings_of
from mover.decide.redaction.words import OutTag, Redaction
from mover.errors import PlaceUnknown
from mover.model.slides import Page, Place, SlideScan
from mover.model.xmltext import Element, XmlText

INTEGER: Final = re.compile(r"-?[0-9]{1,9}")
NATURAL: Final = re.compile(r"[0-9]{1,9}")
SMALL: Final = re.compile(r"[0-9]{1,3}")
DECIMAL: Final = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,17})?")
VERSION: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,5}){1,4}")

_NUMBER: Final = re.compile(r"-?[0-9.]{1,24}")
# Kept on a page that stands blank: the resolution, and the colour profile that readers take from the first page.
_STAYS: Final = frozenset({282, 283, 296, 34675})
_BYTES: Final = 1
_TEXT: Final = 2


class DocumentDesk(Desk):
    """A family gives the shape of each root element it lists, and the fixed words of its output."""

    rules = STRUCTURAL
    shapes: ClassVar[Mapping[str, Shape]] = {}
    # enumerations and fixed texts; what was removed and is of their words proves nothing when it is found
    words: ClassVar[tuple[str, ...]] = ()

    def __init__(self, scan: SlideScan, known: Iterable[str]) -> None:
        super().__init__(scan, known)
        self.documents: dict[tuple[int, int], Element] = {}

    def judge(self) -> Redaction:
        dropped: list[str] = []
        for document in self.scan.documents:
            self.documents[document.page, document.tag] = self._pruned(document, dropped)
        numbers = {value for value in self._kept_values() if _NUMBER.fullmatch(value)}
        for text in dropped:
            for part in strings_of(text):
                # a dropped number that is part of one the picture's geometry needs (25000 in 25000000) proves nothing
                if not (_NUMBER.fullmatch(part) and any(part in number for number in numbers)):
                    self.harvest.setdefault(part)
        if len(self.harvest) > HARVEST_STRINGS:
            raise PlaceUnknown(f"more than {HARVEST_STRINGS} removed strings")
        return super().judge()

    def before(self, root: Element) -> Element:
        """What a family changes before pruning, where a listed value carries an unlisted part."""
        return root

    def _pruned(self, document: XmlText, dropped: list[str]) -> Element:
        """Raises PlaceUnknown when nothing of the document may stand."""
        where = f"page {document.page} tag {document.tag}"
        shape = self.shapes.get(document.root.name)
        if shape is None:
            raise PlaceUnknown(f"{where} holds another document than the family's")

        def on_drop(path: str, value: str, reason: str) -> None:
            self.note(f"{where} {path}", "drop", "X", reason, value)
            dropped.append(value)

        kept = prune(self.before(document.root), shape, on_drop)
        for text in document.strays:
            self.note(f"{where} comment", "drop", "X", "comments are not copied", text)
            dropped.append(text)
        if kept is None:
            raise PlaceUnknown(f"{where} holds nothing that may stand")
        kept = without(kept, shape, self.unwanted)
        self.note(where, "rebuild", "D", "listed elements and attributes with values of their types", "")
        return kept

    def _kept_values(self) -> set[str]:
        return {value for root in self.documents.values() for value in values_of(root)}

    def judge_own(self, page: Page, place: Place) -> bool:
        kept = self.documents.get((place.page, place.tag))
        if kept is not None:
            text = '<?xml version="1.0" encoding="UTF-8"?>' + render(kept)
            kind = _TEXT if place.kind == _TEXT else _BYTES
            self.tags[page.index].append(OutTag(place.tag, kind, text.encode() + b"\0" * (kind == _TEXT)))
            return True
        if page.index in self.blanks and place.tag in _STAYS and place.tag in self.rules:
            self.judge_tag(page, place)
            return True
        return False

    def drop_unless_structural(self, place: Place) -> None:
        if (place.page, place.tag) not in self.documents:
            super().drop_unless_structural(place)

    def phrases(self) -> Iterable[str]:
        names = (name for shape in self.shapes.values() for name in names_of(shape))
        return (*super().phrases(), *names, *self.words, *self.shapes)

    def close(self) -> Redaction:
        """What is kept of the documents is held against what was removed elsewhere."""
        removed = [text.casefold() for text in self.removed()]
        for value in self._kept_values():
            if len(value) >= MIN_HARVEST and self.vocabulary.repeats(value, removed):
                raise PlaceUnknown("a value the picture needs repeats something removed elsewhere")
        return super().close()
