"""Coded entries (PS3.3 8.8): what of a code may stay.

A code of a public scheme is a concept, not a text. Its meaning is not believed: the dictionary's own words are
written where it has the code, and a fixed word where not. A code of a private scheme keeps its value when that is
short, for research code is joined by it; what the scheme is called and what the code means are left out, and where
the code stands for a person, only values too short to tell one person from others stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

PUBLIC: Final = frozenset(
    "DCM SCT SRT SNM3 SNOMED-RT UCUM LN LOINC FMA NCIt UMLS RADLEX IBSI RFC5646 RFC3066 ISO3166_1 ISO639_1 ISO639_2 "
    "I9 I9C I10 I10P ICDO3 C4 CD2 CPT HPC MSH ITIS_TSN PUBCHEM_CID NICIP DCMUID BARI NEU NYUMCCG UNS UBERON MA "
    "MAYOASRG MDC MDNS NDC RXNORM POS MGI ILX SDM ASTM-sigpurpose ACR BI CTV3 DC FDAUNII HI IHERO".split()
)
_VALUE: Final = re.compile(rb"[A-Za-z0-9./{}%\[\]*^+'_\-()]{1,16}")
_PRIVATE_VALUE: Final = re.compile(rb"[A-Za-z0-9._\-]{1,16}")
_PERSON_VALUE: Final = re.compile(rb"[A-Za-z0-9._\-]{1,4}")

# Code sequences that stand for a person or a place of a person.
PERSONS: Final = frozenset({
    0x0040A088, 0x00401101, 0x00700086, 0x00080096, 0x00081049, 0x00081052, 0x00081062, 0x00081072, 0x0040000B,
    0x00401011, 0x00080082, 0x0040A358, 0x00404009, 0x00120074,
})  # fmt: skip
PRIVATE_SCHEME: Final = b"99PRIVATE "
MEANING: Final = "see code"


@cache
def _dictionary() -> dict[tuple[str, str], str]:
    """The meanings of PS3.16's codes as pydicom has them."""
    from pydicom.sr._concepts_dict import concepts

    found: dict[tuple[str, str], str] = {}
    table: Mapping[str, Mapping[str, Any]] = concepts
    for scheme, keywords in table.items():
        for codes in keywords.values():
            found |= {(scheme, value): entry[0] for value, entry in codes.items()}
    return found


def meaning_of(scheme: str, value: str) -> str:
    """The dictionary's words when they are short ASCII, as a Code Meaning must be."""
    known = _dictionary().get((scheme, value), MEANING)
    return known if known.isascii() and len(known) <= 64 else MEANING


def is_public(scheme: bytes) -> bool:
    return scheme.strip(b" \0").decode("latin-1") in PUBLIC


def fits(value: bytes, *, public: bool, person: bool) -> bool:
    rule = _VALUE if public else _PERSON_VALUE if person else _PRIVATE_VALUE
    return rule.fullmatch(value.strip(b" \0")) is not None
