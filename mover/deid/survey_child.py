"""What runs in the parsing child for a survey (D16): what is in a file, and what the rules would make of it.

Nothing is compiled, proved or decoded: a slide's directories and the headers of a few tiles, and a DICOM object's
elements are read, not its pixels, so a folder of terabytes is surveyed at the speed of its headers. Answers hold
masked shapes only, but for the names of private creators, which the caller puts into a draft and nowhere else.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping

import msgspec
from pydicom.datadict import keyword_for_tag

import scanners
from mover.decide.dicom.desk import REASONS, creators_of
from mover.decide.dicom.tables import class_name
from mover.decide.redaction import DESKS, judge_slide, shape_of
from mover.decide.survey import UNLISTED, Fate, FileLook, PlaceSeen, masked_key
from mover.deid.child import FdSource
from mover.deid.dicom.gather import Gatherer, Look, survey_of
from mover.deid.dicom.plan import Engine
from mover.deid.folders import plan_mirax, plan_vms
from mover.deid.identity import Aliases, Subject
from mover.deid.slides import examine
from mover.errors import IdentityError, IntegrityError, LimitExceeded, MoverError
from mover.model.deid import DicomRules, PixelRules
from mover.model.slides import Decision, Page, Pixels, SlideScan
from mover.model.source import ByteSource
from scanners import families, mirax, vms
from scanners.dicom.walk import read_object
from scanners.tiff import looks_like_tiff

_REFUSALS = (IdentityError, IntegrityError, LimitExceeded)
SOP_CLASS = 0x00080016
TILES_SEEN = 16  # of each level: their headers
_FATES: dict[str, Fate] = {"keep": "kept", "rebuild": "rewritten", "drop": "dropped"}
_REASON_FATES: dict[str, Fate] = {
    "kept": "kept", "safe": "kept", "unlisted": "unknown", "emptied": "rewritten", "replaced": "rewritten",
    "uid": "rewritten", "date": "rewritten", "sequence": "rewritten", "descriptor": "rewritten",
}  # fmt: skip


# --- slides --------------------------------------------------------------------------------------------


def slide(fd: int, suffix: str, unwanted: list[str]) -> bytes:
    """One slide of one file."""
    return msgspec.msgpack.encode(_slide(FdSource(fd), suffix, unwanted))


def _slide(source: ByteSource, suffix: str, unwanted: list[str]) -> FileLook:
    scan = None
    try:
        scan = scanners.identify(source, suffix)
        examine(source, _sampled(scan))
        decisions = judge_slide(scan, unwanted=unwanted).decisions
    except _REFUSALS as refusal:
        return _refused(refusal, scan.family if scan else family_of(source, suffix))
    return FileLook(scan.family, places=(*places_of(decisions), *_unlisted(scan)))


def _sampled(scan: SlideScan) -> SlideScan:
    """The scan with a few tiles of each level: one program wrote them all, and a survey reads no terabytes."""
    return msgspec.structs.replace(scan, pages=tuple(map(_with_few_tiles, scan.pages)))


def _with_few_tiles(page: Page) -> Page:
    count = len(page.pixels)
    if count <= TILES_SEEN or page.restarts:
        return page
    chosen = sorted({at * (count - 1) // (TILES_SEEN - 1) for at in range(TILES_SEEN)})
    pixels = Pixels(*(array("Q", [every[at] for at in chosen]) for every in (page.pixels.offsets, page.pixels.counts)))
    return msgspec.structs.replace(page, pixels=pixels)


def folder(*given: object) -> bytes:
    """A slide of several files: as many descriptors as names and the main file, then names and suffix."""
    names, suffix = given[-2:]
    sources = [FdSource(fd) for fd in given[:-2] if isinstance(fd, int)]
    files = dict(zip(msgspec.convert(names, type=list[str]), sources[1:], strict=True))
    return msgspec.msgpack.encode(_folder(sources[0], files, str(suffix).lower()))


def _folder(main: ByteSource, files: Mapping[str, ByteSource], suffix: str) -> FileLook:
    try:
        if vms.is_mine(main):
            plan = plan_vms(main, files, vms.scan(main, files), known=(), number="")
        elif mirax.is_mine(suffix, files):
            plan = plan_mirax(main, files, mirax.scan(main, files), known=(), number="")
        else:
            return _slide(main, suffix, [])
    except _REFUSALS as refusal:
        return _refused(refusal, family_of(main, suffix))
    return FileLook(plan.family, places=places_of(plan.decisions))


def family_of(source: ByteSource, suffix: str) -> str:
    """The format's name, for a file that is refused; "" where nobody knows it."""
    head = source.read(0, min(132, source.size_bytes))
    if not head:
        return "empty file"
    return "TIFF" if looks_like_tiff(head) else families.of_bytes(source, suffix.lower())


def places_of(decisions: tuple[Decision, ...], *, every: bool = False) -> tuple[PlaceSeen, ...]:
    """Keys that no list has come from `_unlisted`, where each has its own masked name, unless `every` is wanted."""
    return tuple(
        PlaceSeen(one.place, "unknown" if one.reason == UNLISTED else _FATES[one.action], one.reason, one.shape,
                  one.times)
        for one in decisions if every or not one.place.endswith(" key (unlisted)") or one.reason != UNLISTED
    )  # fmt: skip


def _unlisted(scan: SlideScan) -> tuple[PlaceSeen, ...]:
    listed = DESKS[scan.family].keys
    found = Counter(
        PlaceSeen(f"{place.name} key {masked_key(place.key)}", "unknown", UNLISTED, shape_of(place.value))
        for place in scan.places
        if place.key and place.tag in listed and place.key not in listed[place.tag]
    )
    return tuple(msgspec.structs.replace(one, times=times) for one, times in found.items())


def _refused(refusal: MoverError, family: str, *, group: str = "") -> FileLook:
    return FileLook(family, group=group, code=refusal.code, what=refusal.what)


# --- DICOM ---------------------------------------------------------------------------------------------


def objects(*words: int | bytes) -> bytes:
    """Descriptors, then the packed rules."""
    *fds, packed = words
    rules = msgspec.msgpack.decode(bytes(packed), type=DicomRules)
    surveyor = _Surveyor(rules)
    return msgspec.msgpack.encode([surveyor.look_at(FdSource(int(fd))) for fd in fds])


class _Surveyor(Engine):
    """The engine's own desk, over stand-ins for people and UIDs: what it would decide, and no output."""

    def __init__(self, rules: DicomRules) -> None:
        # the desk keeps these very mappings, so that what each object adds is known to the desk of its context
        self._standins = Aliases(number="0", subjects={}, keys={}, uids={})
        super().__init__(aliases=self._standins, rules=rules, pixels=PixelRules())

    def look_at(self, source: ByteSource) -> FileLook:
        family, group = "DICOM", ""
        try:
            look = Look(source, read_object(source))
            survey = survey_of(look, Gatherer())
            family = survey.family
            group = " · ".join(one for one in (class_name(survey.sop_class), survey.modality[:16], survey.role) if one)
            for key in survey.identity.entities:
                self._standins.keys[key] = "0"
            self._standins.subjects[look.patient] = Subject("0", 1)
            self._standins.uids.update(dict.fromkeys(survey.identity.uids, "2.25.1"))
            self._look = look
            self._refuse(look)
            return self._judged(look, family, group)
        except _REFUSALS as refusal:
            return _refused(refusal, family, group=group)

    def _judged(self, look: Look, family: str, group: str) -> FileLook:
        words = self._gatherer.words(look)
        desk = self._room(look, self._subject(look), words, look.scan.explicit).desk
        own = creators_of(look.scan.elements)
        creators = own if self._rules.safe_private else {}
        safe = {one.creator for one in self._rules.safe_private}
        found: Counter[PlaceSeen] = Counter()
        for element in look.scan.elements:
            verdict = desk.element(element, creators=creators)
            creator = own.get(element.tag >> 16 << 16 | element.tag >> 8 & 0xFF) if element.tag >> 16 & 1 else None
            place = _named(element.tag, creator, safe)
            fate, reason = _REASON_FATES.get(verdict.reason, "dropped"), REASONS[verdict.reason][1]
            if element.tag == SOP_CLASS:
                fate, reason = "rewritten", "the object's class, which the engine writes itself"
            found[PlaceSeen(place, fate, reason)] += 1
        places = tuple(msgspec.structs.replace(one, times=times) for one, times in found.items())
        return FileLook(family, group, places=places, creators=tuple(sorted({*own.values()})))


def _named(tag: int, creator: str | None, safe: set[str]) -> str:
    if tag >> 16 & 1:
        if creator is None:
            return f"private group {tag >> 16:04X}"
        return f"private group {tag >> 16:04X} of {creator if creator in safe else masked_key(creator)}"
    word = keyword_for_tag(tag)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {word or 'of no standard'}"
