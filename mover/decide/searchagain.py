"""What records say of the patients of slides that are published already, and what a hit in a slide means.

A slide was proved clean of everything its own file said. When its patient's tables arrive, their names, numbers and
addresses are sought in what stands in the slide besides its pixels (design: deidentification 4, proof 2). The words
are those a released table would be searched for; words of several parts count in part, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from mover.decide.alignment import Prepared
from mover.decide.dicom.vocabulary import TERMS
from mover.decide.filenames import telling, words_of_name
from mover.decide.redaction.texts import SCANNERS
from mover.decide.released import fit, is_sought, names_of
from mover.decide.vocabulary import ONLY_SMALL, WORDS

WORDS_MAX: Final = 2000  # sought in one slide; a knot of wrong rows may tie half a hospital together

_PARTS: Final = re.compile(r"[\s,;|/\\()\[\]:_\"]+")
_DIGITS: Final = re.compile(rb"[0-9]+")
# a number of so many digits is nobody's by chance, wherever it stands; one of fewer only where it ends about there
_LONG, _CERTAIN, _BESIDE = 8, 12, 4


class Dictionary(Struct, frozen=True, array_like=True):
    """The words sought in these slides, and in those that earlier records tied to these patients. `left_out`: how many
    more words there were."""

    numbers: tuple[str, ...]
    words: tuple[str, ...]
    left_out: int = 0
    patients: tuple[str, ...] = ()


Cells = Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]


def dictionaries(prepared: Prepared, cells: Cells) -> list[Dictionary]:
    """What all rows (header and raw cells by table) that reach a slide say, with all rows of the same patient: also
    rows in conflict, which are used for nothing else."""
    by_scan: dict[int, dict[str, None]] = {}
    by_patient: dict[str, dict[str, None]] = {}
    for table in prepared.policy.tables:
        header, rows = cells[table.name]
        placement = fit(header, [table])
        outcomes, typed = prepared.matching.rows[table.name], prepared.rows[table.name]
        for raw, row, outcome in zip(rows, typed, outcomes, strict=True):
            words = dict.fromkeys(sought([*names_of(placement, raw), row.case or "", row.patient or ""]))
            if row.patient is not None:
                by_patient.setdefault(row.patient, {}).update(words)
            for scan in outcome.scans:
                by_scan.setdefault(scan, {}).update(words)
    return _grouped(prepared, by_scan, by_patient)


def _grouped(
    prepared: Prepared, by_scan: Mapping[int, dict[str, None]], by_patient: Mapping[str, dict[str, None]]
) -> list[Dictionary]:
    """One dictionary for all slides with the same words: making a word's forms costs more than a look."""
    groups: dict[tuple[str, ...], tuple[list[str], set[str]]] = {}
    for scan, words in by_scan.items():
        number, patient = prepared.matching.numbers[scan], prepared.matching.patients[scan]
        if number is not None:
            known = {**words, **by_patient.get(patient or "", {})}
            numbers, patients = groups.setdefault(tuple(sorted(known)), ([], set()))
            numbers.append(number)
            patients |= {patient} - {None}  # type: ignore[arg-type]
    return [
        Dictionary(tuple(sorted(numbers)), words[:WORDS_MAX], max(0, len(words) - WORDS_MAX), tuple(sorted(patients)))
        for words, (numbers, patients) in groups.items()
    ]


def sought(cells: Sequence[str]) -> Iterator[str]:
    """The words of a row worth seeking: whole cells, their parts, and what paths and file names spell."""
    for cell in cells:
        for word in (cell, *_PARTS.split(cell), *words_of_name(cell.replace("\\", "/"))):
            word = word.strip(" .'-")
            if is_sought(word) and any(telling([word])) and not _is_everybodys(word):
                yield word


def _is_everybodys(word: str) -> bool:
    """Words of the trade stand in slides rightly: of formats, of DICOM's terms, of medical and general English."""
    folded = word.casefold()
    return (folded in WORDS and folded not in ONLY_SMALL) or word in SCANNERS or word in TERMS


def tells(form: bytes, haystack: bytes) -> bool:
    """Whether a form that was found says anything. Letters always do. Digits inside a longer run of digits are a piece
    of a measure, of an offset or of a random UID, unless there are so many that no chance explains them."""
    if not form.isdigit() or len(form) >= _CERTAIN:
        return True
    return any(form in run.group() and _stands(form, run, haystack) for run in _DIGITS.finditer(haystack))


def _stands(form: bytes, run: re.Match[bytes], haystack: bytes) -> bool:
    text = run.group()
    if len(form) >= _LONG and len(text) <= len(form) + _BESIDE:
        return True
    fraction = haystack[max(0, run.start() - 1) : run.start()] == b"."
    return text.lstrip(b"0") == form.lstrip(b"0") and not fraction
