"""The second look at a DICOM object (design: deidentification 4, proof 1-5).

It shares no parser and no list with the writer. pydicom reads the output, as a file that exists nowhere: literals from
the plan, copies from the source. Then

1. the file is what PS3.10 wants: a preamble of zeros, file meta information of the six allowed elements whose UIDs
   are the dataset's own, elements in strictly ascending order, nothing private, nothing behind the dataset;
2. every value is held against an allow-list written here a second time: text only in listed places and forms, names and
   identifiers only as the aliases say, UIDs only registered or the site's own, dates only the source's, moved;
3. everything that is text or bytes is searched for every word of the harvest in all its forms;
4. the pixels are the source's: the same ranges, copied, or equal to them outside of what was masked.

What was found clean once for the same words is not searched again for the next object of the series. Read `verify`.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from functools import cache
from itertools import chain
from typing import Final

import numpy as np
from blake3 import blake3
from msgspec import Struct
from pydicom import config
from pydicom.datadict import DicomDictionary
from pydicom.errors import BytesLengthException
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.uid import UID_dictionary

from mover.deid.dicom import masks
from mover.deid.dicom.codestreams import check_frame
from mover.deid.dicom.outcome import ObjectEvidence, ObjectPlan
from mover.deid.dicom.sought import search_of
from mover.deid.identity import Subject
from mover.deid.pixels import PixelFacts, PixelVerdict, Span
from mover.errors import RedactionUnproven
from mover.model.deid import DicomRules
from mover.model.recipe import Copy, Literal
from mover.model.source import ByteSource

VERIFIER: Final = "mover-dicom-1"
METHODS: Final = ("pydicom re-read", "second allow-list", "search in all forms", "pixel ranges")
SEEKERS: Final = 32
MEMO: Final = 50_000
DEPTH: Final = 32
_PARSER_ERRORS: Final = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, OSError, NotImplementedError, EOFError,
    RuntimeError, OverflowError, BytesLengthException, UnicodeError,
)  # fmt: skip

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


# Little and big endian tags of pixel data; only a guess which reader serves, either proves the same.
_PIXEL_MARKS: Final = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10", b"\xe0\x7f\x08\0", b"\xe0\x7f\x09\0")


class Picture(Struct, frozen=True):
    """How a native picture's bytes lie, as the source says it."""

    rows: int
    columns: int
    samples: int
    sample_bytes: int
    planar: bool


class Proof(Struct, frozen=True):
    """What the output may say: the aliases, the words it must not hold, and where the source's frames lie."""

    subject: Subject
    uids: Mapping[str, str]
    keys: Mapping[str, str]
    number: str
    people: frozenset[str]
    places: frozenset[str]
    frames: tuple[tuple[Span, ...], ...]
    verdict: PixelVerdict | None
    timed: bool
    picture: Picture | None = None
    facts: PixelFacts | None = None


class _File:
    """The output as a file for a reader: literals from memory, copies from the source. Only what is asked is read."""

    def __init__(self, source: ByteSource, plan: ObjectPlan) -> None:
        self._source = source
        self._placed = [(one.at, one.segment) for one in plan.recipe.placed()]
        self._starts = [at for at, _ in self._placed]
        self.size = plan.recipe.size_bytes
        first = plan.recipe.segments[0]
        self.head = first.data if isinstance(first, Literal) else b""
        self._at = 0
        self.name = "output"

    @property
    def is_plain(self) -> bool:
        """Whether the first literal reaches as far as a pixel element's head, or the end."""
        ends = self.head[-40:]
        return len(self._placed) == 1 or any(mark in ends for mark in _PIXEL_MARKS)

    def rewound(self, at: int) -> _File:
        self._at = at
        return self

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0 if whence == 0 else self._at if whence == 1 else self.size)
        return self._at

    def read(self, length: int = -1) -> bytes:
        end = self.size if length < 0 else min(self.size, self._at + length)
        data = self.range(self._at, end)
        self._at = max(self._at, end)
        return data

    def range(self, at: int, end: int) -> bytes:
        if at >= end:
            return b""
        number = bisect_right(self._starts, at) - 1
        start, segment = self._placed[number]
        if end <= start + segment.length:
            return self._piece(segment, at - start, end - start)
        found = []
        while at < end:
            start, segment = self._placed[number]
            upto = min(end, start + segment.length)
            found.append(self._piece(segment, at - start, upto - start))
            at, number = upto, number + 1
        return b"".join(found)

    def _piece(self, segment: Literal | Copy, start: int, end: int) -> bytes:
        if isinstance(segment, Literal):
            return segment.data[start:end]
        return self._source.read(segment.offset + start, end - start)

    def origins(self, at: int, length: int) -> Iterator[tuple[int, int, bytes | None]]:
        """A range as pieces: (source offset, length, None) of copies, (-1, length, bytes) of literals."""
        first = max(0, bisect_right(self._starts, at) - 1)
        for number in range(first, len(self._placed)):
            start, segment = self._placed[number]
            if start >= at + length:
                return
            low, high = max(at, start), min(at + length, start + segment.length)
            if low >= high:
                continue
            if isinstance(segment, Literal):
                yield -1, high - low, segment.data[low - start : high - start]
            else:
                yield segment.offset + low - start, high - low, None


class _Session:
    """One search: the words of a patient, and the values that are known to be free of them."""

    def __init__(self, people: frozenset[str], places: frozenset[str]) -> None:
        self.search = search_of(people, places)
        self.checked: set[tuple[int, str, bytes]] = set()


class Verifier:
    """Proves outputs one after the other; remembers what it proved of equal values."""

    def __init__(self, rules: DicomRules) -> None:
        self._rules = rules
        self._sessions: dict[object, _Session] = {}
        logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its remarks quote values (D10)
        config.settings.reading_validation_mode = config.IGNORE

    def verify(self, source: ByteSource, plan: ObjectPlan, proof: Proof) -> ObjectEvidence:
        """Evidence, or RedactionUnproven. The caller must not publish anything this did not pass."""
        file = _File(source, plan)
        session = self._session(proof, plan)
        look = _Look(self._rules, plan, proof, session)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = look.read(file)
        except _PARSER_ERRORS as error:
            raise RedactionUnproven("the second parser cannot read the output") from error
        digest = _check_pixels(file, source, pixels, proof, look.found)
        return ObjectEvidence(
            verifier=VERIFIER,
            methods=METHODS,
            strings_sought=len(session.search.seeker.strings),
            forms_sought=session.search.seeker.forms,
            bytes_searched=look.searched_bytes,
            elements_checked=look.elements,
            frames=len(proof.frames),
            pixel_bytes=sum(span.length for frame in proof.frames for span in frame),
            pixel_list_blake3=digest,
        )

    def _session(self, proof: Proof, plan: ObjectPlan) -> _Session:
        key = (proof.subject, proof.people, proof.places, plan.facts.transfer_syntax, plan.facts.sop_class)
        found = self._sessions.get(key)
        if found is None:
            if len(self._sessions) >= SEEKERS:
                self._sessions.clear()
            found = self._sessions[key] = _Session(proof.people, proof.places)
        return found


class _Look:
    """One object's re-reading."""

    def __init__(self, rules: DicomRules, plan: ObjectPlan, proof: Proof, session: _Session) -> None:
        self._rules, self._proof, self._session = rules, proof, session
        self._plan = plan
        self.elements = 0
        self.searched_bytes = 0
        self._days = {_moved(one, proof.subject.offset_days) for one in plan.removed if _is_day(one)}
        # of a key, what it stands for in an attribute of 16 characters (SH) is its beginning
        self._own = {proof.subject.pseudonym, proof.number, *proof.keys.values()}
        self._own |= {one[:16] for one in proof.keys.values()}
        self.found: dict[int, bytes] = {}

    def read(self, file: _File) -> tuple[int, int] | None:
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

    def _dataset(self, file: io.BytesIO | _File, implicit: bool, little: bool) -> int:
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

    def _pixel_head(self, file: _File, at: int, implicit: bool, little: bool) -> tuple[int, int]:
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
_FLAGS: Final = frozenset({0x00080016, 0x00080018, 0x00120062, 0x00120063, 0x00280303, *masks.ATTRIBUTES})
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


# --- pixels ------------------------------------------------------------------------------------------------


def _check_pixels(
    file: _File, source: ByteSource, pixels: tuple[int, int] | None, proof: Proof, told: Mapping[int, bytes]
) -> str:
    """Digest over the ordered source ranges that make the pixels: equal lists, equal bytes."""
    digest = blake3()
    if pixels is None:
        if proof.frames:
            raise RedactionUnproven("an object that lost its pixels")
        return digest.hexdigest()
    at, length = pixels
    if proof.verdict is not None and proof.verdict.masked:
        if length < 0 or not proof.verdict.boxes:
            raise RedactionUnproven("masked pixels that are not what a mask makes")
        _check_masked(file, source, at, length, proof, digest)
        _check_boxes(file, source, at, length, proof, told)
        return digest.hexdigest()
    if length < 0:
        _check_frames(file, source, at, proof, digest)
    else:
        _check_native(file, source, at, length, proof, digest)
    return digest.hexdigest()


def _check_native(file: _File, source: ByteSource, at: int, length: int, proof: Proof, digest: blake3) -> None:
    first = proof.frames[0][0].offset
    whole = sum(span.length for frame in proof.frames for span in frame)
    done = 0
    for offset, size, data in file.origins(at, length):
        if data is None:
            same = offset == first + done
        else:  # a pad, or pixels of a deflated dataset
            same = data == source.read(first + done, max(0, min(size, whole - done))).ljust(size, b"\0")
        if not same:
            raise RedactionUnproven("pixels that are not the source's")
        digest.update(struct.pack("<QQ", first + done, size))
        done += size
    if done not in (whole, whole + whole % 2):
        raise RedactionUnproven("pixels that are more or less than the source's")


def _check_masked(file: _File, source: ByteSource, at: int, length: int, proof: Proof, digest: blake3) -> None:
    """Native pixels differ from the source's inside the boxes only. Pixels that were decoded to be masked have no
    bytes to be compared with; they are decoded once more (`_check_boxes`)."""
    native = proof.verdict is not None and proof.verdict.written is None and proof.picture is not None
    first = proof.frames[0][0].offset
    whole = sum(span.length for frame in proof.frames for span in frame)
    done = 0
    for offset, size, data in file.origins(at, length):
        digest.update(data if data is not None else struct.pack("<QQ", offset, size))
        if native and data is None and offset != first + done:
            raise RedactionUnproven("pixels that are not the source's")
        if native and data is not None and done < whole:
            told = np.frombuffer(data[: whole - done], np.uint8)
            changed = np.flatnonzero(told != np.frombuffer(source.read(first + done, len(told)), np.uint8)) + done
            if not _inside(changed, proof):
                raise RedactionUnproven("pixels outside the masks were changed")
        done += size
    if native and done not in (whole, whole + whole % 2):
        raise RedactionUnproven("pixels that are more or less than the source's")


def _check_boxes(
    file: _File, source: ByteSource, at: int, length: int, proof: Proof, told: Mapping[int, bytes]
) -> None:
    """What the boxes hold is of one colour; what was decoded equals its source outside of them."""
    verdict, picture, facts = proof.verdict, proof.picture, proof.facts
    if verdict is None or facts is None:
        return
    if verdict.written is not None:
        size = facts.rows * facts.columns * verdict.written.samples * verdict.written.bits_allocated // 8
        if length not in (size * len(facts.frames), size * len(facts.frames) + 1):
            raise RedactionUnproven("masked pixels that are more or less than the source's")
        masks.check_decoded(
            source, facts, verdict.boxes, told, lambda start, size: file.range(at + start, at + start + size)
        )
    elif picture is not None:
        mask = masks.inside(verdict.boxes, picture.rows, picture.columns)
        shape = (picture.rows, picture.columns, picture.samples * picture.sample_bytes)
        planes = (picture.samples, picture.rows, picture.columns, picture.sample_bytes)
        size = shape[0] * shape[1] * shape[2]
        for frame in masks.sampled(len(proof.frames), picture.rows * picture.columns):
            made = np.frombuffer(file.range(at + frame * size, at + (frame + 1) * size), np.uint8)
            samples = made.reshape(planes).transpose(1, 2, 0, 3) if picture.planar else made.reshape(shape)
            masks.check_one_colour(samples, mask)


def _inside(changed: np.ndarray, proof: Proof) -> bool:
    """Whether every changed byte belongs to a pixel of a box."""
    picture, verdict = proof.picture, proof.verdict
    if picture is None or verdict is None or not len(changed):
        return True
    pixels = picture.rows * picture.columns
    sample = changed // picture.sample_bytes
    pixel = (sample % pixels) if picture.planar else (sample // picture.samples % pixels)
    row, column = pixel // picture.columns, pixel % picture.columns
    inside = np.zeros(len(changed), bool)
    for box in verdict.boxes:
        inside |= (row >= box.top) & (row < box.bottom) & (column >= box.left) & (column < box.right)
    return bool(inside.all())


def _check_frames(file: _File, source: ByteSource, at: int, proof: Proof, digest: blake3) -> None:
    """Each frame is one fragment made of pieces of the same frame of the source, in their order, and taken apart by
    another walk it is the source's without its remarks."""
    heads = iter(proof.frames)
    offset = at
    table = struct.unpack("<HHI", file.range(offset, offset + 8))
    if table[:2] != (0xFFFE, 0xE000):
        raise RedactionUnproven("encapsulated pixels without an offset table")
    starts = file.range(offset + 8, offset + 8 + table[2])
    offset += 8 + table[2]
    base, found = offset, []
    while True:
        group, number, length = struct.unpack("<HHI", file.range(offset, offset + 8))
        if (group, number) == (0xFFFE, 0xE0DD):
            break
        spans = next(heads, None)
        if (group, number) != (0xFFFE, 0xE000) or spans is None:
            raise RedactionUnproven("fragments that are not the source's frames")
        found.append(offset - base)
        _check_frame(file, offset + 8, length, spans, digest)
        _check_stream(file.range(offset + 8, offset + 8 + length), source, spans, proof)
        offset += 8 + length
    if next(heads, None) is not None or offset + 8 != file.size:
        raise RedactionUnproven("frames are missing, or something stands behind the pixels")
    if starts and list(struct.unpack(f"<{len(starts) // 4}I", starts)) != found:
        raise RedactionUnproven("an offset table that points beside the frames")


def _check_stream(made: bytes, source: ByteSource, spans: tuple[Span, ...], proof: Proof) -> None:
    if proof.facts is None:
        raise RedactionUnproven("compressed frames of which nothing is known")
    before = b"".join(source.read(span.offset, span.length) for span in spans)
    check_frame(
        made, before, syntax=proof.facts.transfer_syntax, pixels=proof.facts.rows * proof.facts.columns
    )  # fmt: skip


WRITTEN_BYTES: Final = 1 << 16  # of one frame: lengths told anew, a header without its thumbnail


def _check_frame(file: _File, at: int, length: int, spans: tuple[Span, ...], digest: blake3) -> None:
    last, written = -1, 0
    for offset, size, data in file.origins(at, length):
        if data is not None:
            written += size
            continue
        inside = any(span.offset <= offset and offset + size <= span.offset + span.length for span in spans)
        if not inside or offset < last:
            raise RedactionUnproven("a frame with bytes of another place")
        last = offset + size
        digest.update(struct.pack("<QQ", offset, size))
    if written > WRITTEN_BYTES or written > max(64, length):
        raise RedactionUnproven("a frame that was written anew")
