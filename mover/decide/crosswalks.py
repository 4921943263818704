"""What of an honest broker's crosswalk may be taken over, line by line.

A pseudonym must be a name of ours or of the broker's, never the patient's own number; what stands is never
overwritten; two lines that contradict each other are both refused, because nobody can say which is right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from mover.model.ids import is_number

# ASCII letters and digits, so that it may stand in file names, tables and DICOM's LO
_PSEUDONYM = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Line(Struct, frozen=True, kw_only=True):
    """One line, its names folded as the vault finds them: a patient, or a file, and what stands for it."""

    line: int
    patient: str = ""
    pseudonym: str = ""
    offset_days: int | None = None
    file: str = ""
    number: str = ""


class Standing(Struct, frozen=True, kw_only=True):
    """What the vault holds of these lines: pseudonym and offset by patient, number by file; `taken` are pseudonyms and
    numbers that stand for somebody."""

    subjects: Mapping[str, tuple[str, int]]
    promises: Mapping[str, str]
    taken: frozenset[str]
    erased: frozenset[str]


class Problem(Struct, frozen=True):
    line: int
    code: str
    shape: str = ""


class Verdict(Struct, frozen=True):
    new: tuple[Line, ...]
    same: int
    problems: tuple[Problem, ...]


def is_pseudonym(text: str) -> bool:
    return _PSEUDONYM.match(text) is not None


def judge_lines(lines: Sequence[Line], standing: Standing) -> Verdict:
    new: dict[tuple[str, str], Line] = {}
    problems: list[Problem] = []
    same = 0
    contested = _contested(lines)
    for line in lines:
        code = _fault(line, standing, contested)
        key = (line.patient, line.file)
        if code == "same" or (not code and key in new):
            same += 1
        elif code:
            problems.append(Problem(line.line, code, masked(line.pseudonym or line.number)))
        else:
            new[key] = line
    return Verdict(tuple(new.values()), same, tuple(problems))


def masked(text: str) -> str:
    """The shape of a value: its length and kinds of characters, run by run."""
    kinds = ["9" if one.isdigit() else "A" if one.isalpha() else "." for one in text[:64]]
    return re.sub(r"(.)\1*", lambda run: f"{run[1]}{len(run[0])}", "".join(kinds))


def _fault(line: Line, standing: Standing, contested: frozenset[str]) -> str:
    if bool(line.patient) == bool(line.file):
        return "line-incomplete"
    if line.patient:
        return _patient_fault(line, standing, contested)
    return _file_fault(line, standing, contested)


def _patient_fault(line: Line, standing: Standing, contested: frozenset[str]) -> str:
    if not is_pseudonym(line.pseudonym):
        return "pseudonym-shape"
    if line.pseudonym.casefold() == line.patient:
        return "pseudonym-is-original"
    if line.patient in standing.erased:
        return "subject-erased"
    stands = standing.subjects.get(line.patient)
    if stands is not None:
        equal = stands[0] == line.pseudonym and line.offset_days in (None, stands[1])
        return "same" if equal else "patient-has-another"
    if line.pseudonym in standing.taken:
        return "pseudonym-taken"
    if line.patient in contested or line.pseudonym in contested:
        return "lines-contradict"
    return "offset-zero" if line.offset_days == 0 else ""


def _file_fault(line: Line, standing: Standing, contested: frozenset[str]) -> str:
    if not is_number(line.number):
        return "number-shape"
    stands = standing.promises.get(line.file)
    if stands is not None:
        return "same" if stands == line.number else "file-has-another"
    if line.number in standing.taken:
        return "number-taken"
    return "lines-contradict" if line.file in contested or line.number in contested else ""


def _contested(lines: Sequence[Line]) -> frozenset[str]:
    """Originals that are given two replacements, and replacements that are given to two originals."""
    pairs = {
        (line.patient or line.file, line.pseudonym or line.number, line.offset_days) for line in lines
    }  # fmt: skip
    originals = Counter(original for original, _, _ in pairs)
    drawn = Counter(given for given, _ in {(given, original) for original, given, _ in pairs})
    return frozenset(name for counted in (originals, drawn) for name, count in counted.items() if count > 1)
