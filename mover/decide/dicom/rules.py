"""Which rule an attribute falls under (PS3.15 Annex E, narrowed to an allow-list by type).

Order of judgement for one tag of one class:

1. Odd groups, group lengths, curves, overlays and whatever PS3.3 does not list for the class: removed. A short list
   of acquisition attributes may stand in any class, for real files carry them where the standard does not say so.
2. What has a rule of its own here (`_OWN`): the replacements of identifiers and what the profile must leave usable.
3. What stands in Table E.1-1: its action, with the options of the profile. Dates and UIDs are replaced (options
   113107 and the default of the basic profile), an option that keeps is taken only when the profile says so.
4. The rest by its value representation: numbers, codes and enumerated words may stay when their value is of that
   form; text is removed but for a short list of terms that machines write.

A sequence that the table removes or empties is not kept: of its content remain the codes of public schemes and the
maker and model of a device (`sparse`), for these hold no text of anybody's, and researchers count on them.
"""

from __future__ import annotations

from typing import Final, Literal

from mover.decide.dicom.tables import Row, attributes_of, kinds, rows
from mover.model.deid import DicomRules

Rule = Literal[
    "drop", "empty", "dummy", "uid", "date", "moment", "time", "number", "measure", "word", "open word", "maker",
    "term", "text", "bytes", "picture", "sequence", "sparse", "patient", "name", "case", "slide", "block", "code",
    "age", "descriptor",
]  # fmt: skip

TEXT_KINDS: Final = frozenset("AE LO SH PN ST LT UT UC UR".split())
_NUMBER_KINDS: Final = frozenset("US SS UL SL SV UV FL FD AT".split())
_DATES: Final[dict[str, Rule]] = {"DA": "date", "DT": "moment", "TM": "time"}

REFUSED_CLASSES: Final = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in ("104.1", "104.2", "104.3", "104.4", "104.5", "66", "66.5", "66.6", "200.1", "200.3")
) | {"1.2.840.10008.1.3.10"}

_OWN: Final[dict[int, Rule]] = {
    0x00080005: "drop",  # Specific Character Set: all that stays is ASCII
    0x00100020: "patient",
    0x00100010: "name",
    0x00080050: "case",
    0x00400512: "slide",
    0x00400551: "block",
    0x00100030: "empty",  # Patient's Birth Date: moved dates would tell the age
    0x00080070: "maker",
    0x00081090: "maker",
    0x00080008: "open word",
    0x00080060: "open word",
    0x00180015: "open word",
    0x00180020: "open word",
    0x00180021: "open word",
    0x00185100: "open word",
    0x00282110: "open word",
    0x00080100: "code",
    0x00080102: "code",
    0x00080104: "code",
    0x00080119: "code",
    0x00080120: "code",
    0x0008010C: "drop",  # Coding Scheme UID: says no more than the designator, or is somebody's own
    0x00080110: "drop",  # Coding Scheme Identification Sequence
    0x0040A160: "dummy",  # Text Value
    0x0040A123: "dummy",  # Person Name
    0x0040A122: "time",
    0x00120062: "drop",  # said anew below
    0x00120063: "drop",
    0x00120064: "sparse",  # what others did before us stays said
    0x00280303: "drop",
    0x00280301: "drop",
    0x00282000: "bytes",  # ICC Profile
    0x00880200: "drop",  # Icon Image Sequence: a picture nobody looked at
    0x04000561: "drop",  # Original Attributes Sequence: what stood there before somebody else cleaned it
    0x04000550: "drop",
    0x04000551: "drop",
    0xFFFAFFFA: "drop",
    0x00620005: "dummy",  # Segment Label, type 1
    0x00480106: "term",  # Optical Path Identifier
    0x00480207: "term",
    0x00209421: "drop",
    0x00620020: "drop",  # Tracking ID
    0x00102201: "drop",
    0x00102202: "sparse",
    0x00080081: "drop",
    0x00700080: "dummy",  # Content Label, a word people choose
    0x00700081: "drop",
    0x00080201: "drop",
}

# Sequences of Table E.1-1 that are cleaned and kept, because the object means little or cannot be read without.
_CLEANED: Final = frozenset({0x00081140, 0x00082112, 0x00081111, 0x00081110, 0x0040A730, 0x00400555, 0x00400610})
_GRAPHICS: Final = frozenset({0x00700001})

# Terms that machines write and that are needed to understand the picture. All other text is removed.
_TERMS: Final = frozenset({
    0x00181210,  # Convolution Kernel
    0x00181160, 0x00181180,  # Filter Type, Collimator/Grid Name
    0x00181250, 0x00181251, 0x00180085,  # Receive and Transmit Coil Name, Imaged Nucleus
    0x00180024, 0x00189005,  # Sequence Name, Pulse Sequence Name
    0x00281054, 0x00283004,  # Rescale Type, Modality LUT Type
    0x00281055, 0x00283003,  # explanations of windows and LUTs
    0x00541103,  # Reconstruction Method
    0x00201040,  # Position Reference Indicator
    0x00185010, 0x00185020,  # Transducer Data, Processing Function
})  # fmt: skip

_PICTURES: Final = frozenset({
    0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00281204, 0x00281221, 0x00281222,
    0x00281223, 0x00283006, 0x00283002, 0x54001010, 0x00660016, 0x00660023, 0x00660029, 0x00660040, 0x00660041,
    0x00660042, 0x56000020, 0x00700022,
})  # fmt: skip

# May stand in any class: what a picture needs to be drawn, measured and told apart.
GENERAL: Final = frozenset({
    0x00080008, 0x00080016, 0x00080018, 0x00080020, 0x00080021, 0x00080022, 0x00080023, 0x0008002A, 0x00080030,
    0x00080031, 0x00080032, 0x00080033, 0x00080050, 0x00080060, 0x00080070, 0x00081090, 0x00080090, 0x00080100,
    0x00080102, 0x00080104, 0x00080119, 0x00080120, 0x00120064, 0x00081140, 0x00081150, 0x00081155, 0x00082112,
    0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00180015, 0x00180020, 0x00180021, 0x00180050, 0x00180060,
    0x00180080, 0x00180081, 0x00180087, 0x00180088, 0x00181150, 0x00181151, 0x00181152, 0x00181153, 0x00181164,
    0x00181314, 0x00185100, 0x00186011, 0x0020000D, 0x0020000E, 0x00200010, 0x00200011, 0x00200012, 0x00200013,
    0x00200020, 0x00200032, 0x00200037, 0x00200052, 0x00201041, 0x00280002, 0x00280004, 0x00280006, 0x00280008,
    0x00280009, 0x00280010, 0x00280011, 0x00280030, 0x00280034, 0x00280100, 0x00280101, 0x00280102, 0x00280103,
    0x00280106, 0x00280107, 0x00280120, 0x00280121, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281054,
    0x00281055, 0x00281056, 0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00282000,
    0x00282110, 0x00282112, 0x00282114, 0x0040A040, 0x0040A043, 0x0040A168, 0x0040A170, 0x00480006, 0x00480007,
    0x00480102, 0x00480112, 0x3004000E, 0x0018A001, 0x00089215, 0x00186012, 0x00186014, 0x00186016, 0x00186018,
    0x0018601A, 0x0018601C, 0x0018601E, 0x00186020, 0x00186022, 0x00186024, 0x00186026, 0x00186028, 0x0018602A,
    0x0018602C, 0x0018602E, 0x00283000, 0x00283002, 0x00283003, 0x00283004, 0x00283006, 0x00283010,
})  # fmt: skip

# What stands inside a sparse sequence: the parts of a code, and who made a device.
_SPARSE: Final = frozenset({0x00080070, 0x00081090, 0x00080100, 0x00080102, 0x00080104, 0x00080119, 0x00080120})


class Judgements:
    """The rule of every attribute for one SOP class under one profile."""

    def __init__(self, sop_class: str, rules: DicomRules) -> None:
        self._allowed = attributes_of(sop_class) | GENERAL
        self._rules = rules
        self._full: dict[int, Rule] = {}
        self._sparse: dict[int, Rule] = {}

    def rule(self, tag: int, *, sparse: bool) -> Rule:
        known = self._sparse if sparse else self._full
        found = known.get(tag)
        if found is None:
            found = known[tag] = self._sparsely(tag) if sparse else self._judge(tag)
        return found

    def _sparsely(self, tag: int) -> Rule:
        """Only sequences are gone through, for the codes in them; only codes and makers stay."""
        if tag in _SPARSE:
            return _OWN[tag]
        if tag >> 16 & 1 or _OWN.get(tag) == "drop":
            return "drop"
        return "sparse" if kinds().get(tag) == "SQ" else "drop"

    def _judge(self, tag: int) -> Rule:
        if tag >> 16 & 1 or not tag & 0xFFFF:
            return "drop"
        kind = kinds().get(tag, "")
        if tag in _OWN and (tag in self._allowed or _OWN[tag] == "drop"):
            return _OWN[tag]
        if tag not in self._allowed:
            return "sparse" if kind == "SQ" else "drop"  # a sequence is gone through for its codes
        row = rows().get(tag)
        return self._by_table(tag, row, kind) if row else _by_kind(tag, kind)

    def _by_table(self, tag: int, row: Row, kind: str) -> Rule:
        kept = _kept(row, self._rules)
        if kind in _DATES:
            return _DATES[kind]
        if kind == "UI":
            return "uid"
        if kind == "SQ":
            cleaned = tag in _CLEANED or (tag in _GRAPHICS and self._rules.graphics == "clean")
            return "sequence" if cleaned or kept else "sparse"
        if kept:
            return "age" if kind == "AS" else "text" if kind in TEXT_KINDS else _by_kind(tag, kind)
        if kind in TEXT_KINDS and "D" in row.options and self._rules.descriptors == "clean":
            return "descriptor"
        if "D" in row.basic:
            return "dummy"
        return "empty" if "Z" in row.basic else "drop"


def _kept(row: Row, rules: DicomRules) -> bool:
    """Whether an option of the profile keeps what this row says (PS3.15 Table E.1-1, option columns)."""
    options = {"V": rules.retain_device, "I": rules.retain_institution, "C": rules.retain_patient_characteristics}
    return any(chosen and row.options.get(letter) in ("K", "C") for letter, chosen in options.items())


def is_retained(tag: int, rules: DicomRules) -> bool:
    """Whether the profile keeps this attribute's text: its words may then stand in the output."""
    row = rows().get(tag)
    return row is not None and _kept(row, rules)


def _by_kind(tag: int, kind: str) -> Rule:
    if tag in _PICTURES:
        return "picture"
    if kind in _DATES:
        return _DATES[kind]
    if kind in _NUMBER_KINDS:
        return "number"
    by_kind: dict[str, Rule] = {"UI": "uid", "SQ": "sequence", "CS": "word", "DS": "measure", "IS": "measure"}
    if kind in by_kind:
        return by_kind[kind]
    if kind in TEXT_KINDS and tag in _TERMS:
        return "term"
    return "picture" if kind in ("OF", "OD", "OL", "OV") else "drop"


def is_identity(tag: int) -> bool:
    """Whether the text of this attribute names or numbers somebody or something: such words are sought in every
    output. Descriptors (option D) are text about the examination and are only removed."""
    row = rows().get(tag)
    if row is None:
        return kinds().get(tag) == "PN"
    kind = kinds().get(tag, "LO")
    return kind in TEXT_KINDS and "D" not in row.options or kind in ("PN",)
