"""The desk on which a slide's places are judged: what every family shares.

A family is a subclass in a module of its own. It says which tags and keys it lists (`rules`, `keys`), judges the
places that are its own (`judge_own`), and writes its texts anew (`describe`). Everything not listed is dropped here,
so a family can forget to allow something but not to forbid it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import ClassVar, Final

import msgspec

from mover.decide.folding import Vocabulary
from mover.decide.redaction import icc
from mover.decide.redaction.blanks import blank_tags
from mover.decide.redaction.jpegtables import clean_tables
from mover.decide.redaction.texts import SCANNER_WORDS, decode_text, shape_of, strings_of
from mover.decide.redaction.words import OutPage, OutTag, Redaction
from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.slides import Decision, Page, Place, SlideScan, Value

HARVEST_STRINGS: Final = 20_000

Check = Callable[[Value], bool]


# --- typed values ------------------------------------------------------------------------------------


def among(*allowed: int) -> Check:
    return lambda value: bool(value) and all(item in allowed for item in value)


def within(low: float, high: float) -> Check:
    return lambda value: len(value) == 1 and low <= value[0] <= high


def resolution(value: Value) -> bool:
    """Pixels per centimetre or inch, as a fraction; a slide has at most 0.05 micrometres per pixel."""
    return len(value) == 2 and value[0] > 0 and value[1] > 0 and 0 < value[0] / value[1] <= 200_000


def black_white(value: Value) -> bool:
    return len(value) in (6, 12) and all(0 <= item <= 255 for item in value)


def anything(value: Value) -> bool:
    return len(value) > 0


SAMPLES: Final = among(1, 3, 4)
STRUCTURAL: Final[dict[int, tuple[int, Check]]] = {
    254: (4, among(0, 1)),  # NewSubfileType
    258: (3, among(8, 16)),  # BitsPerSample
    259: (3, among(7, 33003, 33005)),  # Compression
    262: (3, among(0, 1, 2, 6)),  # PhotometricInterpretation
    274: (3, among(1)),  # Orientation
    277: (3, SAMPLES),  # SamplesPerPixel
    282: (5, resolution),  # XResolution
    283: (5, resolution),  # YResolution
    284: (3, among(1)),  # PlanarConfiguration
    296: (3, among(1, 2, 3)),  # ResolutionUnit
    317: (3, among(1, 2)),  # Predictor
    339: (3, among(1)),  # SampleFormat
    347: (7, anything),  # JPEGTables: judged by its own rule below
    530: (3, among(1, 2, 4)),  # YCbCrSubSampling
    531: (3, among(1, 2)),  # YCbCrPositioning
    532: (5, black_white),  # ReferenceBlackWhite
    32997: (4, among(1)),  # ImageDepth
    34675: (7, anything),  # ICC profile: judged by its own rule below
}
ICC: Final = 34675
JPEG_TABLES: Final = 347
ESSENTIAL: Final = frozenset({258, 259, 262, 277, 347, 65420, 65421})


def decimal(digits: int, fraction: int = 6) -> re.Pattern[str]:
    return re.compile(rf"-?[0-9]{{1,{digits}}}(\.[0-9]{{1,{fraction}}})?")  # never \d: that is any script's digits


class Desk:
    """Collects decisions, output tags and the harvest of one slide."""

    # tag -> TIFF type and check of the value
    rules: ClassVar[Mapping[int, tuple[int, Check]]] = STRUCTURAL
    # what a tag means where it is absent (TIFF 6.0), for families whose writers leave it out
    defaults: ClassVar[Mapping[int, int]] = {}
    # tags whose text is taken apart into keys by the scanner, and the keys each may keep
    keys: ClassVar[Mapping[int, Mapping[str, re.Pattern[str]]]] = {}
    # keys without which the picture is of no use: losing one is a refusal
    vital: ClassVar[frozenset[str]] = frozenset()

    # listed keys that a profile does not want, case-folded
    unwanted: frozenset[str] = frozenset()

    def __init__(self, scan: SlideScan, known: Iterable[str]) -> None:
        self.scan = scan
        self.decisions: dict[Decision, int] = {}
        self.tags: dict[int, list[OutTag]] = {}
        self.texts: dict[int, list[tuple[Place, str]]] = {}
        self.profiles: dict[int, bytes] = {}
        self.harvest: dict[str, None] = {}
        self.blanks: set[int] = set()
        for text in known:
            self.remove(text)
        self.places: dict[int, list[Place]] = {}
        for place in scan.places:
            self.places.setdefault(place.page, []).append(place)

    # -- what a family says

    def judge_own(self, page: Page, place: Place) -> bool:
        """Judge a place only this family has; False leaves it to the common rules."""
        return False

    def describe(self, page: Page, kept: dict[str, str], header: str) -> OutTag | None:
        """The level's text, written anew from structure and the keys that were kept."""
        return None

    def thumbnail(self, removed: list[str]) -> OutPage | None:
        """The directory of a picture to be drawn from the levels, where the family's readers expect one."""
        return None

    def stands(self, page: Page) -> bool:
        """Whether a page that is no level must stay in its place, blank: readers count on it."""
        return False

    def own_words(self) -> frozenset[str]:
        """Strings the writer itself puts into this output, which prove nothing when they are found."""
        return frozenset(
            text for page in self.scan.levels
            for text in (f"{page.width}", f"{page.height}", f"{page.width}x{page.height}")
        )  # fmt: skip

    def phrases(self) -> Iterable[str]:
        """Fixed texts of scanners and of the writer: words that prove nothing wherever they are found."""
        return SCANNER_WORDS

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.phrases())

    def text_rule(self, tag: int) -> re.Pattern[str] | None:
        """The form in which a text tag may be kept, where the family lists one."""
        return None

    def harvests(self, place: Place) -> bool:
        """Whether a dropped value says anything: a vendor's numbers (focus points, lamp hours) do not."""
        return True

    # -- judging

    def judge(self) -> Redaction:
        for page in self.scan.pages:
            if page.role == "level":
                self.judge_level(page)
            elif self.stands(page):
                self.judge_blank(page)
            else:
                self.drop_page(page)
        if self.scan.slack:
            self.note("file slack", "drop", "X", "bytes outside every structure are never copied", "")
        return self.close()

    def note(self, place: str, action: str, code: str, reason: str, value: Value | str) -> None:
        decision = Decision(place, action, code, reason, shape_of(value))  # type: ignore[arg-type]
        self.decisions[decision] = self.decisions.get(decision, 0) + 1

    def remove(self, value: Value | str) -> None:
        for text in strings_of(value):
            if len(self.harvest) >= HARVEST_STRINGS:
                raise PlaceUnknown(f"more than {HARVEST_STRINGS} removed strings")
            self.harvest.setdefault(text)

    def remove_icc_text(self, text: str) -> None:
        """The whole, and its words but colour management's own: those stay in other texts of the profile."""
        whole = " ".join(text.split())
        if len(whole) >= 5:
            self.harvest.setdefault(whole[:4096])
        for word in icc.unknown_words(text):
            self.remove(word)

    def drop_page(self, page: Page) -> None:
        self.note(f"page {page.index} ({page.role})", "drop", "X", "only levels pass; this picture is not copied", "")
        for place in self.places.get(page.index, ()):
            if place.key or place.tag not in self.keys:
                self.drop_unless_structural(place)

    def judge_blank(self, page: Page) -> None:
        """The page stands with tags written anew and white pixels; what its own tags say is dropped or, where the
        family reads keys from them (`judge_own`), judged as a level's are."""
        self.note(f"page {page.index} ({page.role})", "rebuild", "D", "readers need the page; its picture is blank", "")
        self.tags[page.index] = list(blank_tags(page, self.places.get(page.index, ())))
        self.texts[page.index] = []
        self.blanks.add(page.index)
        for place in self.places.get(page.index, ()):
            if place.tag in self.keys:
                self.judge_place(page, place)
            elif not self.judge_own(page, place):
                self.drop_unless_structural(place)

    def judge_level(self, page: Page) -> None:
        self.tags[page.index] = [OutTag(256, 4, (page.width,)), OutTag(257, 4, (page.height,))]
        if page.tile_width:
            self.tags[page.index] += [OutTag(322, 4, (page.tile_width,)), OutTag(323, 4, (page.tile_height,))]
        self.texts[page.index] = []
        for place in self.places.get(page.index, ()):
            self.judge_place(page, place)
        told = {tag.code for tag in self.tags[page.index]} | {place.tag for place in self.places.get(page.index, ())}
        self.tags[page.index] += [
            OutTag(code, 3, (value,)) for code, value in self.defaults.items() if code not in told
        ]
        missing = {258, 259, 262, 277} - {tag.code for tag in self.tags[page.index]}
        if missing:
            raise StructureInvalid(f"a level lacks tag {min(missing)}")

    def judge_place(self, page: Page, place: Place) -> None:
        if place.tag in (256, 257, 322, 323) or (place.tag in self.keys and not place.key):
            return
        if self.judge_own(page, place):
            return
        if place.tag in self.keys:
            self.judge_key(place)
        elif place.tag in self.rules:
            self.judge_tag(page, place)
        else:
            self.note(place.name, "drop", "X", "not on the allow-list", place.value)
            self.harvest_tag(place)

    def harvest_tag(self, place: Place) -> None:
        if isinstance(place.value, bytes) or self.harvests(place):
            self.remove(place.value)

    def judge_tag(self, page: Page, place: Place) -> None:
        kind, check = self.rules[place.tag]
        numeric = not isinstance(place.value, bytes)
        if (kind == 7) == numeric or not check(place.value):
            if place.tag in ESSENTIAL:
                raise PlaceUnknown(f"{place.name} holds a value outside its type")
            self.note(place.name, "drop", "X", "listed, but the value is outside its type", place.value)
            self.remove(place.value)
            return
        value = place.value
        if place.tag == ICC and isinstance(value, bytes):
            self.profiles[page.index] = value
            for text in icc.clean_icc(value)[1]:
                self.remove_icc_text(text)
            return
        if place.tag == JPEG_TABLES and isinstance(value, bytes):
            self.judge_tables(page, place, value)
            return
        if place.tag == 532:
            kind = place.kind if place.kind in (4, 5) else kind
        self.tags[page.index].append(OutTag(place.tag, kind, value))
        self.note(place.name, "keep", "K", "structure of the picture", "")

    def judge_tables(self, page: Page, place: Place, value: bytes) -> None:
        if page.compression != 7:
            self.note(place.name, "drop", "X", "tables of a coding the page does not use", value)
            self.remove(value)
            return
        cleaned, dropped = clean_tables(value)
        self.tags[page.index].append(OutTag(JPEG_TABLES, 7, cleaned))
        if not dropped:
            self.note(place.name, "keep", "K", "structure of the picture", "")
        for payload in dropped:
            self.note(place.name, "rebuild", "D", "tables are kept, other segments are taken out", payload)
            self.remove(payload)

    def judge_key(self, place: Place) -> None:
        keys = self.keys[place.tag]
        text = decode_text(place.value)
        named = f"{place.name} key {place.key if place.key in keys else '(unlisted)'}"
        pattern = keys.get(place.key)
        if pattern is not None and pattern.fullmatch(text) and place.key.casefold() in self.unwanted:
            # no identifier, so it is not sought: a number of the picture may stand in its tags as well
            self.note(named, "drop", "X", "listed, but not wanted by the profile", text)
            return
        if pattern is not None and pattern.fullmatch(text):
            self.texts[place.page].append((place, text))
            self.note(named, "keep", "K", "a listed key with a value of its type", "")
            return
        reason = "not on the allow-list" if pattern is None else "listed, but the value is outside its type"
        self.note(named, "drop", "X", reason, text)
        self.remove(place.value)
        if pattern is None:
            self.remove(place.key)

    def drop_unless_structural(self, place: Place) -> None:
        """A dropped page leaves nothing, but its texts join the harvest. Its structural numbers do not."""
        if place.tag in self.rules or place.tag in (256, 257, 278, 322, 323):
            return
        keys = self.keys.get(place.tag, {})
        pattern = keys.get(place.key) or self.text_rule(place.tag)
        if pattern is not None and pattern.fullmatch(decode_text(place.value)):
            return
        self.harvest_tag(place)
        if place.key and place.key not in keys:
            self.remove(place.key)

    # -- closing: texts are written, and what was kept is held against what was removed

    def close(self) -> Redaction:
        removed = self.removed()
        folded = [text.casefold() for text in removed]
        thumbnail = self.thumbnail(folded)
        pages = self._out_pages(-1, folded)
        decisions = (msgspec.structs.replace(decision, times=times) for decision, times in self.decisions.items())
        around = tuple(sorted(self.vocabulary.around(removed)))
        return Redaction(tuple(decisions), pages, removed, thumbnail, around)

    def _out_pages(self, parent: int, removed: list[str]) -> tuple[OutPage, ...]:
        """Levels and blank pages of the main chain, each with those of its SubIFDs that pass."""
        pages = []
        for page in self.scan.pages:
            if page.parent != parent or page.index not in self.tags:
                continue
            text = self._description(page, removed)
            tags = self.tags[page.index] + ([text] if text is not None else []) + self._profile(page, removed)
            children = self._out_pages(page.index, removed)
            ordered = tuple(sorted(tags, key=lambda tag: tag.code))
            pages.append(OutPage(page.index, ordered, page.index in self.blanks, children))
        return tuple(pages)

    def removed(self) -> tuple[str, ...]:
        own = self.own_words()
        kept = [text.casefold() for profile in self.profiles.values() for text in icc.known_texts(profile)]
        return tuple(
            text for text in self.harvest
            if text not in own and text not in self.vocabulary and not self._is_of_profile(text, kept)
        )  # fmt: skip

    @staticmethod
    def _is_of_profile(text: str, kept: list[str]) -> bool:
        """A removed word that is colour management's own, and stands in a text of the profile that is kept."""
        return icc.is_known(text) and any(text.casefold() in one for one in kept)

    def _profile(self, page: Page, removed: list[str]) -> list[OutTag]:
        """Judged last, because a text of it may repeat what was removed anywhere."""
        source = self.profiles.get(page.index)
        if source is None:
            return []
        cleaned, texts = icc.clean_icc(source, removed)
        name = f"page {page.index} ({page.role}) tag {ICC}"
        if cleaned == source:
            self.note(name, "keep", "K", "a colour profile whose texts are colour management's own words", "")
        else:
            shown = texts[0] if texts else ""
            self.note(name, "rebuild", "D", "the colour is kept, texts that nobody listed are blank", shown)
        return [OutTag(ICC, 7, cleaned)]

    def _description(self, page: Page, removed: list[str]) -> OutTag | None:
        kept: dict[str, str] = {}
        header = ""
        for place, text in self.texts[page.index]:
            if place.key == "header":
                header = text
            elif self.vocabulary.repeats(text, removed):
                if place.key in self.vital:
                    raise PlaceUnknown("a value the picture needs repeats something removed elsewhere")
                self.note(f"{place.name} key {place.key}", "drop", "X", "repeats something removed elsewhere", text)
            else:
                kept[place.key] = text
        return self.describe(page, kept, header)
