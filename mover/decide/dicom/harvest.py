"""What an element says about people: the words to be sought in every output, and the UIDs and keys to be replaced.

Words come in two strengths. Strong ones name or number a person, a place or a device; they are sought in every form
and everywhere. Loose ones (dates, UIDs, whole descriptions) are sought as they are: a description may well repeat a
term that stays, such as the part of the body.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from mover.decide.dicom.rules import TEXT_KINDS, is_identity
from mover.decide.dicom.tables import kinds, registered

SHORTEST: Final = 3
LONGEST: Final = 256
_SPLIT: Final = re.compile(r"[\^=,;\\\s]+")
_CODECS: Final = {
    "ISO_IR 101": "iso8859-2", "ISO_IR 109": "iso8859-3", "ISO_IR 110": "iso8859-4", "ISO_IR 144": "iso8859-5",
    "ISO_IR 127": "iso8859-6", "ISO_IR 126": "iso8859-7", "ISO_IR 138": "iso8859-8", "ISO_IR 148": "iso8859-9",
    "ISO_IR 203": "iso8859-15", "ISO_IR 166": "tis-620", "ISO_IR 13": "shift_jis", "GB18030": "gb18030", "GBK": "gbk",
    "ISO_IR 87": "iso2022_jp_2", "ISO_IR 159": "iso2022_jp_2", "ISO_IR 149": "euc_kr", "ISO_IR 58": "gb2312",
}  # fmt: skip
_ESCAPE: Final = re.compile(rb"\x1b[ -/]+[0-~]")
# Numbers and names of places and machines, which may be a maker's name at the same time.
_PLACES: Final = frozenset({0x00080080, 0x00080081, 0x00081040, 0x0040A027, 0x00081010, 0x00080055, 0x00081000})


class Words(Struct, frozen=True):
    """What one element holds: strong words of people, of places, loose texts, and UIDs to be replaced."""

    people: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    uids: tuple[str, ...] = ()


NOTHING: Final = Words()


def codecs_of(specific_character_set: bytes) -> tuple[str, ...]:
    """The encodings a text may be in: what the object says, and what people write all the same."""
    told = specific_character_set.decode("latin-1").replace("ISO 2022 IR", "ISO_IR").split("\\")
    found = [_CODECS[one.strip(" \0")] for one in told if one.strip(" \0") in _CODECS]
    return (*dict.fromkeys(found), "utf-8", "latin-1")


def texts_of(raw: bytes, codecs: tuple[str, ...]) -> list[str]:
    """The value read in every encoding that can read it."""
    found = []
    for codec in codecs:
        data = _ESCAPE.sub(b"", raw) if codec in ("euc_kr", "gb2312") else raw
        try:
            found.append(data.decode(codec).strip(" \0"))
        except (UnicodeDecodeError, ValueError):
            continue
        if raw.isascii() and codec in ("utf-8", "latin-1"):
            break
    return list(dict.fromkeys(found))


def words_of(tag: int, vr: str, raw: bytes, codecs: tuple[str, ...]) -> Words:
    """The words of one element's value, which may stand at any depth."""
    kind = kinds().get(tag) or vr or ("LO" if tag >> 16 & 1 else "")
    if kind == "UI" or vr == "UI":
        return _uids(raw)
    if kind in ("DA", "DT", "TM"):
        text = raw.decode("latin-1").strip(" \0")
        dates = [one.replace(".", "")[:8] for one in text.split("\\")] if kind != "TM" else []
        return Words(loose=tuple(one for one in dates if len(one) == 8 and one.isdigit()))
    if kind not in TEXT_KINDS and vr not in TEXT_KINDS:
        return NOTHING
    if len(raw) > LONGEST * 16 or not raw.strip(b" \0"):
        return NOTHING
    texts = texts_of(raw, codecs)
    if kind == "PN" or vr == "PN":
        return Words(people=tuple(word for text in texts for word in name_words(text)))
    if tag >> 16 & 1 or not is_identity(tag):
        return Words(loose=tuple(text for text in texts if 8 <= len(text) <= LONGEST))
    words = tuple(
        one for text in texts for value in text.split("\\") for one in _identifiers(value) if one.strip()
    )
    return Words(places=words) if tag in _PLACES else Words(people=words)


def name_words(text: str) -> list[str]:
    """A person's name as a whole and by its parts; single letters are no names."""
    found = [one for one in _SPLIT.split(text) if len(one.strip(".")) >= SHORTEST]
    spoken = " ".join(found)
    return [*found, spoken] if len(found) > 1 else found


def _identifiers(value: str) -> list[str]:
    """An identifier as it stands, and an address line by line."""
    whole = value.strip()[:LONGEST]
    lines = [one.strip() for one in re.split(r"[\r\n]+|, ", whole)]
    return [one for one in dict.fromkeys([whole, *lines]) if len(one) >= SHORTEST]


def _uids(raw: bytes) -> Words:
    values = [one.strip(" \0") for one in raw.decode("latin-1").split("\\")]
    own = tuple(one for one in values if one and one not in registered())
    return Words(uids=own) if own else NOTHING
