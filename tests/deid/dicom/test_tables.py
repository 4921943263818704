"""Our table is the standard's: held against what two packages say of it, and obeyed by the rules."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pytest
from pydicom.datadict import DicomDictionary

from mover.decide.dicom import confidentiality
from mover.decide.dicom.rules import _OWN, Judgements
from mover.decide.dicom.tables import _classes, attributes_of, class_name, kinds, registered, rows
from mover.model.deid import DicomRules

CLASSES = [
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "6.1", "7", "77.1.6", "88.33", "66.4", "481.5", "128")
]


FACTS = Path(__file__).parents[2] / "data" / "dicom" / "profile_facts.txt"
BASIC_2026C, BASIC_OLDER = "dicom-anonymizer basic 2026c", "idiscore basic"
# Every difference between our table and what the packages say, and why it is one.
NO_ROWS = {
    "50000000": "Curve Data stands in all groups 50xx: the rules drop curves, no row could list them",
    "60003000": "Overlay Data stands in all groups 60xx: the rules drop overlays",
    "60004000": "Overlay Comments, likewise",
    "(50xx,_xxxx)": "idiscore's words for curves",
    "(60xx,_3000)": "idiscore's words for overlay data",
    "(60xx,_4000)": "idiscore's words for overlay comments",
    "PrivateAttributes": "odd groups: the rules drop them, or keep what a profile lists by creator (option 113111)",
}
OTHERWISE = {
    "00081140": "X/Z/U*: the asterisk says that a sequence is meant whose UIDs are replaced; our table writes X/Z/U",
    "00082112": "likewise",
}
# What the rules do where Table E.1-1 says X, Z, D or U and nothing is dropped, emptied or replaced by a fixed word.
INSTEAD = {
    "uid": "U: replaced, the graph kept",
    "date": "option 113107 (modified dates): moved by the patient's own days, or emptied where the profile says so",
    "moment": "option 113107, likewise",
    "time": "option 113107: counted from the study's own time where uptake is measured, else removed",
    "sparse": "of a sequence stay codes of public schemes and a device's maker, which no text of anybody can hide in",
    "sequence": "the object means little without it: cleaned item by item",
    "patient": "Z/D: the patient's pseudonym",
    "name": "Z: the patient's pseudonym",
    "case": "Z: the case's own alias, so that files and tables still join",
    "block": "D: the block's own alias",
    "slide": "D: the slide's own alias",
}
CLEANED = {
    "ReferencedStudySequence", "ReferencedPerformedProcedureStepSequence", "ReferencedImageSequence",
    "SourceImageSequence", "AcquisitionContextSequence", "SpecimenPreparationSequence", "ContentSequence",
}  # fmt: skip


@cache
def facts() -> dict[str, dict[str, str]]:
    """What the packages said, by section, tag and action."""
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in FACTS.read_text("ascii").splitlines():
        if line.startswith("# "):
            section = line[2:].partition(";")[0]
            found[section] = {}
        else:
            tag, *_, action = line.split()
            found[section][tag] = action
    return found


def differing(section: str, ours: dict[int, str]) -> dict[str, str]:
    told = {tag: action for tag, action in facts()[section].items() if tag not in NO_ROWS}
    return {tag: action for tag, action in told.items() if ours.get(int(tag, 16)) != action}


def test_the_table_is_the_one_its_hash_names() -> None:
    """A certificate repeats the edition; an edited table must not keep its name."""
    assert hashlib.sha256(confidentiality.TABLE.encode()).hexdigest() == confidentiality.SHA256
    assert len(rows()) > 640


def test_every_action_is_the_one_that_two_packages_read_in_the_standard() -> None:
    """Made by `make_profile_facts.py`, which asks the packages where our table's maker reads their text."""
    basic = {tag: row.basic for tag, row in rows().items()}
    assert differing(BASIC_2026C, basic).keys() == OTHERWISE.keys()
    newer = {int(tag, 16) for tag in facts()[BASIC_2026C] if tag not in NO_ROWS}
    assert {tag for tag in differing(BASIC_OLDER, basic) if int(tag, 16) in newer} == OTHERWISE.keys()
    assert {f"{tag:08X}" for tag in basic} == {
        tag for section in (BASIC_2026C, BASIC_OLDER) for tag in facts()[section] if tag not in NO_ROWS
    }


@pytest.mark.parametrize("letter", "PUVICFMDSG")
def test_every_option_is_the_one_that_was_scraped_from_the_standard(letter: str) -> None:
    ours = {tag: row.options[letter] for tag, row in rows().items() if letter in row.options}
    section = f"idiscore option {letter}"
    assert differing(section, ours) == {}
    assert len(ours) == len(facts()[section].keys() - NO_ROWS.keys())


def test_where_the_rules_do_something_else_than_the_tables_action_it_is_for_a_listed_reason() -> None:
    """For every class of PS3.3: an attribute of the table is dropped, emptied, a fixed word, or in `INSTEAD`."""
    found: dict[str, set[str]] = {}
    for sop_class in _classes():
        judged = Judgements(sop_class, DicomRules())
        for tag in rows():
            rule = judged.rule(tag, sparse=False)
            if rule not in ("drop", "empty", "dummy"):
                found.setdefault(rule, set()).add(DicomDictionary[tag][4])
    assert found.keys() == INSTEAD.keys()
    assert found["sequence"] == CLEANED
    assert [found[rule] for rule in ("patient", "name", "case", "block", "slide")] == [
        {"PatientID"}, {"PatientName"}, {"AccessionNumber"}, {"SpecimenIdentifier"}, {"ContainerIdentifier"}
    ]  # fmt: skip


@pytest.mark.parametrize("sop_class", CLASSES)
def test_nothing_that_the_profile_removes_is_kept(sop_class: str) -> None:
    """Every row, under the default profile: removed, emptied, replaced, moved, or cleaned to the codes in it."""
    judged = Judgements(sop_class, DicomRules())
    allowed = {
        "drop",
        "empty",
        "dummy",
        "uid",
        "date",
        "moment",
        "time",
        "sparse",
        "sequence",
        "patient",
        "name",
        "case",
        "slide",
        "block",
    }
    assert {tag for tag in rows() if judged.rule(tag, sparse=False) not in allowed} == set()


@pytest.mark.parametrize("sop_class", CLASSES)
def test_what_no_object_of_the_class_lists_is_removed(sop_class: str) -> None:
    """The list says what may stay, not what must go."""
    judged = Judgements(sop_class, DicomRules())
    listed = attributes_of(sop_class)
    foreign = [tag for tag in kinds() if tag not in listed and judged.rule(tag, sparse=False) not in ("drop", "sparse")]
    from mover.decide.dicom.rules import GENERAL

    assert set(foreign) <= GENERAL and len(listed) > 200
    assert judged.rule(0x00191001, sparse=False) == judged.rule(0x00180000, sparse=False) == "drop"


def test_text_stays_only_where_the_rules_name_it() -> None:
    """No class lets any text pass by its kind alone."""
    for sop_class in CLASSES:
        judged = Judgements(sop_class, DicomRules())
        passing = {
            tag for tag in attributes_of(sop_class) if judged.rule(tag, sparse=False) in ("term", "maker", "text")
        }
        assert passing <= {tag for tag in _OWN} | {tag for tag in passing if judged.rule(tag, sparse=False) == "term"}
        assert not [tag for tag in passing if kinds()[tag] in ("PN", "LT", "UT", "ST")]


def test_classes_and_uids_are_known_by_name() -> None:
    assert class_name("1.2.840.10008.5.1.4.1.1.2") == "CT Image"
    assert class_name("1.2.840.10008.5.1.4.1.1.6") == class_name("1.2.840.10008.5.1.4.1.1.6.1")
    assert class_name("1.2.3") == "" and attributes_of("1.2.3") == frozenset()
    assert "1.2.840.10008.1.2.1" in registered() and "1.2.840.10008.88413377" not in registered()
