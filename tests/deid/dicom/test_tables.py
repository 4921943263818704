"""Our table is the standard's: held against two packages where they are installed, and obeyed by the rules."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

import pytest

from mover.decide.dicom import confidentiality
from mover.decide.dicom.rules import _OWN, Judgements
from mover.decide.dicom.tables import attributes_of, class_name, kinds, registered, rows
from mover.model.deid import DicomRules

CLASSES = [
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "6.1", "7", "77.1.6", "88.33", "66.4", "481.5", "128")
]


def package(name: str, *parts: str) -> str:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"the package {name} is not installed: nothing to hold the table against")
    return Path(found.origin).parent.joinpath(*parts).read_text()


def test_the_table_is_the_one_its_hash_names() -> None:
    """A certificate repeats the edition; an edited table must not keep its name."""
    assert hashlib.sha256(confidentiality.TABLE.encode()).hexdigest() == confidentiality.SHA256
    assert len(rows()) > 640


def test_no_row_of_dicom_anonymizer_is_missing() -> None:
    text = package("dicomanonymizer", "dicom_anonymization_databases", "dicomfields_2026c.py")
    told = {int(a + b, 16) for a, b in re.findall(r"^    \(0x([0-9A-F]{4}), 0x([0-9A-F]{4})\)", text, re.M | re.I)}
    assert told and told <= rows().keys()


def test_no_row_of_idiscore_is_missing() -> None:
    text = package("idiscore", "_public_dicom.py")
    assert {int(tag, 16) for tag in re.findall(r'SingleTag\("([0-9a-f]{8})"\)', text)} <= rows().keys()


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
