"""The generated tables as look-ups: what the standard says of a tag, a class and a UID."""

from __future__ import annotations

from functools import cache
from typing import Final

from msgspec import Struct

from mover.decide.dicom import attributes, confidentiality

ROOT: Final = "1.2.840.10008."


class Row(Struct, frozen=True):
    """A row of PS3.15 Table E.1-1: the basic action, and by option letter what the option does instead."""

    basic: str
    options: dict[str, str]


@cache
def rows() -> dict[int, Row]:
    found = {}
    for line in confidentiality.TABLE.splitlines():
        tag, basic, options, _ = line.split()
        marks = {one[0]: one[1:] for one in options.split(",")} if options != "-" else {}
        found[int(tag, 16)] = Row(basic, marks)
    return found


@cache
def kinds() -> dict[int, str]:
    """The value representation of every attribute of PS3.6; the first where it allows several."""
    found: dict[int, str] = {}
    kind = ""
    for line in attributes.KINDS.splitlines():
        if line.endswith(":"):
            kind = line[:-1]
        else:
            found |= {int(tag, 16): kind for tag in line.split()}
    return found


@cache
def _masks() -> dict[int, int]:
    found: dict[int, int] = {}
    mask = 0
    for line in attributes.ALLOWED.splitlines():
        if line.endswith(":"):
            mask = int(line[:-1], 16)
        else:
            found |= {int(tag, 16): mask for tag in line.split()}
    return found


@cache
def _classes() -> dict[str, tuple[int, str]]:
    lines = (line.split(" ", 2) for line in attributes.CLASSES.splitlines())
    return {uid: (int(number), name) for uid, number, name in lines}


# Retired classes that archives are full of, and the class that took their place (PS3.4).
_HEIRS: Final = {
    "1.2.840.10008.5.1.4.1.1.6": "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.3": "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.5": "1.2.840.10008.5.1.4.1.1.20",
    "1.2.840.10008.5.1.4.1.1.12.3": "1.2.840.10008.5.1.4.1.1.12.1",
}


@cache
def class_name(uid: str) -> str:
    """The standard's name of a storage class that PS3.3 describes, "" for all others."""
    return _classes().get(_HEIRS.get(uid, uid), (0, ""))[1]


@cache
def attributes_of(uid: str) -> frozenset[int]:
    """Every attribute that PS3.3 lists anywhere in an object of this class."""
    number, name = _classes().get(_HEIRS.get(uid, uid), (0, ""))
    bit = 1 << number
    return frozenset(tag for tag, mask in _masks().items() if mask & bit) if name else frozenset()


@cache
def registered() -> frozenset[str]:
    """UIDs that PS3.6 registers. Any other may say whose it is, also one that only begins like these."""
    return frozenset(ROOT + end for end in attributes.UIDS.split())
