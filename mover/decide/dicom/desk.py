"""The desk that judges one object's elements: facts in, what stands in the output out. No IO, no clock.

`Desk.element` answers for one element what takes its place, with the reason. The rule comes from `rules`, the value's
form from `values` and `codes`; here they meet the object's context: whose patient it is, which words name people, how
its bytes are ordered. Whatever the rule, a value in which a word of a person is found may not stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from mover.decide.dicom import codes, values
from mover.decide.dicom.rules import TEXT_KINDS, Judgements, Rule
from mover.decide.dicom.tables import kinds, registered
from mover.decide.dicom.vocabulary import TERMS, clean_descriptor, is_maker
from mover.decide.folding import plain
from mover.errors import PlaceUnknown
from mover.model.deid import DicomRules
from mover.model.dicom import Element, Items

LITERAL_BYTES: Final = 64 << 20
_REMEMBERED: Final = 50_000
_REMEMBERED_BYTES: Final = 256
_WRITTEN: Final = re.compile(
    rb"[ -~]{4}|(?:[ -~]\0){4}|(?:\0[ -~]){4}|(?:[\xc3-\xf4][\x80-\xbf]{1,3}){3}|(?:[^\0][\x03-\x06]){4}"
)
_NUMBER_LIKE: Final = frozenset("US SS UL SL SV UV FL FD AT OW UN".split())
_BYTES_LIKE: Final = frozenset("OB OW OF OD OL OV UN US SS".split())

Opened = Callable[[Element], Items]
Fetched = Callable[[Element], bytes]
# Whether bytes hold a word of a person or place in any encoding; the flag tells that they are digits only.
Holds = Callable[[bytes, bool], bool]


class Out(Struct, frozen=True):
    """What stands in the output. `value` is bytes, a tuple of items, or the element whose source range is copied."""

    tag: int
    vr: str
    value: bytes | tuple[tuple[Out, ...], ...] | Element


class Verdict(Struct, frozen=True):
    """`out` is None for what is left out. `reason` is one of the words of `REASONS`."""

    out: Out | None
    reason: str


REASONS: Final[dict[str, tuple[str, str]]] = {
    "kept": ("K", "listed for the class and of its allowed form"),
    "unlisted": ("X", "not listed for the class"),
    "private": ("X", "private"),
    "table": ("X", "removed by the confidentiality profile"),
    "form": ("X", "not of its allowed form"),
    "named": ("X", "holds a word that names somebody"),
    "emptied": ("Z", "emptied by the confidentiality profile"),
    "replaced": ("D", "replaced by a fixed word or an alias"),
    "uid": ("U", "replaced by this site's own UID"),
    "date": ("C", "moved by the patient's own number of days"),
    "time": ("X", "time of day"),
    "sequence": ("C", "cleaned item by item"),
    "descriptor": ("C", "only listed words stay"),
    "safe": ("K", "private, listed as safe by the profile"),
}


_LETTERS: Final = re.compile("[a-z]+")


class Context(Struct, frozen=True):
    """What an object is judged by, equal for all objects of one patient, class and study."""

    sop_class: str
    rules: DicomRules
    pseudonym: str
    offset_days: int
    number: str
    keys: Mapping[str, str]
    uids: Mapping[str, str]
    people: frozenset[str]
    places: frozenset[str]
    origin_s: int | None
    big_endian: bool


def folded(text: str) -> str:
    """Without case, accents and what no keyboard of the West has: how words are compared."""
    shown = plain(text)
    ascii_alone = shown.encode("ascii", "ignore").decode()
    return ascii_alone if ascii_alone.strip() else shown


class Desk:
    """Judges the elements of objects of one context. `key_of` makes the key of a case, block or slide; `opened` gives
    a sequence's items, `fetched` a long value's bytes; `holds` looks for the context's words in every encoding."""

    def __init__(
        self, context: Context, *, key_of: Callable[[str, str], str], opened: Opened, fetched: Fetched, holds: Holds
    ) -> None:
        self._context = context
        self._judgements = Judgements(context.sop_class, context.rules)
        self._key_of, self._opened, self._fetched, self._holds = key_of, opened, fetched, holds
        self._people = _searchable(context.people)
        self._named = (*self._people, *_searchable(context.places))
        self._named_long = tuple(word for word in self._named if len(word) >= 5)
        self._people_long = tuple(word for word in self._people if len(word) >= 5)
        # a surname of three or four letters counts as a whole word only: it is part of many others
        self._people_short = frozenset(
            part for word in context.people for part in _LETTERS.findall(folded(word)) if 3 <= len(part) <= 4
        )
        self._numbers = tuple(
            digits for word in context.people if len(digits := _digits(word)) >= 6 and len(set(digits)) > 2
        )
        self._safe = _safe(context.rules)
        self._seen: dict[tuple[int, str, bytes, bool], Verdict] = {}
        # One way per rule: what the rule means for a value.
        self._ways: dict[Rule, Callable[[Element, bytes, str], Verdict]] = {
            "empty": lambda element, raw, vr: Verdict(Out(element.tag, vr, b""), "emptied"),
            "dummy": self._dummy, "uid": self._uid, "date": self._date, "moment": self._moment, "time": self._time,
            "number": self._number, "measure": self._measure, "word": self._word, "open word": self._plain,
            "maker": self._maker, "term": self._term, "text": self._text, "age": self._age, "patient": self._patient,
            "name": self._patient, "case": self._case, "slide": self._slide, "block": self._block,
            "bytes": self._bytes, "descriptor": self._descriptor,
        }  # fmt: skip

    def element(self, element: Element, *, sparse: bool = False, creators: Mapping[int, str] | None = None) -> Verdict:
        """What takes the place of one element. Raises PlaceUnknown for a UID that has no replacement."""
        if element.tag >> 16 & 1:
            return self._private(element, creators or {})
        rule = self._judgements.rule(element.tag, sparse=sparse)
        if rule == "drop" or rule == "code":
            blank = element.tag == 0x00080100 and element.raw is not None and not element.raw.strip(b" \0")
            return Verdict(Out(element.tag, "SH", b""), "kept") if blank else Verdict(None, "unlisted")
        if rule in ("sequence", "sparse"):
            return self._sequence(element, sparse=rule == "sparse")
        if rule == "picture":
            return self._picture(element)
        raw = element.raw if element.raw is not None else self._fetch(element)
        return self._ways[rule](element, raw, kinds()[element.tag])

    # --- sequences and codes -------------------------------------------------------------------------

    def _sequence(self, element: Element, *, sparse: bool) -> Verdict:
        if element.vr not in ("SQ", "UN", ""):
            return Verdict(None, "form")
        person = element.tag in codes.PERSONS
        items = [self.item(one, sparse=sparse, person=person) for one in self._opened(element)]
        if sparse:
            items = [one for one in items if one]
        if not any(items) and (items or sparse):
            return Verdict(None, "table")
        return Verdict(Out(element.tag, "SQ", tuple(items)), "sequence")

    def item(self, elements: tuple[Element, ...], *, sparse: bool, person: bool) -> tuple[Out, ...]:
        """One item of a sequence, in ascending order; of a repeated tag the last counts, as for every reader."""
        creators = creators_of(elements)
        found: dict[int, Out] = {}
        for element in elements:
            verdict = self._again(element, sparse=sparse, creators=creators)
            if verdict.out is not None:
                found[element.tag] = verdict.out
            else:
                found.pop(element.tag, None)
        found |= {one.tag: one for one in self._code(elements, person=person)}
        return tuple(found[tag] for tag in sorted(found))

    def _again(self, element: Element, *, sparse: bool, creators: Mapping[int, str]) -> Verdict:
        """The items of an enhanced object repeat the same few values for each of its thousands of frames."""
        raw = element.raw
        if raw is None or len(raw) > _REMEMBERED_BYTES or creators:
            return self.element(element, sparse=sparse, creators=creators)
        key = (element.tag, element.vr, raw, sparse)
        found = self._seen.get(key)
        if found is None:
            found = self.element(element, sparse=sparse, creators=creators)
            if len(self._seen) < _REMEMBERED:
                self._seen[key] = found
        return found

    def _code(self, elements: tuple[Element, ...], *, person: bool) -> list[Out]:
        by_tag = {one.tag: (one.raw or b"").strip(b" \0") for one in elements if 0x00080100 <= one.tag <= 0x00080120}
        tag = next((one for one in (0x00080100, 0x00080119, 0x00080120) if by_tag.get(one)), None)
        if tag is None:
            return []
        value, scheme = by_tag[tag], by_tag.get(0x00080102, b"")
        public = codes.is_public(scheme)
        if not codes.fits(value, public=public and not person, person=person) or self._names(value):
            return []
        kind = kinds()[tag]
        out = [Out(tag, kind, values.even(value))]
        if 0x00080102 in by_tag:
            out.append(Out(0x00080102, "SH", values.even(scheme) if public else codes.PRIVATE_SCHEME))
        if 0x00080104 in by_tag:
            told = codes.meaning_of(scheme.decode("latin-1"), value.decode("latin-1")) if public else codes.MEANING
            out.append(Out(0x00080104, "LO", values.even(told.encode())))
        return out

    # --- values --------------------------------------------------------------------------------------

    def _fetch(self, element: Element) -> bytes:
        if element.length > LITERAL_BYTES:
            raise PlaceUnknown(f"an attribute of more than {LITERAL_BYTES} bytes that is no picture")
        return self._fetched(element)

    def _names(self, raw: bytes) -> bool:
        """Whether a word of a person, or of a place, is in it; listed words of the trade are nobody's."""
        text = folded(raw.decode("latin-1"))
        if self._has_short(text) or any(word in text for word in self._named) or self._holds(raw, False):
            return raw.decode("latin-1") not in TERMS
        return False

    def _has_short(self, text: str) -> bool:
        return any(part in self._people_short and part not in TERMS for part in _LETTERS.findall(text))

    def _checked(self, element: Element, vr: str, raw: bytes | None, *, reason: str = "kept") -> Verdict:
        if raw is None:
            return Verdict(None, "form")
        return Verdict(None, "named") if self._names(raw) else Verdict(Out(element.tag, vr, raw), reason)

    def _dummy(self, element: Element, raw: bytes, vr: str) -> Verdict:
        word = _DUMMIES.get(vr)
        return Verdict(Out(element.tag, vr, word), "replaced") if word is not None else Verdict(None, "table")

    def _uid(self, element: Element, raw: bytes, vr: str) -> Verdict:
        found = []
        for one in raw.decode("latin-1").split("\\"):
            uid = one.strip(" \0")
            found.append(uid if not uid or uid in registered() or self._context.rules.retain_uids else self._alias(uid))
        return Verdict(Out(element.tag, "UI", values.even("\\".join(found).encode("ascii"), b"\0")), "uid")

    def _alias(self, uid: str) -> str:
        alias = self._context.uids.get(uid)
        if alias is None:
            raise PlaceUnknown("a UID that has no replacement")
        return alias

    def _date(self, element: Element, raw: bytes, vr: str) -> Verdict:
        moved = values.shift_dates(raw, self._context.offset_days) if self._context.rules.dates == "shift" else None
        return Verdict(Out(element.tag, vr, moved or b""), "date" if moved else "emptied")

    def _moment(self, element: Element, raw: bytes, vr: str) -> Verdict:
        context = self._context
        if context.rules.dates != "shift":
            return Verdict(None, "table")
        moved = values.shift_moments(raw, context.offset_days, context.origin_s)
        return Verdict(Out(element.tag, vr, moved) if moved else None, "date" if moved else "form")

    def _time(self, element: Element, raw: bytes, vr: str) -> Verdict:
        moved = values.rebase_times(raw, self._context.origin_s)
        if moved is None and element.tag in (0x00080030, 0x00080033):  # Study Time, Content Time are of type 2
            return Verdict(Out(element.tag, vr, b""), "emptied")
        return Verdict(Out(element.tag, vr, moved) if moved else None, "time")

    def _number(self, element: Element, raw: bytes, vr: str) -> Verdict:
        written = vr if element.vr in ("", "UN") else element.vr
        if written not in _NUMBER_LIKE or not values.whole(written, raw):
            return Verdict(None, "form")
        if self._numbers and written in ("UL", "SL", "UV", "SV", "FL", "FD") and len(raw) <= 4096:
            told = values.numbers_of(written, raw, big=self._context.big_endian)
            if any(one.startswith(self._numbers) for one in told if len(one) >= 6):
                return Verdict(None, "named")
        if looks_written(raw) and self._holds(raw, False):
            return Verdict(None, "named")
        return Verdict(Out(element.tag, written, raw), "kept")

    def _measure(self, element: Element, raw: bytes, vr: str) -> Verdict:
        kept = values.measure(raw)
        if kept is not None and self._holds(raw, True):
            return Verdict(None, "named")
        return Verdict(Out(element.tag, vr, kept) if kept is not None else None, "kept" if kept is not None else "form")

    def _word(self, element: Element, raw: bytes, vr: str) -> Verdict:
        return self._checked(element, vr, values.word(raw))

    def _plain(self, element: Element, raw: bytes, vr: str) -> Verdict:
        return self._checked(element, vr, values.open_word(raw))

    def _maker(self, element: Element, raw: bytes, vr: str) -> Verdict:
        """Needed unchanged. A maker's own name may well stand as the institution's, and a short word in it."""
        kept = values.maker(raw)
        if kept is None:
            return Verdict(None, "form")
        text = folded(kept.decode("latin-1"))
        made = is_maker(kept)
        named = any(word in text for word in (self._people_long if made else self._named_long))
        named = named or (not made and (self._has_short(text) or self._holds(kept, False)))
        return Verdict(None, "named") if named else Verdict(Out(element.tag, vr, kept), "kept")

    def _term(self, element: Element, raw: bytes, vr: str) -> Verdict:
        return self._checked(element, vr, values.term(raw))

    def _text(self, element: Element, raw: bytes, vr: str) -> Verdict:
        """What an option keeps as it is. Words of people are no part of a device or an institution."""
        text = folded(raw.decode("latin-1"))
        if not raw.isascii() or any(word in text for word in self._people):
            return Verdict(None, "named")
        return Verdict(Out(element.tag, vr, raw), "kept")

    def _age(self, element: Element, raw: bytes, vr: str) -> Verdict:
        return self._checked(element, vr, values.age(raw))

    def _descriptor(self, element: Element, raw: bytes, vr: str) -> Verdict:
        cleaned = values.even(clean_descriptor(raw.decode("latin-1")).encode())
        return self._checked(element, vr, cleaned or None, reason="descriptor")

    def _bytes(self, element: Element, raw: bytes, vr: str) -> Verdict:
        return Verdict(None, "named") if self._names(raw) else Verdict(Out(element.tag, vr, raw), "kept")

    def _picture(self, element: Element) -> Verdict:
        vr = kinds()[element.tag] if element.vr in ("", "UN") else element.vr
        if vr not in _BYTES_LIKE:
            return Verdict(None, "form")
        if element.raw is not None and looks_written(element.raw) and self._holds(element.raw, False):
            return Verdict(None, "named")
        return Verdict(Out(element.tag, vr, element if element.raw is None else element.raw), "kept")

    # --- identifiers ---------------------------------------------------------------------------------

    def _patient(self, element: Element, raw: bytes, vr: str) -> Verdict:
        return Verdict(Out(element.tag, vr, values.even(self._context.pseudonym.encode())), "replaced")

    def _case(self, element: Element, raw: bytes, vr: str) -> Verdict:
        alias = self._entity("case", raw)[:16]  # SH holds 16 characters; a number's 17th only checks the others
        return Verdict(Out(element.tag, vr, values.even(alias.encode())), "replaced")

    def _slide(self, element: Element, raw: bytes, vr: str) -> Verdict:
        alias = self._entity("slide", raw) or self._context.number or self._context.pseudonym
        return Verdict(Out(element.tag, vr, values.even(alias.encode())), "replaced")

    def _block(self, element: Element, raw: bytes, vr: str) -> Verdict:
        alias = self._entity("block", raw) or self._context.number or self._context.pseudonym
        return Verdict(Out(element.tag, vr, values.even(alias.encode())), "replaced")

    def _entity(self, kind: str, raw: bytes) -> str:
        """The alias of what the value names, in whichever encoding it was surveyed."""
        for codec in ("utf-8", "latin-1"):
            try:
                text = raw.decode(codec).strip(" \0")
            except UnicodeDecodeError:
                continue
            if text and (alias := self._context.keys.get(self._key_of(kind, text))):
                return alias
        return ""

    # --- private elements ----------------------------------------------------------------------------

    def _private(self, element: Element, creators: Mapping[int, str]) -> Verdict:
        """Only what the profile lists by creator, only numbers and plain words (option 113111)."""
        group, low = element.tag >> 16, element.tag & 0xFF
        creator = creators.get(group << 16 | element.tag >> 8 & 0xFF, "")
        is_creator = 0x10 <= element.tag & 0xFFFF <= 0xFF
        if is_creator:
            name = (element.raw or b"").decode("latin-1").strip(" \0")
            listed = any(one[0] == name and one[1] == group for one in self._safe)
            kept = Out(element.tag, "LO", element.raw or b"") if listed else None
            return Verdict(kept, "safe" if listed else "private")
        if (creator, group, low) not in self._safe or element.raw is None:
            return Verdict(None, "private")
        if element.vr in ("US", "SS", "UL", "SL", "FL", "FD"):
            verdict = self._number(element, element.raw, element.vr)
        elif element.vr in ("DS", "IS"):
            verdict = self._measure(element, element.raw, element.vr)
        else:
            text = values.term(element.raw) if element.vr in ("CS", "LO", "SH") else None
            verdict = self._checked(element, element.vr, text)
        return Verdict(verdict.out, "safe" if verdict.out else "private")


_DUMMIES: Final = {
    "LO": b"REMOVED ", "SH": b"REMOVED ", "ST": b"REMOVED ", "LT": b"REMOVED ", "UT": b"REMOVED ", "UC": b"REMOVED ",
    "PN": b"ANONYMOUS ", "CS": b"REMOVED ", "DS": b"0 ", "IS": b"0 ", "AE": b"REMOVED ",
}  # fmt: skip


def looks_written(raw: bytes) -> bool:
    """Whether binary numbers could be letters: in one byte, or in two of which one is zero, or beyond ASCII."""
    return _WRITTEN.search(raw) is not None


def creators_of(elements: tuple[Element, ...]) -> dict[int, str]:
    """Private creators by group and block."""
    return {
        one.tag >> 16 << 16 | one.tag & 0xFF: (one.raw or b"").decode("latin-1").strip(" \0")
        for one in elements
        if one.tag >> 16 & 1 and 0x10 <= one.tag & 0xFFFF <= 0xFF
    }


def _safe(rules: DicomRules) -> frozenset[tuple[str, int, int]]:
    """(creator, group, low byte) of every private element that may stay."""
    found = set()
    for one in rules.safe_private:
        for element in one.elements:
            group, _, low = element.lower().partition(",")
            found.add((one.creator, int(group, 16), int(low.removeprefix("xx"), 16)))
    return frozenset(found)


def _searchable(words: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted({shape for word in words if len(shape := folded(word.strip())) >= 4}))


def _digits(text: str) -> str:
    return "".join(one for one in text if "0" <= one <= "9")


__all__ = ["TEXT_KINDS", "Context", "Desk", "Out", "Verdict", "creators_of"]
