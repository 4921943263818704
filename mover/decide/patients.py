"""Whose number a patient's number is. Pure.

A number belongs to whoever issued it: two hospitals' equal numbers are two patients. Objects of DICOM may say who
issued theirs (0010,0021); tables and many objects do not. So a number's *home* is the first issuer that came with it:
what has no issuer is meant as that one's, and joins it; the equal number of any other issuer is somebody else's. Words
that programs write where they have no number are nobody's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from mover.decide.folding import fold

# as HL7 writes an identifier with its assigning authority (v2, CX)
OF: Final = "^^^"
_PLACEHOLDERS: Final = frozenset(
    """
    unknown unk unkn anon anonymous anonymised anonymized anonymise anonymize none null nil n/a na n.a n.a. nan no id
    noid test tests tester dummy patient name undefined unspecified unbekannt inconnu removed deleted redacted masked
    deidentified not available applicable known given
    """.split()
)
_SPLIT: Final = re.compile(r"[\s^=,;_:()<>\[\]{}\"'-]+")
_NOTHING: Final = re.compile(r"[0\W_]*|[x*?.#-]{2,}")


def says_no_id(text: str) -> bool:
    """Whether a program wrote this because it had no number and no name: zeros, dashes, UNKNOWN, Anonymous^Patient."""
    folded = fold(text)
    words = [word for word in _SPLIT.split(folded) if word]
    return all(word in _PLACEHOLDERS or _NOTHING.fullmatch(word) for word in words)


def of_issuer(key: str, issuer: str) -> str:
    """The key of a number with who issued it; where nobody says, the number alone."""
    return key if says_no_id(issuer) else f"{key}{OF}{fold(issuer)}"


def issued(key: str) -> tuple[str, str]:
    """The number's own key, and who issued it, or ""."""
    number, _, issuer = key.partition(OF)
    return (number, issuer) if number and issuer else (key, "")


def claims(keys: Iterable[str]) -> dict[str, str]:
    """Whose the home of each number would be, did these come first. In one order, whatever order they come in."""
    found: dict[str, str] = {}
    for number, issuer in sorted(issued(key) for key in keys):
        if issuer:
            found.setdefault(number, issuer)
    return found


def at_home(keys: Iterable[str], homes: Mapping[str, str]) -> dict[str, str]:
    """By each key the one under which the patient is known; `homes` are issuers by number."""
    settled = {}
    for key in keys:
        number, issuer = issued(key)
        settled[key] = number if homes.get(number) == issuer else key
    return settled


def one_patient(keys: Iterable[str]) -> bool:
    """Whether keys of one folder are one patient's: a number, and the same with its issuer."""
    found = set(keys)
    return len({issued(key)[0] for key in found}) <= 1 and len({issued(key)[1] for key in found} - {""}) <= 1
