"""One object's re-reading by pydicom: what each element may say, by an allow-list written here a second time."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache
from itertools import chain
from typing import Final

from pydicom.datadict import DicomDictionary
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.uid import UID_dictionary

from mover.deid.dicom import masks
from mover.deid.dicom.outcome import ObjectPlan
from mover.deid.dicom.proof import Proof, WrittenFile
from mover.deid.dicom.samepixels import OFFSETS
from mover.deid.dicom.sought import search_of
from mover.errors import RedactionUnproven
from mover.model.deid import DicomRules

MEMO: Final = 50_000
DEPTH: Final = 32
_TEXT: Final = frozenset("AE LO SH PN ST LT UT UC UR".split())
_LISTED_TEXT: Final = re.compile(rb"[ -~]{0,64}")
_TERM: Final = re.compile(rb"(?!.*[0-9]{5})[ -~]{0,200}")
_WORDS: Final = re.compile(rb"[ -~]{0,1024}")
_NUMBERS: Final = re.compile(rb"[-+0-9.eE \\]*\0?")
_DAYS: Final = re.compile(rb"([0-9]{8}(\\[0-9]{8})*)? ?")
_MOMENTS: Final = re.compile(rb"[0-9]{8}([0-9]{0,6}(\.[0-9]{1,6})?)?(\\[0-9]{8}([0-9]{0,6}(\.[0-9]{1,6})?)?)* ?")
_CLOCK: Final = re.compile(rb"([0-9]{6}(\.[0-9]{1,6})?(\\[0-9]{6}(\.[0-9]{1,6})?)*)? ?")
_AGE: Final = re.compile(rb"(0[0-8][0-9]Y|090Y|[0-9]{3}[DWM])?")
_CODE: Final = re.compile(rb"[!-~]{0,16} ?")
_DUMMIES: Final = frozenset({b"", b"REMOVED", b"ANONYMOUS", b"0"})
# Text that may say more than a fixed word, and how.
_MAKERS: Final = frozenset({0x00080070, 0x00081090})
_MACHINES: Final = frozenset({
    0x00181210, 0x00181160, 0x00181180, 0x00181250, 0x00181251, 0x00180085, 0x00180024, 0x00189005, 0x00281054,
    0x00283004, 0x00281055, 0x00283003, 0x00541103, 0x00201040, 0x00185010, 0x00185020, 0x00480106, 0x00480207,
})  # fmt: skip
_CODED: Final = frozenset({0x00080100, 0x00080102, 0x00080104, 0x00080119, 0x00080120})
_METHOD: Final = 0x00120063
_DEVICE: Final = frozenset({
    0x00081010, 0x0018700A, 0x00400010, 0x00400011, 0x00400242, 0x300A00B2, 0x00080054, 0x00080055, 0x00081000,
    0x00321021, 0x00400001, 0x00400241, 0x00741234, 0x00741236, 0x21000070, 0x21000140, 0x00181000, 0x00181004,
    0x00181005, 0x00181007, 0x00181008, 0x00321020, 0x00500020, 0x04000563, 0x30080105, 0x300A0216, 0x3010002D,
    0x00189373, 0x30100043, 0x0016004F, 0x00160050, 0x00160051, 0x00181009, 0x00189367, 0x00189371, 0x0016004E,
    0x00203401,
})  # fmt: skip
_INSTITUTION: Final = frozenset({
    0x00080080, 0x00080081, 0x00081040, 0x00120030, 0x00120031, 0x00120060, 0x00120081, 0x04000564,
})  # fmt: skip
_PERSONAL: Final = frozenset({
    0x00100040, 0x00101010, 0x00101020, 0x00101030, 0x00102110, 0x001021A0, 0x001021C0, 0x00102203, 0x00380050,
    0x00380500, 0x00400012, 0x00102160,
})  # fmt: skip
_PALETTES: Final = frozenset({
    0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00281204, 0x00281221, 0x00281222,
    0x00281223, 0x00282000, 0x00283002, 0x00283006, 0x54001010, 0x00660016, 0x00660023, 0x00660029, 0x00660040,
    0x00660041, 0x00660042, 0x56000020, 0x00700022,
})  # fmt: skip
_NEVER: Final = frozenset({0x00420011, 0x00880200, 0x04000561, 0x04000550, 0x00100030, 0x04000520, 0xFFFAFFFA})
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_META: Final = (0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013)


class Session:
    """One search: the words of a patient, and the values that are known to be free of them."""

    def __init__(self, people: frozenset[str], places: frozenset[str]) -> None:
        self.search = search_of(people, places)
        self.checked: set[tuple[int, str, bytes]] = set()


class Rereading:
    """One object's re-reading."""

    def __init__(self, rules: DicomRules, plan: ObjectPlan, proof: Proof, session: Session) -> None:
        self._rules, self._proof, self._session = rules, proof, session
        self._plan = plan
        self.elements = 0
        self.searched_bytes = 0
        self._days = {_moved(one, proof.subject.offset_days) for one in plan.removed if _is_day(one)}
        # of a key, what it stands for in an attribute of 16 characters (SH) is its beginning
        self._own = {proof.subject.pseudonym, proof.number, *proof.keys.values()}
        self._own |= {one[:16] for one in proof.keys.values()}
        self.found: dict[int, bytes] = {}

    def read(self, file: WrittenFile) -> tuple[int, int] | None:
        """Every element; where the pixels' value lies, and how long it is (-1: encapsulated)."""
        head = file.head
        if head[:132] != bytes(128) + b"DICM":
            raise RedactionUnproven("the preamble is not empty")
        reader = io.BytesIO(head)
        reader.seek(132)
        meta = self._meta(reader)
        syntax = meta[0x00020010]
        implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
        # the first literal holds all up to the pixels but where long values are copied among the elements
        at = self._dataset(reader if file.is_plain else file.rewound(reader.tell()), implicit, little)
        self._check_flags(meta)
        return self._pixel_head(file, at, implicit, little) if at < file.size else None

    def _meta(self, file: io.BytesIO) -> dict[int, str]:
        found: dict[int, str] = {}
        tags = []
        for element in data_element_generator(file, False, True, stop_when=_behind_meta):
            tags.append(int(element.tag))
            found[int(element.tag)] = bytes(element.value or b"").decode("latin-1").strip(" \0")
        if tuple(tags) != _META:
            raise RedactionUnproven("file meta information that is not what may stand there")
        if found[0x00020013] != "MOVER" or not found[0x00020012].startswith("2.25."):
            raise RedactionUnproven("file meta information that names another writer")
        return found

    def _check_flags(self, meta: dict[int, str]) -> None:
        own = {tag: value.decode("latin-1").strip(" \0") for tag, value in self.found.items()}
        if meta[0x00020002] != own.get(0x00080016) or meta[0x00020003] != own.get(0x00080018):
            raise RedactionUnproven("file meta information that tells of another object")
        if own.get(0x00120062) != "YES" or not own.get(0x00120063):
            raise RedactionUnproven("an object that does not say it was de-identified")
        if own.get(0x00280303) != ("MODIFIED" if self._rules.dates == "shift" else "REMOVED"):
            raise RedactionUnproven("an object that does not say what became of its dates")

    def _dataset(self, file: io.BytesIO | WrittenFile, implicit: bool, little: bool) -> int:
        """All elements before the pixels; where these, or the end, begin."""
        last = 0
        checked = self._session.checked
        for element in data_element_generator(file, implicit, little, stop_when=_at_pixels):  # type: ignore[arg-type]
            tag = int(element.tag)
            if tag <= last:
                raise RedactionUnproven("elements that do not ascend")
            last = tag
            self.elements += 1
            value = element.value
            if value is None:
                value = b""
            if not isinstance(value, bytes):
                raise RedactionUnproven("a sequence of undefined length")
            vr = element.VR or _kind(tag)
            if tag in _FLAGS:
                self.found[tag] = value
            if (tag, vr, value) in checked:
                continue
            if self._check(tag, vr, value, implicit, little, 0) and len(checked) < MEMO and len(value) <= 4096:
                checked.add((tag, vr, value))
        return file.tell()

    def _pixel_head(self, file: WrittenFile, at: int, implicit: bool, little: bool) -> tuple[int, int]:
        head = file.range(at, min(file.size, at + 12))
        order = "<" if little else ">"
        group, number = struct.unpack(order + "HH", head[:4])
        if implicit:
            length, start = struct.unpack(order + "I", head[4:8])[0], at + 8
        else:
            length, start = struct.unpack(order + "I", head[8:12])[0], at + 12
        if group << 16 | number not in _PIXELS:
            raise RedactionUnproven("something that is no picture stands at the end")
        if length == 0xFFFFFFFF:
            return start, -1
        if start + length != file.size:
            raise RedactionUnproven("something stands behind the pixels")
        return start, length

    # --- values ----------------------------------------------------------------------------------------

    def _check(self, tag: int, vr: str, value: bytes, implicit: bool, little: bool, depth: int) -> bool:
        """Raises for a value that may not stand there. True where the answer holds for every object of the
        session, so that it need not be asked again; dates and UIDs are asked each time."""
        if tag >> 16 & 1:
            self._private(vr, value)
            return True
        if vr == "SQ" or (vr == "UN" and _kind(tag) == "SQ"):
            return self._items(tag, value, implicit or vr == "UN", little, depth + 1)
        kind = _kind(tag)
        if not kind or not tag & 0xFFFF or tag >> 24 in (0x50, 0x60) or (tag in _NEVER and value.strip(b" \0")):
            raise RedactionUnproven(f"an element ({tag >> 16:04X},{tag & 0xFFFF:04X}) that may not stand in the output")
        if vr != "UN" and not _compatible(vr, kind):
            raise RedactionUnproven("an element of another kind than the standard gives it")
        if kind == "UI":
            return self._uids(value)
        if kind in ("DA", "DT", "TM"):
            return self._times(kind, value)
        rule = self._form(tag, kind)
        parts = [one.rstrip(b" \0") for one in value.split(b"\\")] if kind in _TEXT else [value]
        if rule is None or not all(rule.fullmatch(one) for one in parts):
            raise RedactionUnproven(f"a value of ({tag >> 16:04X},{tag & 0xFFFF:04X}) that is not of its allowed form")
        self._search(tag, kind, value)
        return True

    def _items(self, tag: int, value: bytes, implicit: bool, little: bool, depth: int) -> bool:
        """A sequence's items, which have defined lengths and nothing between them."""
        if depth > DEPTH:
            raise RedactionUnproven("sequences too deep to be proved")
        at, steady = 0, True
        order = "<" if little else ">"
        while at < len(value):
            group, number, length = struct.unpack_from(order + "HHI", value, at)
            if (group, number) != (0xFFFE, 0xE000) or at + 8 + length > len(value):
                raise RedactionUnproven("a sequence that holds something else than items")
            inside = io.BytesIO(value[at + 8 : at + 8 + length])
            last = 0
            for element in data_element_generator(inside, implicit, little):
                found = element.value if element.value is not None else b""
                if int(element.tag) <= last or not isinstance(found, bytes):
                    raise RedactionUnproven("an item whose elements do not ascend")
                last = int(element.tag)
                self.elements += 1
                key = (last, element.VR or _kind(last), found)
                if key in self._session.checked:
                    continue
                sure = self._check(last, key[1], found, implicit, little, depth)
                if sure and len(found) <= 256 and len(self._session.checked) < MEMO:
                    self._session.checked.add(key)
                steady &= sure
            at += 8 + length
        return steady

    def _form(self, tag: int, kind: str) -> re.Pattern[bytes] | None:
        """What a value may look like; None for what may not stand at all. Fixed words and aliases always may."""
        if kind in _TEXT:
            return self._text_form(tag)
        if kind == "CS":
            return _WORDS
        if kind in ("DS", "IS"):
            return _NUMBERS
        if kind == "AS":
            return _AGE if self._rules.retain_patient_characteristics else re.compile(rb"")
        if kind in ("US", "SS", "UL", "SL", "SV", "UV", "FL", "FD", "AT", "OF", "OD", "OL", "OV"):
            return _ANY
        return _ANY if tag in _PALETTES else None

    def _text_form(self, tag: int) -> re.Pattern[bytes]:
        rules = self._rules
        if tag in _MAKERS or tag == _METHOD:
            return _LISTED_TEXT
        if tag in _MACHINES:
            return _TERM
        if tag in _CODED:
            return _LISTED_TEXT if tag == 0x00080104 else _CODE
        kept = (rules.retain_device and tag in _DEVICE) or (rules.retain_institution and tag in _INSTITUTION)
        kept = kept or (rules.retain_patient_characteristics and tag in _PERSONAL) or rules.descriptors == "clean"
        if kept and _kind(tag) != "PN":
            return _WORDS
        return _Aliases(self._own)  # type: ignore[return-value]

    def _uids(self, value: bytes) -> bool:
        if self._rules.retain_uids:
            return True
        own = True
        for one in value.rstrip(b"\0 ").decode("latin-1").split("\\"):
            if not one or one in UID_dictionary:
                continue
            own = False
            if one not in self._aliases():
                raise RedactionUnproven("a UID that is neither registered nor this site's own")
        return own

    def _aliases(self) -> frozenset[str]:
        found = _ALIAS_SETS.get(id(self._proof.uids))
        if found is None or found[0] is not self._proof.uids:
            _ALIAS_SETS.clear()
            found = (self._proof.uids, frozenset(self._proof.uids.values()))
            _ALIAS_SETS[id(self._proof.uids)] = found
        return found[1]

    def _times(self, kind: str, value: bytes) -> bool:
        if kind == "TM":
            if value.strip(b" \0") and not (self._proof.timed and _CLOCK.fullmatch(value)):
                raise RedactionUnproven("a time of day")
            return True
        if not value.strip(b" \0"):
            return True
        if not (_DAYS if kind == "DA" else _MOMENTS).fullmatch(value):
            raise RedactionUnproven("a date that is none")
        for one in value.rstrip(b" ").decode("ascii").split("\\"):
            if one[:8] not in self._days and not (self._proof.timed and kind == "DT"):
                raise RedactionUnproven("a date that is none of the source's, moved")
            if len(one) > 8 and not self._proof.timed:
                raise RedactionUnproven("a time of day")
        return False

    def _private(self, vr: str, value: bytes) -> None:
        if not self._rules.safe_private or vr not in ("LO", "SH", "CS", "DS", "IS", "US", "SS", "UL", "SL", "FL", "FD"):
            raise RedactionUnproven("a private element")
        self._search(0, vr, value)

    def _search(self, tag: int, kind: str, value: bytes) -> None:
        """Numbers are searched for long numbers, everything else for every word in every form."""
        if kind in ("DS", "IS"):
            if self._session.search.holds(value, True):
                raise RedactionUnproven("a number that names somebody")
            return
        text = value.strip(b" \0")
        if len(text) < 5 or (kind in _NUMBERS_OF and len(value) <= 64 and not _LETTERS.search(value)):
            return
        if tag in (0x00080104, _METHOD) or text in _DUMMIES or text.decode("latin-1") in self._own:
            return
        self.searched_bytes += len(value)
        search = self._session.search
        seeker = search.people if tag in _MAKERS else search.seeker
        if seeker.find(value) and not (kind == "CS" and _is_standard_word(text)):
            raise RedactionUnproven(f"a removed word is found again in ({tag >> 16:04X},{tag & 0xFFFF:04X})")


class _Aliases:
    """A form that only aliases and fixed words have."""

    def __init__(self, own: set[str]) -> None:
        self._own = own

    def fullmatch(self, value: bytes) -> bool:
        text = value.strip(b" \0")
        return text in _DUMMIES or text.decode("latin-1") in self._own


_NUMBERS_OF: Final = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "AT", "SV", "UV"})
# Three letters in a row in one byte or two, or anything but ASCII: short binary numbers that may be a word.
_LETTERS: Final = re.compile(rb"[!-~]{3}|([!-~]\0){3}|(\0[!-~]){3}|[\xc3-\xf4][\x80-\xbf]|([^\0][\x03-\x06]){3}")
_ANY: Final = re.compile(rb".*", re.S)
_TYPES: Final = frozenset(
    """original derived primary secondary localizer resampled thumbnail fluence magnitude imaginary reformatted average
    averaged epicardial obstetrical gated tomo corrected cardio chest brain breast abdomen pelvis spine neck knee head
    heart shoulder ankle wrist elbow foot hand extremity skull thorax axial sagittal coronal oblique perfusion
    diffusion projection reconstruction transmission emission attenuation""".split()
)
_FLAGS: Final = frozenset({
    0x00080016, 0x00080018, 0x00120062, 0x00120063, 0x00280303, *masks.ATTRIBUTES, *OFFSETS,
})  # fmt: skip
_ALIAS_SETS: dict[int, tuple[Mapping[str, str], frozenset[str]]] = {}


@cache
def _standard_words() -> frozenset[str]:
    """The words of the names of attributes and UIDs (PS3.6), which may be somebody's name, too."""
    names = chain((entry[2] for entry in DicomDictionary.values()), (entry[0] for entry in UID_dictionary.values()))
    return frozenset(word.lower() for name in names for word in re.findall("[A-Za-z]+", name)) | _TYPES


def _is_standard_word(text: bytes) -> bool:
    words = re.findall("[a-z0-9]+", text.decode("latin-1").lower())
    return all(word in _standard_words() or len(word) < 5 for word in words)


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in _PIXELS


def _kind(tag: int) -> str:
    entry = DicomDictionary.get(tag)
    return entry[0].split(" or ")[0] if entry else ""


def _compatible(vr: str, kind: str) -> bool:
    if vr == kind:
        return True
    families = ("OB OW OF OD OL OV US SS UN", "US SS UL SL SV UV FL FD AT OW UN")
    return any(vr in one.split() and kind in one.split() for one in families)


def _is_day(text: str) -> bool:
    return len(text) == 8 and text.isascii() and text.isdigit()


def _moved(text: str, days: int) -> str:
    try:
        moved = date(int(text[:4]), int(text[4:6]), int(text[6:])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04}{moved.month:02}{moved.day:02}"
